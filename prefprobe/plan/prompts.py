"""How long prompts are for a model: by its own tokenizer and chat template, or by characters where these are not here."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

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
    """Counts tokens of prompts as `LoadedModel.prompt_tokens` would give them."""

    chat: bool = True
    tokenizer: Tokenizer | None = None
    template: Template | None = None
    special: dict[str, str] = field(default_factory=dict)
    """bos_token and the like, which templates print."""

    def mean(self, prompts: Sequence[Prompt]) -> float:
        """Mean number of tokens a prompt; 0 for none."""
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
        if self.tokenizer is None or (self.chat and self.template is None):
            return None
        shown = [self._shown(*p) + answer for p in prompts]
        return [len(e) for e in self.tokenizer.encode_batch_fast(shown, add_special_tokens=not self.chat)]

    @property
    def assumed(self) -> int:
        """Tokens added to every prompt for a chat template that is not here."""
        return TEMPLATE_TOKENS if self.chat and (self.tokenizer is None or self.template is None) else 0

    def _shown(self, text: str, system: str | None) -> str:
        bare = text if system is None else f"{system}\n\n{text}"
        if not self.chat or self.template is None:
            return bare
        user = {"role": "user", "content": text}
        try:
            return render(
                self.template, [user] if system is None else [{"role": "system", "content": system}, user], self.special
            )
        except TemplateError:
            return render(self.template, [{"role": "user", "content": bare}], self.special)


def compiled(template: str, special: dict[str, str]) -> Template | None:
    """A chat template, ready to be rendered as transformers renders it; None if it needs more than is here."""

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = refuse
    try:
        ready = environment.from_string(template)
        render(ready, [{"role": "user", "content": "x"}], special)
    except (TemplateError, TypeError):
        return None
    return ready


def render(template: Template, turns: list[dict[str, str]], special: dict[str, Any]) -> str:
    """The prompt of some turns, ready for the answer."""
    given = {"tools": None, "documents": None, "date_string": "01 Jan 2025", **special}
    return str(template.render(messages=turns, add_generation_prompt=True, **given))
