"""Sentence encoders of every kind against sentence-transformers, and what its modules compute against the same by hand.

The encoders are small and random, and saved by sentence-transformers itself in the manner of real ones.
"""

import json
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, StaticEmbedding, Transformer
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE, Unigram
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    DistilBertConfig,
    ModernBertConfig,
    MPNetConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    T5Config,
    T5EncoderModel,
    XLMRobertaConfig,
)

from prefprobe.errors import BadConfig
from prefprobe.features.encoder import describe, embed
from prefprobe.progress import Progress
from prefprobe.shift.prompted import prompted_tasks
from prefprobe.store.formats import read_json, read_npz
from prefprobe.store.steps import read_output
from prefprobe.study.run import Run
from tests.encoders import (
    NETWORK,
    TEXTS,
    TRANSFORMER,
    VOCABULARY,
    bert_files,
    bert_weights,
    pooling,
    study_of,
    wordpiece,
    write_bert,
)

pytestmark = pytest.mark.model
D = 32
LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
SIZES = {"hidden_size": D, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads take longer than one does for networks as small as these, much longer where others use the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Kind:
    """How a small encoder is made, and what is computed of a text's states (tokens, d) by hand."""

    config: Any
    tokenizer: Callable[[], PreTrainedTokenizerFast]
    pooling: str | tuple[str, ...]
    by_hand: Callable[[torch.Tensor], torch.Tensor]
    dense: bool = False
    prompts: dict[str, str] | None = None
    default: str | None = None
    longest: int | None = 24


def bytes_tokenizer(first: str | None, last: str, side: str = "right") -> PreTrainedTokenizerFast:
    """One token a byte, between `first` and `last`."""
    special = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "<mask>": 4}
    tokenizer = Tokenizer(BPE(special | {letter: i + 5 for i, letter in enumerate(LETTERS)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    around = [token for token in (first, last) if token]
    template = f"{first or ''} $A {last}".strip()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(token, special[token]) for token in around]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", padding_side=side,
        model_max_length=24,
    )  # fmt: skip


def unigram_tokenizer() -> PreTrainedTokenizerFast:
    pieces = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        ("▁", -2.0),
        *((c, -3.0) for c in "abcdefghijklmnopqrstuvwxyz"),
    ]
    tokenizer = Tokenizer(Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=24
    )


def bert_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = wordpiece()
    tokenizer.no_padding()
    tokenizer.no_truncation()
    names = {f"{n}_token": f"[{n.upper()}]" for n in ("pad", "unk", "cls", "sep", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=24, **names)


def around() -> PreTrainedTokenizerFast:
    return bytes_tokenizer("<s>", "</s>")


def mean(states: torch.Tensor) -> torch.Tensor:
    return states.mean(0)


def cls(states: torch.Tensor) -> torch.Tensor:
    return states[0]


def weighted(states: torch.Tensor) -> torch.Tensor:
    weights = torch.arange(1.0, len(states) + 1)[:, None]
    return (states * weights).sum(0) / weights.sum()


VOCAB = {"vocab_size": 5 + len(LETTERS), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
QWEN = {"head_dim": 8, "num_key_value_heads": 2, "max_position_embeddings": 64}
KINDS = {
    "mpnet": Kind(MPNetConfig(**SIZES, **VOCAB, max_position_embeddings=40), around, "mean", mean),
    "bge": Kind(BertConfig(**SIZES, vocab_size=len(VOCABULARY)), bert_tokenizer, "cls", cls),
    "e5": Kind(
        XLMRobertaConfig(**SIZES, **VOCAB, max_position_embeddings=40), around, "mean", mean,
        prompts={"query": "query: ", "passage": "passage: "}, default="query",
    ),
    "bge-m3": Kind(XLMRobertaConfig(**SIZES, **VOCAB, max_position_embeddings=40), around, "cls", cls),
    "qwen": Kind(
        Qwen3Config(**SIZES, **VOCAB, **QWEN), lambda: bytes_tokenizer(None, "</s>", "left"), "lasttoken",
        lambda states: states[-1], prompts={"query": "Instruct: find\nQuery:", "document": ""},
    ),
    "instructed-qwen": Kind(
        Qwen3Config(**SIZES, **VOCAB, **QWEN), lambda: bytes_tokenizer(None, "</s>", "left"), "lasttoken",
        lambda states: states[-1], prompts={"query": "Instruct: find\nQuery:"}, default="query", longest=None,
    ),
    "modernbert": Kind(ModernBertConfig(**SIZES, **VOCAB, cls_token_id=1, sep_token_id=2), around, "mean", mean),
    "distiluse": Kind(
        DistilBertConfig(dim=D, n_layers=2, n_heads=4, hidden_dim=48, vocab_size=261, pad_token_id=0), around, "mean",
        mean, dense=True,
    ),
    "sgpt": Kind(Qwen3Config(**SIZES, **VOCAB, **QWEN), around, "weightedmean", weighted),
    "two-poolings": Kind(
        XLMRobertaConfig(**SIZES, **VOCAB, max_position_embeddings=40), around, ("cls", "max"),
        lambda states: torch.cat([states[0], states.max(0).values]),
    ),
    "labse": Kind(BertConfig(**SIZES, vocab_size=len(VOCABULARY)), bert_tokenizer, "cls", cls, dense=True),
    "sentence-t5": Kind(
        T5Config(d_model=D, d_kv=8, d_ff=48, num_layers=2, num_heads=4, vocab_size=30, pad_token_id=0, eos_token_id=1),
        unigram_tokenizer, "mean", mean, dense=True,
    ),
}  # fmt: skip


def made(kind: Kind, folder: Path) -> Path:
    """An encoder of its kind, saved in `folder`."""
    torch.manual_seed(0)
    network = (T5EncoderModel if isinstance(kind.config, T5Config) else AutoModel.from_config)(kind.config)
    with torch.no_grad():
        for parameter in network.parameters():  # as drawn, vectors of all texts are nearly the same
            parameter.add_(torch.randn_like(parameter) * 0.3)
    network.save_pretrained(folder / "network")
    kind.tokenizer().save_pretrained(folder / "network")
    limit = {} if kind.longest is None else {"max_seq_length": kind.longest}
    modules: list[Any] = [Transformer(str(folder / "network"), **limit)]
    modules.append(Pooling(D, kind.pooling))
    width = modules[-1].pooling_output_dimension
    modules += [Dense(width, 24)] if kind.dense else []
    SentenceTransformer(
        modules=[*modules, Normalize()], prompts=kind.prompts, default_prompt_name=kind.default, device="cpu"
    ).save(str(folder / "encoder"), create_model_card=False)
    return folder / "encoder"


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: made(kind, tmp_path_factory.mktemp(name)) for name, kind in KINDS.items()}


def one_by_one(folder: Path | str, texts: list[str]) -> np.ndarray:
    model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
    return np.stack([model.encode([text], normalize_embeddings=True)[0] for text in texts])


@pytest.mark.parametrize("name", KINDS)
def test_equals_sentence_transformers(encoders: dict[str, Path], name: str) -> None:
    found = describe(str(encoders[name]), "")
    assert found.beyond is not None
    got = embed(str(encoders[name]), TEXTS)
    assert got.dtype == np.float32
    assert np.array_equal(got, one_by_one(encoders[name], TEXTS))
    assert got.shape == (len(TEXTS), found.width)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-6)
    assert np.ptp(got, axis=0).max() > 0.05  # texts differ, or nothing was compared


@pytest.mark.parametrize("name", KINDS)
def test_equals_what_is_computed_by_hand(encoders: dict[str, Path], name: str) -> None:
    kind, folder = KINDS[name], encoders[name]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    network = (T5EncoderModel if name == "sentence-t5" else AutoModel).from_pretrained(folder).eval()
    prompt = (kind.prompts or {}).get(kind.default or "", "")
    for text, got in zip(TEXTS, embed(str(folder), TEXTS), strict=True):
        batch = tokenizer([prompt + text], truncation=True, max_length=24, return_tensors="pt")
        with torch.inference_mode():
            vector = kind.by_hand(network(**batch).last_hidden_state[0])
        if kind.dense:
            weights = load_file(folder / "2_Dense" / "model.safetensors")
            vector = torch.tanh(weights["linear.weight"] @ vector + weights["linear.bias"])
        np.testing.assert_allclose(got, (vector / vector.norm()).numpy(), atol=1e-5)


@pytest.mark.parametrize("name", ["qwen", "mpnet", "e5"])
def test_a_text_has_the_same_bits_among_any_others(encoders: dict[str, Path], name: str) -> None:
    source = str(encoders[name])
    got = embed(source, TEXTS)
    order = list(range(len(TEXTS)))
    random.Random(0).shuffle(order)
    assert np.array_equal(embed(source, [TEXTS[i] for i in order]), got[order])
    assert np.array_equal(embed(source, TEXTS[1:2]), got[1:2])
    assert embed(source, []).shape == (0, D)
    # the others are there as padding, on the left for qwen, which the encoder itself bears up to rounding
    together = SentenceTransformer(source, device="cpu").encode(TEXTS, batch_size=8, normalize_embeddings=True)
    np.testing.assert_allclose(got, together, atol=1e-5)


def test_the_default_prompt_is_the_encoders_own(encoders: dict[str, Path]) -> None:
    assert describe(str(encoders["e5"]), "").prompt == "query: "
    assert describe(str(encoders["qwen"]), "").prompt is None
    with_prompt = embed(str(encoders["e5"]), ["the sea", "query: the sea"])
    model = SentenceTransformer(str(encoders["e5"]), device="cpu")
    bare = model.encode(["query: the sea"], prompt="", normalize_embeddings=True)[0]
    assert np.array_equal(with_prompt[0], bare)
    assert not np.allclose(with_prompt[1], bare, atol=1e-3)


def test_the_step_says_who_read_the_encoder_and_with_which_prompt(
    encoders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARGO_PROGRESS_FILE", str(tmp_path / "progress"))
    sources = {name: str(encoders[name]) for name in ("e5", "mpnet")} | {"bert": write_bert(tmp_path / "bert")}
    config = study_of(**sources)
    run = Run.create(str(tmp_path / "store"), config)
    assert {"encoder.e5.torch", "encoder.mpnet.torch"} == {pin for pin in run.pins if pin.endswith(".torch")}
    prompted = {r.row_id: f"{r.prompt}\n\n{r.text}" for r in prompted_tasks(config.shift, run.objects)}
    for first in ("tasks", "topics"):
        run.execute(run.nodes[first], Progress())
    about = {"d": D, "kind": "embedding", "layers": [0], "n_layers": 1}
    said: dict[str, dict[str, object]] = {
        "e5": {"reader": "sentence-transformers", "prompt": "query: "},
        "mpnet": {"reader": "sentence-transformers", "prompt": None},
        "bert": {},
    }
    for name, more in said.items():
        for node in (f"embed.{name}", f"embed.{name}.shift"):
            written, _ = run.execute(run.nodes[node], Progress())
            assert read_json(read_output(run.objects, written, "features.json")) == about | more
            part = read_npz(read_output(run.objects, written, "part-00000.npz"))
            if node.endswith(".shift"):
                rows = [prompted[id_] for id_ in part["task_ids"][:3]]
                assert np.array_equal(part["layer_0"][:3], embed(sources[name], rows))
                assert len(part["task_ids"]) == len(prompted)
            else:
                assert len(part["task_ids"]) == 60
            n = len(part["task_ids"])
            assert (tmp_path / "progress").read_text() == f"{n}/{n}\n"


def saved(folder: Path, target: Path, **changes: Callable[[dict], dict]) -> Path:
    """A copy of an encoder with changed JSON files (names without .json)."""
    shutil.copytree(folder, target)
    for name, change in changes.items():
        file = target / f"{name}.json"
        file.write_text(json.dumps(change(json.loads(file.read_text()))))
    return target


def test_whatever_the_files_say_it_is_computed_in_float32(encoders: dict[str, Path], tmp_path: Path) -> None:
    expected = one_by_one(encoders["mpnet"], TEXTS)
    low = saved(encoders["mpnet"], tmp_path / "low", config=lambda c: c | {"dtype": "bfloat16"})
    assert np.array_equal(embed(str(low), TEXTS), expected)
    assert not np.allclose(SentenceTransformer(str(low), device="cpu").encode(TEXTS), expected, atol=1e-4)
    weights = load_file(low / "model.safetensors")
    save_file({k: t.bfloat16() for k, t in weights.items()}, low / "model.safetensors", metadata={"format": "pt"})
    whole = saved(encoders["mpnet"], tmp_path / "whole")
    save_file({k: t.bfloat16().float() for k, t in weights.items()}, whole / "model.safetensors", {"format": "pt"})
    assert np.array_equal(embed(str(low), TEXTS), embed(str(whole), TEXTS))


def test_static_embeddings(tmp_path: Path) -> None:
    tokenizer = wordpiece()
    tokenizer.no_truncation()
    torch.manual_seed(0)
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=16)], device="cpu").save(str(tmp_path))
    texts = [text for text in TEXTS if text]
    assert np.array_equal(embed(str(tmp_path), texts), one_by_one(tmp_path, texts))
    half = {k: t.half() for k, t in load_file(tmp_path / "model.safetensors").items()}
    save_file(half, tmp_path / "model.safetensors")
    assert embed(str(tmp_path), texts).dtype == np.float32
    np.testing.assert_allclose(embed(str(tmp_path), texts), one_by_one(tmp_path, texts), atol=2e-3)
    with pytest.raises(BadConfig, match=r"vector of text 2 of 2 \(''\) is zero or not finite"):
        embed(str(tmp_path), ["sea", ""])


LONG = "a" * 60


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("config", lambda c: c | {"model_type": "no-such-type"}, "no-such-type"),
        ("config", lambda c: c | {"num_hidden_layers": 3}, r"16 missing or left over, such as encoder\.layer\.2\."),
        ("config", lambda c: c | {"hidden_size": 64}, "cannot read this encoder"),
        ("config", lambda c: c | {"hidden_size": "wide"}, "cannot read this encoder"),
        ("config_sentence_transformers", lambda c: c | {"requirements": {"torch": ">=99"}}, "cannot read this encoder"),
        ("sentence_bert_config", lambda c: c | {"no_such_key": 1}, "no_such_key"),
        ("tokenizer_config", lambda c: c | {"model_max_length": 100}, r"cannot embed text 2 of 2 \(60 characters\)"),
        ("1_Pooling/config", lambda c: c | {"pooling_mode": "best"}, "Invalid pooling mode"),
        ("2_Dense/config", lambda c: c | {"in_features": 7}, "cannot read this encoder"),
    ],
)
def test_what_cannot_be_read_is_told_in_one_sentence(
    encoders: dict[str, Path], tmp_path: Path, file: str, change: Callable[[dict], dict], said: str
) -> None:
    encoder = encoders["distiluse" if "Dense" in file else "bge-m3"]
    source = saved(encoder, tmp_path / "other", **{file: change})
    with pytest.raises(BadConfig, match=said) as caught:
        embed(str(source), ["the sea", LONG])
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{source}: ")


def test_fewer_blocks_than_there_are_weights_of(encoders: dict[str, Path], tmp_path: Path) -> None:
    source = saved(encoders["bge-m3"], tmp_path / "cut", config=lambda c: c | {"num_hidden_layers": 1})
    assert np.array_equal(embed(str(source), TEXTS), one_by_one(source, TEXTS))


def test_relative_positions_are_no_longer_computed_by_anyone(tmp_path: Path) -> None:
    relative = {"config.json": bert_files()["config.json"] | {"position_embedding_type": "relative_key"}}
    weights = bert_weights()
    for layer in range(2):
        weights[f"encoder.layer.{layer}.attention.self.distance_embedding.weight"] = np.ones((79, 8), np.float32)
    source = write_bert(tmp_path, relative, weights)
    assert describe(source, "").beyond == "its position_embedding_type is relative_key"
    with pytest.raises(
        BadConfig, match=r"2 missing or left over, such as encoder\.layer\.0\.attention\.self\.distance"
    ):
        embed(source, TEXTS)


@pytest.mark.parametrize(("module", "where"), [("Transformer", "the folder itself"), ("Dense", "2_Dense")])
def test_pickled_weights_alone_are_refused(encoders: dict[str, Path], tmp_path: Path, module: str, where: str) -> None:
    source = saved(encoders["distiluse"], tmp_path / "pickled")
    folder = source / ("" if module == "Transformer" else where)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(BadConfig, match=rf"its {module} \({where}\) holds no \*\.safetensors weights"):
        embed(str(source), TEXTS)
    assert one_by_one(source, TEXTS).shape == (len(TEXTS), 24)  # so it is the pickle that was refused


MEAN = {"pooling_mode_mean_tokens": True}
ADDED = {
    str(each["id"]): {k: each[k] for k in each if k != "id"} for each in bert_files()["tokenizer.json"]["added_tokens"]
}
BERTS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "no Normalize": {"modules.json": [TRANSFORMER, pooling()[0]]},
    "CLS": {"1_Pooling/config.json": pooling(pooling_mode_cls_token=True)[1]},
    "CLS by name": {"1_Pooling/config.json": pooling(pooling_mode="cls")[1]},
    "mean and max": {"1_Pooling/config.json": pooling(**MEAN, pooling_mode_max_tokens=True)[1]},
    "mean in a list": {"1_Pooling/config.json": pooling(pooling_mode=["mean"])[1]},
    "no mode": {"1_Pooling/config.json": pooling()[1]},
    "mean over the root of the length": {"1_Pooling/config.json": pooling(pooling_mode_mean_sqrt_len_tokens=True)[1]},
    "the prompt not pooled": {
        "1_Pooling/config.json": pooling(**MEAN, include_prompt=False)[1],
        "config_sentence_transformers.json": {"prompts": {"q": "the sea "}, "default_prompt_name": "q"},
    },
    "prompts of which none is the default": {"config_sentence_transformers.json": {"prompts": {"query": "sea "}}},
    "an empty default prompt": {"config_sentence_transformers.json": {"default_prompt_name": "document"}},
    "a part of each vector": {"config_sentence_transformers.json": {"truncate_dim": 8}},
    "another activation": {"config.json": {"hidden_act": "gelu_new"}},
    "causal": {"config.json": {"is_decoder": True}},
    "another epsilon": {"config.json": {"layer_norm_eps": 0.1}},
    "one head": {"config.json": {"num_attention_heads": 1}},
    "cased by config": {"tokenizer_config.json": {"do_lower_case": False}},
    "cased by tokenizer": {"tokenizer.json": {"normalizer": {"lowercase": False}}},
    "cased": {
        "tokenizer_config.json": {"do_lower_case": False}, "tokenizer.json": {"normalizer": {"lowercase": False}}
    },
    "Chinese words by config": {"tokenizer_config.json": {"tokenize_chinese_chars": False}},
    "accents by config": {"tokenizer_config.json": {"strip_accents": False}},
    "lower case first": {
        "sentence_bert_config.json": {"max_seq_length": 24, "do_lower_case": True},
        "tokenizer_config.json": {"do_lower_case": False}, "tokenizer.json": {"normalizer": {"lowercase": False}},
    },
    "cut on the left": {"tokenizer_config.json": {"truncation_side": "left"}},
    "cut on the left by tokenizer": {"tokenizer.json": {"truncation": {"direction": "Left"}}},
    "longer": {"sentence_bert_config.json": {"max_seq_length": 40}},
    "as long as the tokenizer says": {
        "sentence_bert_config.json": {"max_seq_length": None}, "tokenizer_config.json": {"model_max_length": 12}
    },
    "as long as there are positions": {"sentence_bert_config.json": {"max_seq_length": None}},
    "no settings": {"sentence_bert_config.json": None},
    "no tokenizer settings": {"tokenizer_config.json": None, "special_tokens_map.json": None},
    "other words for unknown": {"tokenizer_config.json": {"unk_token": "story"}, "special_tokens_map.json": None},
    "another word for unknown by tokenizer": {"tokenizer.json": {"model": {"unk_token": "[MASK]"}}},
    "a token more": {"tokenizer_config.json": {"additional_special_tokens": ["sea"]}},
    "a beginning of its own": {"tokenizer_config.json": {"bos_token": "sea"}},
    "the first token is the beginning": {"tokenizer_config.json": {"bos_token": "[CLS]"}},
    "special tokens listed": {
        "tokenizer_config.json": {"added_tokens_decoder": ADDED},
        "special_tokens_map.json": {"additional_special_tokens": ["sea"]},
    },
    "special tokens listed otherwise": {
        "tokenizer_config.json": {"added_tokens_decoder": {**ADDED, "5": ADDED["4"] | {"content": "story"}}}
    },
    "other words for unknown in spite of the map": {
        "tokenizer_config.json": {"added_tokens_decoder": ADDED, "unk_token": "story"}
    },
    "other words for unknown by the map": {"special_tokens_map.json": {"unk_token": "story"}},
    "tokens added aside": {"added_tokens.json": {"東": 70}},
    "special tokens are text": {"tokenizer_config.json": {"split_special_tokens": True}},
    "the tokenizer's own class": {"tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast"}},
    "no class": {"tokenizer_config.json": {"tokenizer_class": None}},
    "types of tokens": {"tokenizer.json": {"post_processor": {"single": [
        {"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 1}},
        {"SpecialToken": {"id": "[SEP]", "type_id": 1}}]}}},
    "short words": {"tokenizer.json": {"model": {"max_input_chars_per_word": 3}}},
    "as newer versions save it": {
        "sentence_bert_config.json": {
            "transformer_task": "feature-extraction", "module_output_name": "token_embeddings",
            "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
        },
        "1_Pooling/config.json": {"embedding_dimension": D, "pooling_mode": "mean", "include_prompt": True},
        "2_Normalize/config.json": dict.fromkeys(("module_input_name", "module_output_name"), "sentence_embedding"),
        "config_sentence_transformers.json": {
            "model_type": "SentenceTransformer", "prompts": {"query": "", "document": ""},
            "default_prompt_name": None, "similarity_fn_name": "cosine",
        },
        "tokenizer_config.json": {"model_max_length": 20},
    },
    "the first states": {"sentence_bert_config.json": {
        "max_seq_length": 24, "module_output_name": "token_embeddings",
        "modality_config": {"text": {"method": "forward", "method_output_name": ["hidden_states", 0]}}}},
}  # fmt: skip
EXACT = {
    "as it is", "no Normalize", "mean in a list", "no mode", "prompts of which none is the default",
    "an empty default prompt", "another epsilon", "one head", "cased", "longer", "as long as the tokenizer says",
    "as long as there are positions", "no class", "the first token is the beginning", "special tokens listed",
    "as newer versions save it",
}  # fmt: skip


def merged(name: str) -> dict[str, Any]:
    """The files of a BERT with those of a variant: a key within a file that takes settings, the whole file elsewhere."""
    before, files = bert_files(), {}
    for file, change in BERTS[name].items():
        if file == "tokenizer.json":
            files[file] = before[file] | {
                key: value if before[file][key] is None else before[file][key] | value for key, value in change.items()
            }
        elif file in ("config.json", "tokenizer_config.json") and change is not None:
            files[file] = before[file] | change
        else:
            files[file] = change
    return files


@pytest.mark.parametrize("name", BERTS)
def test_numpy_reads_a_bert_exactly_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    source = write_bert(tmp_path, merged(name))
    expected = one_by_one(source, TEXTS)
    got = embed(source, TEXTS)
    assert (describe(source, "").beyond is None) is (name in EXACT), describe(source, "").beyond
    np.testing.assert_allclose(got, expected, atol=1e-5, rtol=0)
    assert got.shape[1] == describe(source, "").width
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    if name in EXACT:
        assert np.array_equal(embed(source, TEXTS), got)
    else:
        assert np.array_equal(got, expected)
        with pytest.raises(BadConfig, match=r"sentence_transformers is not installed here; install prefprobe\[torch\]"):
            embed(source, TEXTS)


def test_a_network_in_a_folder_of_its_own(tmp_path: Path) -> None:
    moved = {"modules.json": [TRANSFORMER | {"path": "0_Transformer"}, pooling()[0]]} | dict.fromkeys(NETWORK)
    source = write_bert(tmp_path, moved | {f"0_Transformer/{name}": bert_files()[name] for name in NETWORK})
    (tmp_path / "model.safetensors").rename(tmp_path / "0_Transformer" / "model.safetensors")
    assert np.array_equal(embed(source, TEXTS), one_by_one(source, TEXTS))
    np.testing.assert_allclose(embed(source, TEXTS), embed(write_bert(tmp_path / "flat"), TEXTS), atol=1e-5)


def test_a_pooler_that_is_read_must_not_be_missing(tmp_path: Path) -> None:
    pooled = {"text": {"method": "forward", "method_output_name": "pooler_output"}}
    settings = {"max_seq_length": 24, "modality_config": pooled, "module_output_name": "sentence_embedding"}
    files = {"modules.json": [TRANSFORMER], "sentence_bert_config.json": settings}
    weights = {"pooler.dense.weight": np.eye(D, dtype=np.float32), "pooler.dense.bias": np.zeros(D, np.float32)}
    whole = write_bert(tmp_path / "whole", files, bert_weights() | weights)
    cls = write_bert(tmp_path / "cls", {"1_Pooling/config.json": pooling(pooling_mode_cls_token=True)[1]})
    states = embed(cls, TEXTS)
    assert np.array_equal(embed(whole, TEXTS), one_by_one(whole, TEXTS))
    assert np.array_equal(np.sign(embed(whole, TEXTS)), np.sign(states))  # the tanh of the first token's state
    with pytest.raises(BadConfig, match=r"2 missing or left over, such as pooler\.dense\.bias"):
        embed(write_bert(tmp_path / "missing", files), TEXTS)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_bert_in_half_precision(tmp_path: Path, dtype: torch.dtype) -> None:
    source = write_bert(tmp_path)
    weights = {k: t.to(dtype) for k, t in load_file(tmp_path / "model.safetensors").items()}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert describe(source, "").beyond is None
    np.testing.assert_allclose(embed(source, TEXTS), one_by_one(source, TEXTS), atol=1e-5)
