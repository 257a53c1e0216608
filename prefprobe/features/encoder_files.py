"""What the small files of a sentence encoder say of it, without its weights: who reads it, and what it puts before a text."""

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from prefprobe.errors import BadConfig
from prefprobe.features.bert_files import beyond_bert

_WEIGHTLESS = ("Pooling", "Normalize", "Dropout", "BoW", "WordWeights")
_WIDTHS = ("hidden_size", "d_model", "dim", "n_embd")
_OF_OTHER_WIDTH = ("BoW", "CLIPModel", "CNN", "LSTM", "StaticEmbedding", "WordEmbeddings")
_POOLING_SWITCHES = {  # older encoders have a switch for each mode, newer ones name the mode; without either it is mean
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True)
class Module:
    """One step of an encoder, such as Transformer, Pooling or Dense."""

    kind: str
    path: str
    """Its folder within the encoder's; "" is the encoder's own."""
    config: dict[str, Any]

    @property
    def has_weights(self) -> bool:
        """Whether its folder must hold weights."""
        return self.kind not in _WEIGHTLESS


@dataclass(frozen=True)
class Encoder:
    """A sentence encoder as far as its small files tell."""

    modules: tuple[Module, ...]
    config: dict[str, Any]
    """config.json of its network; empty if it has none, as one of static embeddings."""
    longest: int
    """Tokens after which the network's texts are cut; 0 if the files do not say it."""
    prompt: str | None
    """What it puts before every text by its own default, None for nothing."""
    width: int | None
    """d, None if the files do not say it."""
    beyond: str | None
    """Why `bert.py` does not read it exactly, as a clause ("it pools by cls"); None if it does."""


def read_encoder(source: str, folder: Path) -> Encoder:
    """Read the JSON files of an encoder of sentence-transformers (Reimers & Gurevych 2019); errors call it `source`.

    Raises BadConfig for a folder that is no such encoder, and for one from which other vectors than its own would come:
    its code (never run) or its base (not pinned) lies elsewhere, or it treats queries and documents differently.
    """
    try:
        modules = _modules(source, folder)
        settings = _json(source, folder, "config_sentence_transformers.json", {})
        kind = settings.get("model_type", "SentenceTransformer")
        if kind != "SentenceTransformer":
            raise BadConfig(f"{source}: a {kind} gives no vector of a text; name a sentence encoder.")
        network = modules[0]
        config: dict[str, Any] = {}
        text: dict[str, Any] = {}
        tokens: dict[str, Any] = {}
        if network.kind == "Transformer":
            config = _json(source, folder / network.path, "config.json")
            text = _json(source, folder / network.path, "sentence_bert_config.json", {})
            tokens = _json(source, folder / network.path, "tokenizer_config.json", {})
            _refuse_elsewhere(source, config, text, tokens)
        prompt, longest = _prompt(source, settings), _longest(config, text, tokens)
        beyond = _beyond_mean(modules, prompt, settings) or next(
            beyond_bert(folder, config, text, tokens, longest), None
        )
        return Encoder(modules, config, longest, prompt, _width(modules, config, settings), beyond)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BadConfig(
            f"{source}: its JSON files are not those of a sentence-transformers encoder "
            f"({type(error).__name__}: {error}); save it again, or name another."
        ) from error


def _modules(source: str, folder: Path) -> tuple[Module, ...]:
    modules = []
    for listed in _json(source, folder, "modules.json"):
        path = PurePosixPath(listed["path"])
        package, _, kind = listed["type"].rpartition(".")
        if path.is_absolute() or ".." in path.parts:
            raise BadConfig(f"{source}: modules.json leads out of the encoder, to {path}; name another encoder.")
        if package.split(".")[0] != "sentence_transformers":
            raise _foreign(source, f"{listed['type']} in modules.json")
        if kind in ("Router", "Asym"):
            raise BadConfig(
                f"{source}: the encoder treats queries and documents differently ({kind}), and a task is neither; "
                "name an encoder that treats all texts alike."
            )
        missing: list[dict[str, Any]] = [] if kind in ("Pooling", "Dense") else [{}]
        config = {} if kind == "Transformer" else _json(source, folder, str(path / "config.json"), *missing)
        if not config.get("activation_function", "torch.").startswith("torch."):
            raise _foreign(source, f"{config['activation_function']} in {path / 'config.json'}")
        modules.append(Module(kind, "" if path == PurePosixPath() else str(path), config))
    if not modules:
        raise BadConfig(f"{source}: modules.json names no module; save the encoder again, or name another.")
    if (folder / modules[0].path / "adapter_config.json").is_file():
        raise BadConfig(
            f"{source}: the encoder is an adapter of a network that lies elsewhere (adapter_config.json); "
            "merge it into that network, save the whole, and name it."
        )
    return tuple(modules)


def _refuse_elsewhere(source: str, config: dict[str, Any], text: dict[str, Any], tokens: dict[str, Any]) -> None:
    for name, said in (("config.json", config), ("tokenizer_config.json", tokens)):
        if said.get("auto_map"):
            raise _foreign(source, f"auto_map in {name}")
    if text.get("tokenizer_name_or_path"):
        raise BadConfig(
            f"{source}: the encoder's tokenizer lies elsewhere (tokenizer_name_or_path in sentence_bert_config.json); "
            "save the encoder with its tokenizer, and name that."
        )


def _foreign(source: str, where: str) -> BadConfig:
    return BadConfig(
        f"{source}: the encoder brings code of its own ({where}), which is never run and without which other vectors "
        "may come out; name another encoder."
    )


def _prompt(source: str, settings: dict[str, Any]) -> str | None:
    """The default prompt's text. Prompts that are only listed are for uses that somebody must ask for, so none is taken."""
    name = settings.get("default_prompt_name")
    prompts = {"query": "", "document": "", None: None} | (settings.get("prompts") or {})
    if name not in prompts:
        raise BadConfig(
            f"{source}: config_sentence_transformers.json has the default_prompt_name {name} and no such prompt; "
            "correct it in a copy of the encoder."
        )
    return prompts[name] or None


def _longest(config: dict[str, Any], text: dict[str, Any], tokens: dict[str, Any]) -> int:
    lengths = [text.get("max_seq_length")]
    if lengths == [None]:
        lengths = [tokens.get("model_max_length", tokens.get("max_len")), config.get("max_position_embeddings")]
    return int(min((length for length in lengths if length), default=0))


def _pooling(module: Module) -> tuple[str, ...]:
    """The modes whose results stand side by side."""
    mode = module.config.get("pooling_mode")
    if mode is None:
        return tuple(m for switch, m in _POOLING_SWITCHES.items() if module.config.get(switch)) or ("mean",)
    return (mode,) if isinstance(mode, str) else tuple(mode)


def _beyond_mean(modules: tuple[Module, ...], prompt: str | None, settings: dict[str, Any]) -> str | None:
    """Why more happens to a text than that the states of a network are averaged and the mean is brought to length 1."""
    kinds = [module.kind for module in modules]
    if kinds[0] == "Transformer" and modules[0].path:
        return f"its network lies in {modules[0].path}"
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        return f"its modules are {', '.join(kinds)}"
    if _pooling(modules[1]) != ("mean",):
        return f"it pools by {' and '.join(_pooling(modules[1]))}"
    if any(value not in (None, "sentence_embedding") for module in modules[2:] for value in module.config.values()):
        return "its Normalize is not for the whole text's vector"
    if prompt is not None:
        return f"it puts {prompt!r} before every text"
    return "it keeps a part of each vector (truncate_dim)" if settings.get("truncate_dim") is not None else None


def _width(modules: tuple[Module, ...], config: dict[str, Any], settings: dict[str, Any]) -> int | None:
    inner = config.get("text_config") or config
    width = next((inner[name] for name in _WIDTHS if name in inner), None)
    for module in modules:
        if module.kind == "Dense":
            width = module.config.get("out_features")
        elif module.kind in _OF_OTHER_WIDTH:
            width = None
        elif module.kind == "Pooling" and width is not None:
            width *= len(_pooling(module))
    kept = settings.get("truncate_dim")
    return min(width, kept) if width is not None and kept is not None else width


def _json(source: str, folder: Path, name: str, *missing: dict[str, Any]) -> Any:
    """A JSON file; the last argument, if there is one, stands for a file that is not there."""
    if missing and not (folder / name).is_file():
        return missing[0]
    try:
        return json.loads((folder / name).read_bytes())
    except (OSError, ValueError) as error:
        raise BadConfig(
            f"{source}: not a sentence-transformers encoder (no readable {name}); "
            "save it with sentence-transformers, or name another."
        ) from error
