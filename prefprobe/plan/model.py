"""What can be known of a model before it is downloaded or loaded: its size, its shape, and how long prompts are for it."""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

from prefprobe.activations.context import context_of
from prefprobe.activations.memory import QUANTISED, gpus_for
from prefprobe.activations.templates import arguments_of, chosen, read_by, renderer
from prefprobe.activations.turns import Turns
from prefprobe.errors import BadConfig
from prefprobe.features.encoder_files import Encoder, read_encoder
from prefprobe.plan.gguf import read_header
from prefprobe.plan.prompts import PromptLengths
from prefprobe.settings import ModelSettings
from prefprobe.sources import SMALL_FILES, cache_root, cached, fetch, local_path

_HASHED = 1 << 30
"""Bytes of a GGUF file up to which its converted copy is looked for in the cache: that takes reading the file once."""
_SIZE = re.compile(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)([bm])(?![a-z0-9])")
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class ModelFacts:
    """A model as far as it is known on this machine; None is unknown."""

    name: str
    lengths: PromptLengths
    parameters: float | None
    by_name: bool
    """Whether the number of parameters is only what the name says."""
    weights: float | None
    """Bytes that are read to load it."""
    n_layers: int | None
    d: int | None
    context: int | None
    """Tokens that a prompt may have; also None if there is no limit."""
    takes: Sequence[str] = ()
    """Arguments of the chat template that a user may give."""
    held: float | None = None
    """Bytes of its weights on GPUs, in their type or quantised."""
    devices: int | None = None
    """GPUs that its settings ask for."""
    quantisation: str | None = None
    """Of its settings."""
    device: str = "auto"
    """Of its settings."""

    def gpus(self, memory: float) -> int | None:
        """How many GPUs of `memory` bytes a node takes for it."""
        return self.devices or (None if self.held is None else gpus_for(self.held, memory))


def model_facts(settings: ModelSettings, path: Path | None = None) -> ModelFacts:
    """What the files of `settings.source` on this machine say, or those at `path`. Nothing is downloaded or loaded.

    Raises BadConfig for a source that is neither here nor a hub id, for files that cannot be read, and for a chat template
    that a run would refuse.
    """
    path = path or local_path(settings.source) or cached(settings.source, settings.revision)
    found = {} if path is None else _of_gguf(path) if path.is_file() else _of_folder(path)
    counted = found.get("parameters")
    parameters = _parameters_by_name(settings.source) if counted is None else counted
    by_type = None if parameters is None else parameters * BYTES[settings.dtype]
    # a quantised model keeps embeddings and head in their type
    kept = min(parameters or 0, found.get("embeddings") or 0) if settings.quantisation else 0
    each = QUANTISED[settings.quantisation] if settings.quantisation else BYTES[settings.dtype]
    turns, takes = _turns(settings, found)
    return ModelFacts(
        name=settings.name or settings.source,
        lengths=PromptLengths(settings.chat, found.get("tokenizer"), turns),
        parameters=parameters,
        by_name=counted is None,
        weights=found.get("weights") or by_type,
        n_layers=found.get("n_layers"),
        d=found.get("d"),
        context=found.get("context"),
        takes=takes,
        held=None if parameters is None else kept * BYTES[settings.dtype] + (parameters - kept) * each,
        devices=settings.devices,
        quantisation=settings.quantisation,
        device=settings.device,
    )


def pinned_facts(settings: ModelSettings, revision: str) -> ModelFacts:
    """The same of one revision, whose files but the weights are downloaded. Raises also TemporaryFailure, as `fetch` does."""
    return model_facts(settings, fetch(settings.source, revision, SMALL_FILES))


def encoder_facts(source: str) -> Encoder | None:
    """An encoder as its files on this machine describe it; None if they are not here. Raises BadConfig as `describe` does."""
    path = local_path(source)
    if path is None:
        path = cached(source, None)
        if path is None or not (path / "modules.json").is_file():
            return None
    return read_encoder(source, path)


def _turns(settings: ModelSettings, found: Mapping[str, Any]) -> tuple[Turns | None, list[str]]:
    """The chat template that is used, None if there is none here, and the arguments that it takes."""
    if not settings.chat or not found.get("templates"):
        return None, []
    try:
        template, arguments = chosen(found["templates"], settings.template)
        takes = arguments_of(read_by(template, arguments))
        return Turns(renderer(template, arguments, settings.date, found["special"])), takes
    except BadConfig as error:
        raise BadConfig(f"{settings.source}: {error}") from error


def _of_folder(folder: Path) -> dict[str, Any]:
    """Facts out of a folder with safetensors, as far as its files are there."""
    config = _json(folder / "config.json")
    config = config.get("text_config") or config
    said = _json(folder / "tokenizer_config.json")
    special = {name: v["content"] if isinstance(v, dict) else v for name, v in said.items() if name.endswith("_token")}
    parameters, weights = _weights(folder)
    return {
        "parameters": parameters,
        "weights": weights,
        "n_layers": config.get("num_hidden_layers"),
        "d": config.get("hidden_size"),
        "embeddings": _embeddings(config),
        "context": context_of(config),
        "tokenizer": _tokenizer(folder / "tokenizer.json"),
        "templates": _templates(folder, said.get("chat_template")),
        "special": {name: value for name, value in special.items() if isinstance(value, str)},
    }


def _embeddings(config: Mapping[str, Any]) -> int | None:
    """Weights of the embedding, and of a head of its own."""
    rows, d = config.get("vocab_size"), config.get("hidden_size")
    return rows * d * (1 if config.get("tie_word_embeddings", True) else 2) if rows and d else None


def _templates(folder: Path, said: Any) -> Any:
    """The chat template, or several by their names: in files of their own, or as the tokenizer's configuration has them."""
    files = {path.stem: path for path in (folder / "additional_chat_templates").glob("*.jinja")}
    if (folder / "chat_template.jinja").is_file():
        files["default"] = folder / "chat_template.jinja"
    if files:
        return {name: path.read_text("utf-8") for name, path in files.items()}
    return {one["name"]: one["template"] for one in said} if isinstance(said, list) else said


def _of_gguf(path: Path) -> dict[str, Any]:
    """Facts out of a GGUF file, or out of what an earlier run has converted it to."""
    if path.stat().st_size <= _HASHED:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        converted = cache_root() / "models" / digest
        if (converted / "model.safetensors").is_file():
            return _of_folder(converted)
    header = read_header(path)
    return {
        "parameters": header.parameters,
        "weights": header.parameters * BYTES["float32"],  # as which a run converts it
        "n_layers": header.of_architecture("block_count"),
        "d": header.of_architecture("embedding_length"),
        "context": header.of_architecture("context_length"),
        "tokenizer": header.tokenizer(),
        "templates": header.metadata.get("tokenizer.chat_template"),
        "special": {f"{name}_token": header.token(name) for name in ("bos", "eos")},
    }


def _tokenizer(path: Path) -> Tokenizer | None:
    if not path.is_file():
        return None
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # of no other class
        raise BadConfig(f"{path}: not a tokenizer ({error}); download or save the model again.") from error
    tokenizer.no_padding()  # a file may ask for it, and for truncation
    tokenizer.no_truncation()
    return tokenizer


def _weights(folder: Path) -> tuple[int | None, int | None]:
    """Parameters by the headers of all safetensors, and bytes; None if some are missing or cannot be read."""
    files = {path.name: path for path in folder.glob("*.safetensors")}
    listed = _json(folder / "model.safetensors.index.json").get("weight_map", {})
    if not files or not set(listed.values()) <= set(files):
        return None, None
    try:
        parameters = sum(map(_elements, files.values()))
    except (SafetensorError, OSError):
        return None, None
    return parameters, sum(path.stat().st_size for path in files.values())


def _elements(path: Path) -> int:
    """Number of weights in one safetensors file: of its shapes, so that a type which numpy has not will do."""
    with safe_open(path, framework="np") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118


def _parameters_by_name(source: str) -> float | None:
    """27e9 for a source whose name holds `27b`; None if the name says no size."""
    found = _SIZE.search(Path(source).name.lower())
    return float(found[1]) * {"b": 1e9, "m": 1e6}[found[2]] if found else None


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_bytes())
    except ValueError as error:
        raise BadConfig(f"{path}: not valid JSON; download or save the model again.") from error
    return values if isinstance(values, dict) else {}
