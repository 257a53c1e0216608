"""Whether the network that an encoder's small files describe is exactly the one that `bert.py` computes.

Whatever is not known for certain is taken for a no: sentence-transformers reads every encoder, only not without torch.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_SAME = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}
_NEVER = ("is_decoder", "add_cross_attention", "pruned_heads", "quantization_config")
_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings", "layer_norm_eps")
_TEXT = {  # what newer encoders say of how a text goes through the network: as it always did
    "transformer_task": "feature-extraction",
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "module_output_name": "token_embeddings",
}
_FILES = ("sentence_bert_config.json", "tokenizer_config.json", "tokenizer.json")
_SPECIAL = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}


def beyond_bert(
    folder: Path, config: dict[str, Any], text: dict[str, Any], tokens: dict[str, Any], longest: int
) -> Iterator[str]:
    """What keeps `bert.py` from reading the network, each as a clause ("its hidden_act is relu"); nothing if it reads it.

    `config`, `text` and `tokens` are config.json, sentence_bert_config.json and tokenizer_config.json, and `longest`
    the tokens after which they cut a text.
    """
    for key, value in ({"model_type": None} | config).items():
        if value != _SAME.get(key, value):
            yield f"its {key} is {value}"
    yield from (f"its config.json sets {key}" for key in _NEVER if config.get(key))
    yield from (f"its config.json lacks {key}" for key in _SIZES if key not in config)
    if (folder / "model.safetensors.index.json").is_file():
        yield "its weights lie in several files"
    yield from (f"it has no {name}" for name in _FILES if not (folder / name).is_file())
    for key, value in text.items():
        if key != "max_seq_length" and value and value != _TEXT.get(key):
            yield f"its sentence_bert_config.json sets {key}"
    if not 0 < longest <= config["max_position_embeddings"]:
        yield f"its texts are cut after {longest} tokens and it has {config['max_position_embeddings']} positions"
    yield from _beyond_wordpiece(folder, tokens)


def _beyond_wordpiece(folder: Path, tokens: dict[str, Any]) -> Iterator[str]:
    """Why tokenizer.json alone would cut a text into other tokens than transformers' BertTokenizer.

    The class takes the vocabulary out of tokenizer.json, and all else from tokenizer_config.json, special_tokens_map.json
    and itself (transformers 5.23, models/bert/tokenization_bert.py); `tokenizers` takes all of it out of tokenizer.json.
    """
    if tokens.get("tokenizer_class") not in (None, "BertTokenizer", "BertTokenizerFast"):
        yield f"its tokenizer is a {tokens['tokenizer_class']}"
    if tokens.get("truncation_side", "right") != "right":
        yield f"it cuts long texts on the {tokens['truncation_side']}"
    if (folder / "added_tokens.json").is_file():
        yield "it has added_tokens.json"
    special_file = folder / "special_tokens_map.json"
    if special_file.is_file() and "added_tokens_decoder" not in tokens:
        tokens = tokens | json.loads(special_file.read_bytes())
    for key in ("additional_special_tokens", "extra_special_tokens", "split_special_tokens", "processor_class"):
        if tokens.get(key):
            yield f"its tokenizer sets {key}"
    saved = json.loads((folder / "tokenizer.json").read_bytes())
    model, after = saved["model"], saved.get("post_processor") or {}
    vocabulary = model["vocab"]
    if not isinstance(vocabulary, dict):
        yield f"its tokenizer.json has a {model.get('type')}"
        return
    named = _SPECIAL | {key: value for key, value in tokens.items() if key.endswith("_token") and value}
    named = {key: value["content"] if isinstance(value, dict) else value for key, value in named.items()}
    names = {key: named[key] for key in _SPECIAL}
    for key, value in named.items():
        if isinstance(value, str) and value not in names.values():
            yield f"its tokenizer sets {key}"
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = {vocabulary.get(name): {"content": name, **plain} for name in names.values()}
    built: dict[str, Any] = {
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": tokens.get("tokenize_chinese_chars", True),
            "strip_accents": tokens.get("strip_accents"),
            "lowercase": tokens.get("do_lower_case", True),
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": {
            "type": "WordPiece",
            "unk_token": names["unk_token"],
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
        },
        "single": [
            {"SpecialToken": {"id": names["cls_token"], "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": names["sep_token"], "type_id": 0}},
        ],
        "special_tokens": {name: [vocabulary.get(name)] for name in (names["cls_token"], names["sep_token"])},
        "added_tokens": added,
        "direction": "Right",
    }
    if "added_tokens_decoder" in tokens:
        built["added_tokens_decoder"] = added
    found = {
        "normalizer": saved.get("normalizer"),
        "pre_tokenizer": saved.get("pre_tokenizer"),
        "model": {"type": "WordPiece"} | {key: value for key, value in model.items() if key != "vocab"},
        "single": after.get("single"),
        "special_tokens": {name: token["ids"] for name, token in after.get("special_tokens", {}).items()},
        "added_tokens": {each.pop("id"): each for each in saved.get("added_tokens", [])},
        "direction": (saved.get("truncation") or {}).get("direction", "Right"),
        "added_tokens_decoder": {int(id_): each for id_, each in tokens.get("added_tokens_decoder", {}).items()},
    }
    yield from (
        f"its tokenizer.json differs from a BertTokenizer in {key}" for key in built if found[key] != built[key]
    )
