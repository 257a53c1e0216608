"""How long prompts are for a model: by its own tokenizer and chat template, or by characters where these are not here."""

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from prefprobe.activations.turns import Turns, bare_pieces

TEMPLATE_TOKENS = 16
"""Assumed for a chat template that is not here: Gemma 3's takes 10 tokens, SmolLM2's with its own system prompt 31."""
CHARACTERS = 4
"""Characters that are taken for one token where the tokenizer is not here."""
_SAMPLE = 1000
"""Prompts that a tokenizer reads for one mean; of more, some that stand evenly among them."""

Prompt = tuple[str, str | None]
"""A text, and the system prompt or None."""


@dataclass(frozen=True)
class PromptLengths:
    """Counts tokens of prompts as `PromptFormat.tokens` would give them, but for control tokens that a text spells out."""

    chat: bool = True
    tokenizer: Tokenizer | None = None
    turns: Turns | None = None
    """The chat template; None if it is not here, or not used."""

    def mean(self, prompts: Sequence[Prompt]) -> float:
        """Mean number of tokens a prompt; 0 for none. Raises BadConfig for a text that the chat template alters."""
        if not prompts:
            return 0.0
        if self.tokenizer is None:
            characters = sum(len(text) + len(system or "") for text, system in prompts) / len(prompts)
            return characters / CHARACTERS + self.assumed
        some = prompts[:: -(-len(prompts) // _SAMPLE)]
        encoded = self.tokenizer.encode_batch_fast([self._shown(*p) for p in some], add_special_tokens=not self.chat)
        return sum(map(len, encoded)) / len(some) + self.assumed

    def counts(self, prompts: Sequence[Prompt], answer: str = "") -> list[int] | None:
        """Tokens of each prompt with the beginning of an answer; None if tokenizer or template are not here."""
        if self.tokenizer is None or (self.chat and self.turns is None):
            return None
        shown = [self._shown(*p) + (self._before_answer(p[1]) + answer if answer else "") for p in prompts]
        return [len(e) for e in self.tokenizer.encode_batch_fast(shown, add_special_tokens=not self.chat)]

    def _before_answer(self, system: str | None) -> str:
        return "" if self.turns is None else self.turns.closing_after(system) + self.turns.blank_after(system)

    @property
    def assumed(self) -> int:
        """Tokens added to every prompt for a chat template that is not here."""
        return TEMPLATE_TOKENS if self.chat and (self.tokenizer is None or self.turns is None) else 0

    def _shown(self, text: str, system: str | None) -> str:
        pieces = bare_pieces(text, system) if self.turns is None else self.turns.pieces(text, system)
        return "".join(piece.string for piece in pieces)
