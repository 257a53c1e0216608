"""A chat or base model, ready for forward passes: weights, tokenizer and how a prompt is rendered."""

import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from jinja2 import TemplateError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from prefprobe.activations.adapters import merged
from prefprobe.errors import BadConfig, TemporaryFailure
from prefprobe.sources import cache_root, fetch, file_digest, revision_now

_log = logging.getLogger(__name__)
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()


@dataclass
class LoadedModel:
    """A causal language model in evaluation mode, and its prompt format."""

    backbone: Any
    """The stack of blocks without the head; `backbone.layers[L]` is block L, 0-based."""
    head: Any
    """Maps the final hidden state (…, d) to logits (…, vocabulary)."""
    tokenizer: Any
    chat: bool
    """Render with the chat template; False reads bare text, as base models do."""
    device: torch.device
    origin: Mapping[str, Any] = field(default_factory=dict)
    """What identifies it, as plain JSON: source, revision, adapter, type; empty if it was made here."""

    @property
    def n_layers(self) -> int:
        """Number of blocks of the architecture, also within `up_to`."""
        return int(self.backbone.config.num_hidden_layers)

    @property
    def width(self) -> int:
        """d, the width of the residual stream."""
        return int(self.backbone.config.hidden_size)

    @property
    def family(self) -> str:
        """The architecture's name, such as llama."""
        return str(self.backbone.config.model_type)

    @contextmanager
    def up_to(self, layer: int) -> Iterator[None]:
        """Within it, passes end after block `layer`: what is above is not computed."""
        whole = self.backbone.layers
        self.backbone.layers = whole[: layer + 1]
        try:
            yield
        finally:
            self.backbone.layers = whole

    def prompt_tokens(self, text: str, system: str | None = None) -> list[int]:
        """Token ids of one rendered prompt, ready for the answer, with at most one BOS.

        A template without a system turn gets the system prompt at the head of the user's turn.
        """
        if not self.chat:
            bare = text if system is None else f"{system}\n\n{text}"
            return list(self.tokenizer(bare)["input_ids"])
        user = {"role": "user", "content": text}
        try:
            messages = [user] if system is None else [{"role": "system", "content": system}, user]
            rendered = self._render(messages)
        except TemplateError:
            rendered = self._render([{"role": "user", "content": f"{system}\n\n{text}"}])
        return list(self.tokenizer(rendered, add_special_tokens=False)["input_ids"])

    def _render(self, messages: list[dict[str, str]]) -> str:
        # some templates print today's date, which would give another prompt every day
        return str(
            self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, date_string="01 Jan 2025"
            )
        )


def load_model(
    source: str,
    *,
    revision: str | None = None,
    adapter: str | None = None,
    adapter_revision: str | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    device: Literal["auto", "cpu", "cuda"] = "auto",
    chat: bool = True,
    untrained_seed: int | None = None,
) -> LoadedModel:
    """Load a causal language model, merge its LoRA adapter, and move it to the device.

    `source` and `adapter` are a hub id, a local folder, a GGUF file (the source alone) or `package:NAME/PATH`; a revision
    is a hub commit, the newest one if not given. Without `chat` prompts are bare text, as base models read them. With
    `untrained_seed` the weights are drawn anew by the architecture's own initialisation (a control).
    Raises BadConfig for a source that is not a loadable model, TemporaryFailure for a device that is lost.
    """
    on = _device(device)
    revision = revision_now(source) if revision is None else revision
    folder = _safetensors_folder(fetch(source, revision))
    kind = getattr(torch, dtype)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        if untrained_seed is None:
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=kind, trust_remote_code=False, use_safetensors=True, attn_implementation="sdpa"
            )
        else:
            torch.manual_seed(untrained_seed)
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            model = AutoModelForCausalLM.from_config(config, dtype=kind, attn_implementation="sdpa")
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadConfig(f"{source}: transformers cannot load this model: {reason}") from error
    if adapter is not None and untrained_seed is None:
        model = merged(model, adapter, adapter_revision or revision_now(adapter))
    if chat and not tokenizer.chat_template:
        raise BadConfig(f"{source}: the tokenizer has no chat template; set `chat: false` for a base model.")
    try:
        model = model.to(on).eval()
    except torch.OutOfMemoryError as error:
        raise BadConfig(f"{source}: the model does not fit on {on}; use a larger GPU or bfloat16.") from error
    model.requires_grad_(False)
    origin = {"source": source, "revision": revision, "dtype": dtype, "untrained_seed": untrained_seed}
    origin |= {"adapter": adapter, "adapter_revision": adapter_revision}
    return LoadedModel(model.get_decoder(), model.get_output_embeddings(), tokenizer, chat, on, origin)


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
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
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
