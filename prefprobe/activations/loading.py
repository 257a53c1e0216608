"""A chat or base model, ready for forward passes: weights, and how its prompts are made."""

import datetime
import logging
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
)
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import logging as transformers_logging

from prefprobe.activations.adapters import merged
from prefprobe.activations.context import context_of, scaled_from
from prefprobe.activations.masks import DistanceRules
from prefprobe.activations.prompts import PromptFormat
from prefprobe.errors import BadConfig, TemporaryFailure
from prefprobe.settings import DATE
from prefprobe.sources import cache_root, fetch, file_digest, revision_now

_UNREADABLE = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    ImportError,
    RuntimeError,
    SafetensorError,
)
"""What transformers raises for files that are no model."""
_CONSTANTS = (".inv_freq", ".masked_bias", ".attn.bias", ".attention.bias")
_log = logging.getLogger(__name__)
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()


@dataclass
class Packing:
    """What is known of a model in packed passes."""

    rules: DistanceRules
    named: frozenset[int]
    """Every whole number in the configuration."""
    exact_to: dict[tuple[bool, int, int], int] = field(default_factory=dict)
    """{(whether all prompts share a beginning, how far apart neighbours in a prompt may lie in a pack, as a number of bits,
    the deepest block that was read): tokens up to which packed values were compared with the model's own}."""
    apart_from: float = math.inf
    """Prompts of as many tokens and more go through alone."""
    why: str = ""
    checked: bool = False
    """Whether what is read off the model was compared with what it says of itself."""

    def compared(self, shared: bool, gap: int, deepest: int) -> int:
        """Tokens up to which values of such passes were compared; packs that are laid out wider serve for narrower ones."""
        same = (n for (s, g, d), n in self.exact_to.items() if (s, d) == (shared, deepest) and g >= gap)
        return max(same, default=0)


@dataclass
class LoadedModel:
    """A causal language model in evaluation mode, and how its prompts are made."""

    model: Any
    """As transformers made it: the head, and every last step of its logits, are in here."""
    prompts: PromptFormat
    device: torch.device
    origin: Mapping[str, Any] = field(default_factory=dict)
    """What identifies it, as plain JSON: source, revision, adapter, type, rendering; empty if it was made here."""
    backbone: Any = field(init=False)
    """The text model without its head."""
    blocks: Sequence[Any] = field(init=False)
    """Block L, 0-based, adds to the residual stream and returns it."""
    packing: Packing = field(init=False)
    _gives: Any = field(init=False, default=None)
    """The class of what the backbone returns."""

    def __post_init__(self) -> None:
        """Raises BadConfig for an architecture without one stack of blocks."""
        self.backbone, self.blocks = _stack(self.model.get_decoder())
        config = self.backbone.config
        self.packing = Packing(DistanceRules(config), frozenset(_whole_numbers(config.to_dict())))
        scaled = scaled_from(self.backbone.config.to_dict())
        if scaled is not None:
            self.set_apart(scaled + 1, "these have rotary frequencies of their own")

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of its prompts."""
        return self.prompts.tokenizer

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return next(self.backbone.parameters()).dtype

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    @property
    def width(self) -> int:
        """d, the width of the residual stream."""
        return int(self.backbone.config.hidden_size)

    @property
    def family(self) -> str:
        """The architecture's name, such as llama."""
        return str(self.backbone.config.model_type)

    @property
    def context(self) -> int | None:
        """Tokens that a prompt may have; None where the architecture knows no limit."""
        return context_of(self.backbone.config.to_dict())

    def set_apart(self, longest: int, why: str) -> None:
        """Prompts of `longest` tokens and more go through alone from now on."""
        where = f"prompts of {longest} tokens and more go" if longest else "prompts go"
        self.packing.apart_from = longest
        self.packing.why = f"{where} through {self.family} one at a time, since {why}"
        _log.info("%s; this is exact, and slower", self.packing.why)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Final hidden states (n, d) → logits (n, vocabulary) float64, by all that the model itself does after its blocks.

        Its own pass is run, only that its blocks give `hidden`.
        """
        any_token = torch.zeros((1, 1), dtype=torch.long, device=self.device)
        given = hidden.to(self.dtype)[None]
        with torch.inference_mode():
            if self._gives is None:
                self._gives = type(self.backbone(input_ids=any_token, use_cache=False))
            self.backbone.forward = lambda *_, **__: self._gives(last_hidden_state=given)
            try:
                logits = self.model(input_ids=any_token, use_cache=False).logits
            finally:
                del self.backbone.forward
        return logits[0].double()

    def prompt_tokens(self, text: str, system: str | None = None) -> list[int]:
        """Token ids of one prompt, see `PromptFormat.tokens`."""
        return self.prompts.tokens(text, system)


def load_model(
    source: str,
    *,
    revision: str | None = None,
    adapter: str | None = None,
    adapter_revision: str | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    device: Literal["auto", "cpu", "cuda"] = "auto",
    chat: bool = True,
    template: Mapping[str, Any] | None = None,
    date: datetime.date = DATE,
    untrained_seed: int | None = None,
) -> LoadedModel:
    """Load a causal language model, merge its LoRA adapter, and move it to the device.

    `source` and `adapter` are a hub id, a local folder, a GGUF file (the source alone) or `package:NAME/PATH`; a revision
    is a hub commit, the newest one if not given. Without `chat` prompts are bare text, as base models read them;
    `template` are arguments of the chat template, and `date` is what it prints as today's. With
    `untrained_seed` the weights are drawn anew by the architecture's own initialisation (a control).
    Raises BadConfig for a source that is not a loadable model or whose chat template cannot be used, TemporaryFailure for a
    device that is lost.
    """
    on = _device(device)
    revision = revision_now(source) if revision is None else revision
    folder = _safetensors_folder(fetch(source, revision))
    kind = getattr(torch, dtype)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        auto = _auto_class(source, config)
        if untrained_seed is None:
            model = _whole(
                source,
                *auto.from_pretrained(
                    folder,
                    dtype=kind,
                    trust_remote_code=False,
                    use_safetensors=True,
                    ignore_mismatched_sizes=True,
                    output_loading_info=True,
                ),
            )
        else:
            torch.manual_seed(untrained_seed)
            model = auto.from_config(config, dtype=kind)
    except torch.OutOfMemoryError:
        raise
    except _UNREADABLE as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadConfig(f"{source}: transformers cannot load this model: {reason}") from error
    if adapter is not None and untrained_seed is None:
        model = merged(model, adapter, adapter_revision or revision_now(adapter))
    try:
        prompts = PromptFormat(tokenizer, chat=chat, template=template, day=date)
    except BadConfig as error:
        raise BadConfig(f"{source}: {error}") from error
    try:
        model = model.to(on).eval()
    except torch.OutOfMemoryError as error:
        raise BadConfig(f"{source}: the model does not fit on {on}; use a larger GPU or bfloat16.") from error
    model.requires_grad_(False)
    origin: dict[str, Any] = {"source": source, "revision": revision, "dtype": dtype, "untrained_seed": untrained_seed}
    origin |= {"adapter": adapter, "adapter_revision": adapter_revision}
    origin |= {"chat": chat, "template": dict(template or {}), "date": date.isoformat()}
    return LoadedModel(model, prompts, on, origin)


def _whole(source: str, model: Any, info: Mapping[str, Any]) -> Any:
    """`model` if all of its weights were in its files, and all weights of its blocks found a place in it.

    transformers draws what is missing at random, and passes over what it has no place for. Weights beyond the blocks, such
    as of blocks that predict further tokens, and constants that older versions saved, are not of this model.
    """
    found = [f"lacks the weights {name}" for name in sorted(info["missing_keys"])]
    found += [
        f"has the weights {name} in another shape" for name in sorted(str(key[0]) for key in info["mismatched_keys"])
    ]
    blocks = _stack(model.get_decoder())[1]
    names = tuple(f"{name}." for name, module in model.named_modules() if module in set(blocks))
    found += [
        f"has the weights {name}, for which {type(model).__name__} has no place"
        for name in sorted(info["unexpected_keys"])
        if name.startswith(names) and not name.endswith(_CONSTANTS)
    ]
    if found:
        raise BadConfig(
            f"{source}: the model {found[0]} ({len(found)} such); download or save it again, with the config.json that belongs "
            "to it."
        )
    return model


def _auto_class(source: str, config: Any) -> Any:
    """What loads models of this kind of config: of text, or of images and text, of which the text model is used."""
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        return AutoModelForCausalLM
    if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return AutoModelForImageTextToText
    raise BadConfig(f"{source}: {config.model_type} is no causal language model; measure another model.")


def _stack(decoder: Any) -> tuple[Any, Sequence[Any]]:
    """The module that sends the residual stream through one list of blocks, and the list."""
    n = decoder.config.get_text_config().num_hidden_layers
    found = [
        (module, blocks)
        for module in decoder.modules()
        for blocks in module.children()
        if isinstance(blocks, torch.nn.ModuleList)
        and len(blocks) == n
        and all(isinstance(block, GradientCheckpointingLayer) for block in blocks)
    ]
    own = [(module, blocks) for module, blocks in found if module is decoder] or found
    if len(own) != 1:
        raise BadConfig(
            f"{type(decoder).__name__} has {len(own)} stacks of {n} blocks, expected one, whose residual stream is read; "
            "measure another model."
        )
    return own[0]


def _whole_numbers(values: Any) -> Iterator[int]:
    """All of them in nested mappings and lists."""
    if isinstance(values, dict | list | tuple):
        for value in values.values() if isinstance(values, dict) else values:
            yield from _whole_numbers(value)
    elif isinstance(values, int) and not isinstance(values, bool):
        yield values


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise TemporaryFailure(
            "device: cuda was asked for, and this node has no usable GPU; another node may have one."
        )
    return torch.device("cuda" if name == "auto" and torch.cuda.is_available() else "cpu" if name == "auto" else name)


def _safetensors_folder(path: Path) -> Path:
    """`path` itself if it is a folder; a GGUF file is de-quantised once into the cache, in float32 as it is exact."""
    if path.is_dir():
        return path
    revision = file_digest(path)
    folder = cache_root() / "models" / revision
    if (folder / "model.safetensors").exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(f"{revision}.*"):  # of a process that was killed
        if not Path(f"/proc/{left.suffix[1:]}").exists():
            shutil.rmtree(left, ignore_errors=True)
    building = folder.with_suffix(f".{os.getpid()}")
    building.mkdir(exist_ok=True)
    _log.info("de-quantising %s once into %s", path.name, folder)
    try:
        _convert(path, building)
        building.rename(folder)
    except OSError:
        if not (folder / "model.safetensors").exists():  # else another process was first
            raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder


def _convert(gguf: Path, folder: Path) -> None:
    from safetensors.torch import save_file

    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model = _whole(
            gguf.name,
            *AutoModelForCausalLM.from_pretrained(
                gguf.parent, gguf_file=gguf.name, dtype=torch.float32, output_loading_info=True
            ),
        )
    except (ValueError, OSError) as error:
        raise BadConfig(f"{gguf.name}: not a GGUF file that transformers can read: {error}") from error
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    weights = {k: v.contiguous() for k, v in model.state_dict().items() if not (tied and k == "lm_head.weight")}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
