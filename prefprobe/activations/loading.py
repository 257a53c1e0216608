"""Loads models: weights out of safetensors or GGUF, whole or not at all."""

import datetime
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate.hooks import remove_hook_from_submodules
from safetensors import SafetensorError
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    BitsAndBytesConfig,
)
from transformers.utils import logging as transformers_logging

from prefprobe.activations.adapters import merged
from prefprobe.activations.devices import chained, placed
from prefprobe.activations.model import LoadedModel, stack_of
from prefprobe.activations.prompts import PromptFormat
from prefprobe.errors import BadConfig, TemporaryFailure
from prefprobe.settings.model import DATE, NO_GPUS, NOT_MERGED
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


def load_model(
    source: str,
    *,
    revision: str | None = None,
    adapter: str | None = None,
    adapter_revision: str | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    device: Literal["auto", "cpu", "cuda"] = "auto",
    devices: int | None = None,
    quantisation: Literal["8bit", "4bit"] | None = None,
    chat: bool = True,
    template: Mapping[str, Any] | None = None,
    date: datetime.date = DATE,
    untrained_seed: int | None = None,
    deepest: float | None = None,
) -> LoadedModel:
    """Load a causal language model onto its device or devices, and merge its LoRA adapter.

    `source` and `adapter` are a hub id, a local folder, a GGUF file (the source alone) or `package:NAME/PATH`; a revision
    is a hub commit, the newest one if not given. Blocks are divided over `devices` GPUs; if not given, over all that are
    visible where one does not hold the weights: evenly all, or those down to the fraction `deepest` of the depth, if none
    deeper is to be run. `quantisation` is by bitsandbytes: LLM.int8() or NF4. Without `chat`
    prompts are bare text, as base models read them; `template` are arguments of the chat template, and `date` is what it
    prints as today's. With `untrained_seed` the weights are drawn anew by the architecture's own initialisation (a control).
    Raises BadConfig for a source that is not a loadable model or whose chat template cannot be used, for an adapter of
    quantised weights, and where memory is too small; TemporaryFailure for devices that are not there.
    """
    if adapter is not None and quantisation is not None:
        raise BadConfig(f"{source}: {NOT_MERGED}.")
    if devices is not None and device == "cpu":
        raise BadConfig(f"{source}: {NO_GPUS}; leave one of them out.")
    on = _device(device)
    revision = revision_now(source) if revision is None else revision
    folder = _safetensors_folder(fetch(source, revision))
    kind = getattr(torch, dtype)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        auto = _auto_class(source, config)
        if quantisation is not None and hasattr(config, "quantization_config"):
            raise BadConfig(f"{source}: its weights are quantised already; leave out `quantisation`.")
        places = placed(source, lambda: auto.from_config(config, dtype=kind), on, devices, quantisation, deepest)
        how = {"dtype": kind, "device_map": places, "quantization_config": _quantised(quantisation, kind)}
        how |= {"ignore_mismatched_sizes": True, "output_loading_info": True}
        if untrained_seed is None:
            model = _whole(source, *auto.from_pretrained(folder, trust_remote_code=False, use_safetensors=True, **how))
        else:  # drawn on the CPU, so that every device has the same weights
            torch.manual_seed(untrained_seed)
            model = auto.from_config(config, dtype=kind)
            if places is not None and (len(places) > 1 or quantisation is not None):
                drawn = {"config": config, "state_dict": model.state_dict()}
                model = _whole(source, *type(model).from_pretrained(None, **drawn, **how))
            elif places is not None:
                model = model.to(on)
    except torch.OutOfMemoryError as error:
        raise BadConfig(
            f"{source}: the model does not fit on {on}; use a larger GPU, several (`devices`), bfloat16 or "
            "`quantisation`."
        ) from error
    except BadConfig:
        raise
    except _UNREADABLE as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadConfig(
            f"{source}: transformers cannot load this model ({reason.rstrip('.')}); check its files, or name another source."
        ) from error
    if places is not None and len(places) > 1:
        remove_hook_from_submodules(model)  # accelerate's own bring every input to every block anew
        chained(source, model, on)
    if adapter is not None and untrained_seed is None:
        model = merged(model, adapter, adapter_revision or revision_now(adapter))
    try:
        prompts = PromptFormat(tokenizer, chat=chat, template=template, day=date)
    except BadConfig as error:
        raise BadConfig(f"{source}: {error}") from error
    model.eval().requires_grad_(False)
    origin: dict[str, Any] = {"source": source, "revision": revision, "dtype": dtype, "untrained_seed": untrained_seed}
    if quantisation is not None:
        origin["quantisation"] = quantisation
    origin |= {"adapter": adapter, "adapter_revision": adapter_revision}
    origin |= {"chat": chat, "template": dict(template or {}), "date": date.isoformat()}
    loaded = LoadedModel(model, prompts, on, origin)
    if quantisation == "8bit":
        loaded.set_apart(0, "LLM.int8() rounds what a prompt gives by all tokens that go through with it")
    return loaded


def _whole(source: str, model: Any, info: Mapping[str, Any]) -> Any:
    """`model` if all of its weights were in its files, and all weights of its blocks found a place in it.

    transformers draws what is missing at random, and passes over what it has no place for. Weights beyond the blocks, such
    as of blocks that predict further tokens, and constants that older versions saved, are not of this model.
    """
    found = [f"lacks the weights {name}" for name in sorted(info["missing_keys"])]
    found += [
        f"has the weights {name} in another shape" for name in sorted(str(key[0]) for key in info["mismatched_keys"])
    ]
    blocks = stack_of(model.get_decoder())[1]
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


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise TemporaryFailure(
            "device: cuda was asked for, and this node has no usable GPU; another node may have one."
        )
    return torch.device("cuda" if name == "auto" and torch.cuda.is_available() else "cpu" if name == "auto" else name)


def _quantised(quantisation: str | None, kind: Any) -> Any:
    """How transformers is told; what is not a matrix of a linear layer stays as it is, and so does the head."""
    if quantisation is None:
        return None
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it says of every layer that activations are rounded
    if quantisation == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=kind)


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

    from prefprobe.activations.gguf_files import read_once

    try:
        with read_once():
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
            model = _whole(
                gguf.name,
                *AutoModelForCausalLM.from_pretrained(
                    gguf.parent, gguf_file=gguf.name, dtype=torch.float32, output_loading_info=True
                ),
            )
    except (ValueError, OSError) as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise BadConfig(
            f"{gguf.name}: not a GGUF file that transformers can read ({reason}); download it again, or name another source."
        ) from error
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    weights = {k: v.contiguous() for k, v in model.state_dict().items() if not (tied and k == "lm_head.weight")}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
