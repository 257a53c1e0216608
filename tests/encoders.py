"""Small sentence encoders with random weights, written without torch, in the manner of real ones."""

import json
import string
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece

from prefprobe.settings import Config

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["story", "sea", "the", "##s", "é", "东", *string.ascii_letters, *(f"##{c}" for c in string.ascii_letters)]
VOCABULARY = {token: id_ for id_, token in enumerate([*SPECIAL, *WORDS])}
TEXTS = ["A story about the Sea", "seas", "?", "", "É a东 [SEP] x", "long " * 40, "the", "Naïve storys the\tsea \x00"]
D, INNER, LAYERS, POSITIONS = 32, 48, 2, 40
TRANSFORMER = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
NORMALIZE = {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}
DENSE = {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"}


def pooling(**config: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """An entry of modules.json and the module's config.json."""
    entry = {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}
    return entry, {"word_embedding_dimension": D} | config


NETWORK = (
    "config.json", "sentence_bert_config.json", "special_tokens_map.json", "tokenizer_config.json", "tokenizer.json"
)  # fmt: skip
TWO_POOLINGS = {"1_Pooling/config.json": pooling(pooling_mode_cls_token=True, pooling_mode_mean_tokens=True)[1]}
SENTENCE_T5 = {
    "modules.json": [TRANSFORMER, pooling()[0], DENSE, NORMALIZE | {"idx": 3, "name": "3", "path": "3_Normalize"}],
    "2_Dense/config.json": {"in_features": 768, "out_features": 512, "activation_function": "torch.nn.Identity"},
    "config.json": {"model_type": "t5", "d_model": 768},
}


def bert_files() -> dict[str, Any]:
    """The JSON files of a BERT with mean pooling, as sentence-transformers wrote them in its first years."""
    entry, config = pooling(pooling_mode_cls_token=False, pooling_mode_mean_tokens=True)
    return {
        "modules.json": [TRANSFORMER, entry, NORMALIZE],
        "1_Pooling/config.json": config,
        "config_sentence_transformers.json": {"__version__": {"sentence_transformers": "2.0.0"}},
        "sentence_bert_config.json": {"max_seq_length": 24, "do_lower_case": False},
        "config.json": {
            "architectures": ["BertModel"],
            "model_type": "bert",
            "hidden_act": "gelu",
            "hidden_size": D,
            "intermediate_size": INNER,
            "layer_norm_eps": 1e-12,
            "max_position_embeddings": POSITIONS,
            "num_attention_heads": 4,
            "num_hidden_layers": LAYERS,
            "pad_token_id": 0,
            "position_embedding_type": "absolute",
            "type_vocab_size": 2,
            "vocab_size": len(VOCABULARY),
        },
        "tokenizer_config.json": {
            "do_lower_case": True,
            "model_max_length": 512,
            "strip_accents": None,
            "tokenize_chinese_chars": True,
            "tokenizer_class": "BertTokenizer",
            **{f"{token.strip('[]').lower()}_token": token for token in SPECIAL},
        },
        "special_tokens_map.json": {f"{token.strip('[]').lower()}_token": token for token in SPECIAL},
        "tokenizer.json": json.loads(wordpiece().to_str()),
    }


def wordpiece() -> Tokenizer:
    """BERT's tokenizer over a few letters."""
    tokenizer = Tokenizer(WordPiece(VOCABULARY, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, VOCABULARY[token]) for token in ("[CLS]", "[SEP]")],
    )
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL])
    tokenizer.enable_truncation(8)  # for another length than the encoder's
    tokenizer.enable_padding(length=8)
    return tokenizer


def bert_weights(seed: int = 0) -> dict[str, np.ndarray]:
    """Weights of a BERT of this file's size, far enough from zero that every part of it shows in the vectors."""
    draw = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (len(VOCABULARY), D),
        "embeddings.position_embeddings.weight": (POSITIONS, D),
        "embeddings.token_type_embeddings.weight": (2, D),
    }
    sizes = {"attention.self.query": (D, D), "attention.self.key": (D, D), "attention.self.value": (D, D)}
    sizes |= {"attention.output.dense": (D, D), "intermediate.dense": (INNER, D), "output.dense": (D, INNER)}
    for layer in range(LAYERS):
        shapes |= {f"encoder.layer.{layer}.{name}.weight": size for name, size in sizes.items()}
        shapes |= {f"encoder.layer.{layer}.{name}.bias": size[:1] for name, size in sizes.items()}
    norms = [f"encoder.layer.{layer}.{part}output" for layer in range(LAYERS) for part in ("attention.", "")]
    for name in ("embeddings", *norms):
        shapes |= {f"{name}.LayerNorm.weight": (D,), f"{name}.LayerNorm.bias": (D,)}
    drawn = {name: draw.normal(scale=0.3, size=shape).astype(np.float32) for name, shape in shapes.items()}
    return {name: t + 1 if name.endswith("LayerNorm.weight") else t for name, t in drawn.items()}


def write_files(folder: Path, files: dict[str, Any]) -> None:
    """JSON files under `folder`; None is a file that is not there."""
    for name, content in files.items():
        if content is not None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(json.dumps(content))


def write_bert(folder: Path, files: dict[str, Any] | None = None, weights: dict[str, np.ndarray] | None = None) -> str:
    """A whole encoder; returns its folder as a source."""
    write_files(folder, bert_files() | (files or {}))
    save_file(weights or bert_weights(), folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


def study_of(**encoders: str) -> Config:
    """A study with these encoders. The first stands for the model too: any folder of weights can be pinned."""
    few = {"initial_degree": 3, "batch": 9, "max_rounds": 1}
    return Config.model_validate(
        {
            "name": "encoders",
            "model": {"source": next(iter(encoders.values()))},
            "encoders": encoders,
            "tasks": {"sources": ["demo"], "n_train": 48, "n_eval": 12},
            "train": few,
            "eval": few,
            "shift": {"experiments": ["persona"], "subset": {"prompts": 4, "tasks": 8}, "comparisons": 3},
        }
    )
