"""A chat or base model, ready for forward passes: its blocks, its logits, and how its prompts are made."""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from prefprobe.activations.context import context_of, scaled_from
from prefprobe.activations.masks import DistanceRules
from prefprobe.activations.prompts import PromptFormat
from prefprobe.errors import BadConfig

_log = logging.getLogger(__name__)


@dataclass
class Packing:
    """What is known of a model in packed passes."""

    rules: DistanceRules
    named: frozenset[int]
    """Every whole number in the configuration."""
    exact_to: dict[tuple[bool, bool, bool, int, int], tuple[int, int]] = field(default_factory=dict)
    """{(whether blocks were compiled, whether all prompts share a beginning, whether other tokens than the last were read, how
    far apart neighbours in a prompt may lie in a pack, as a number of bits, the deepest block that was read): tokens of a
    prompt, and places of a pack, up to which packed values were compared with the model's own}."""
    apart_from: float = math.inf
    """Prompts of as many tokens and more go through alone."""
    why: str = ""
    checked: bool = False
    """Whether what is read off the model was compared with what it says of itself."""
    compiled: Sequence[Any] = ()
    """The compiled forward of every block; empty as long as none is."""
    compilable: bool = True
    most_tokens: float = math.inf
    """Tokens in a batch that memory holds, as far as is known."""
    beginning: tuple[list[int], list[tuple[torch.Tensor, torch.Tensor]]] = field(default_factory=lambda: ([], []))
    """The beginning that was computed last: its tokens, and keys and values of every block."""

    def compared(self, compiled: bool, shared: bool, others: bool, gap: int, deepest: int) -> tuple[int, int]:
        """Tokens and places up to which values of such passes were compared; packs that are laid out wider serve for narrower
        ones.
        """
        way = compiled, shared, others, deepest
        same = [n for (*its, g, d), n in self.exact_to.items() if (*its, d) == way and g >= gap]
        return max((tokens for tokens, _ in same), default=0), max((places for _, places in same), default=0)


@dataclass
class LoadedModel:
    """A causal language model in evaluation mode, and how its prompts are made."""

    model: Any
    """As transformers made it: the head, and every last step of its logits, are in here."""
    prompts: PromptFormat
    device: torch.device
    """Where token ids go. Final hidden states are where the last block is, and logits where the head is."""
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
        self.backbone, self.blocks = stack_of(self.model.get_decoder())
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
        """Type of passes, and of the weights; quantised ones are whole numbers."""
        return next(p.dtype for p in self.backbone.parameters() if p.is_floating_point())

    @property
    def block_devices(self) -> list[torch.device]:
        """Where each block lies; what it reads is brought there when it is called (`devices.link`)."""
        return [next(block.parameters()).device for block in self.blocks]

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


def stack_of(decoder: Any) -> tuple[Any, Sequence[Any]]:
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
