"""Prompts as a model reads them: rendered, tokenised, and with the tokens by which an answer would begin."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, NamedTuple

from prefprobe.activations.dates import variables
from prefprobe.activations.encoding import Encoding
from prefprobe.activations.templates import arguments_of, chosen, read_by, renderer
from prefprobe.activations.turns import TEXT, Piece, Turns, bare_pieces, check_thought
from prefprobe.errors import BadConfig
from prefprobe.settings.model import DATE

Prompt = tuple[str, str | None]
"""A text, and the system prompt or None."""


class Asked(NamedTuple):
    """A prompt up to the answer, and the tokens by which answers with either label begin."""

    prompt: list[int]
    """With what closes a thought, where the template has something for it."""
    shared: list[int]
    """With which both labels begin."""
    a: int
    """The first token after `shared` in which they differ; so is `b`."""
    b: int


class PromptFormat:
    """How a tokenizer's prompts are made: by its chat template, or as bare text.

    `template` are arguments of the chat template, `day` the date that it prints. Raises BadConfig if the template cannot
    be spoken to, or does not read one of the arguments.
    """

    def __init__(
        self, tokenizer: Any, *, chat: bool = True, template: Mapping[str, Any] | None = None, day: date = DATE
    ) -> None:
        self.tokenizer, self.chat = tokenizer, chat
        self._arguments, self._day, self._merged = dict(template or {}), day, False
        self._beginning: list[int] = []
        self._added: dict[tuple[str, ...], list[list[int]]] = {}
        self._turns: Turns | None = None
        self._reads: frozenset[str] = frozenset()
        if not chat:
            if self._arguments:
                raise BadConfig("`template` has arguments of a chat template, and bare text uses none; leave it out.")
            self._encoding = Encoding(tokenizer)
            self._beginning = _beginning(tokenizer)
            return
        text, arguments = chosen(tokenizer.chat_template, self._arguments)
        self._reads = read_by(text, arguments)
        self._turns = Turns(renderer(text, arguments, day, tokenizer.special_tokens_map))
        self._encoding = Encoding(tokenizer, text + self._turns.printed)

    def tokens(self, text: str, system: str | None = None) -> list[int]:
        """Token ids of one prompt, ready for the answer, with at most one BOS.

        Raises BadConfig for a text that is not found in it as it is, or holds a control token that cannot be read as text.
        """
        return self.tokens_many([(text, system)])[0]

    def tokens_many(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """`tokens` of many prompts, which takes less time."""
        return self._encoded([self._pieces(*prompt) for prompt in prompts])

    def located(self, text: str, system: str | None = None) -> tuple[int, int]:
        """Which of `tokens` are the text's, half-open: those that hold one of its characters, but for white space at its ends.

        Raises BadConfig as `tokens` does, and where they cannot be told.
        """
        pieces = self._pieces(text, system)
        start, stop = self._encoding.located(pieces, self._encoding.many([pieces])[0])
        shift = len(self._beginning)
        return start + shift, stop + shift

    def asked(self, text: str, system: str | None, label_a: str, label_b: str) -> Asked:
        """A prompt and the tokens that each label adds to it; see `asked_many`."""
        return self.asked_many([(text, system)], label_a, label_b)[0]

    def asked_many(self, prompts: Sequence[Prompt], label_a: str, label_b: str) -> list[Asked]:
        """Prompts up to the answer, and what two labels add to each, tokenised together with it.

        Raises BadConfig as `tokens` does, if an answer would stand within a thought, and if the labels cannot be told apart
        or joined to the prompt.
        """
        out = []
        for prompt, (a, b) in self.continued_many(prompts, (label_a, label_b)):
            shared = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
            if shared is None:
                raise BadConfig(
                    f"choices: one of the labels {label_a!r} and {label_b!r} begins with the other as this tokenizer reads "
                    "them; choose labels that differ."
                )
            out.append(Asked(prompt, a[:shared], a[shared], b[shared]))
        return out

    def continued_many(
        self, prompts: Sequence[Prompt], answers: Sequence[str]
    ) -> list[tuple[list[int], list[list[int]]]]:
        """Prompts up to the answer, and the tokens that each of some answers adds to each, tokenised together with it.

        Raises BadConfig as `tokens` does, if an answer would stand within a thought, and if one cannot be joined to the prompt.
        """
        if self._turns is not None:
            check_thought(self._turns, arguments_of(self._reads))
        asked = [self._pieces(*prompt) + self._closing(prompt[1]) for prompt in prompts]
        keys = [(_end(pieces), *answers) for pieces in asked]
        tokens = self._encoded(asked)
        adds: dict[int, list[list[int]]] = {}
        alone = []
        """Prompts that are tokenised once more with each answer; of those that end alike behind a control token one will do."""
        first: set[tuple[str, ...]] = set()
        for k, key in enumerate(keys):
            if not self._encoding.separates(key[0]) or (key not in self._added and key not in first):
                alone.append(k)
                first.add(key)
        found = self._joined([asked[k] for k in alone], [tokens[k] for k in alone], answers)
        for k, added in zip(alone, found, strict=True):
            adds[k] = added
            if self._encoding.separates(keys[k][0]):
                self._added[keys[k]] = added
        return [(ids, adds[k] if k in adds else self._added[keys[k]]) for k, ids in enumerate(tokens)]

    def check_labels(self, label_a: str, label_b: str) -> None:
        """Raise what `asked_many` raises whatever the prompt: for a thought that stays open, and for the labels."""
        self.asked(TEXT, None, label_a, label_b)

    def describe(self) -> dict[str, Any]:
        """How prompts are made, as plain JSON; `date` is left out where the template reads none."""
        turns = self._turns
        about: dict[str, Any] = {"chat": self.chat, "template": self._arguments, "merged": self._merged}
        about["folded"] = None if turns is None else turns.folded
        about["closing"] = turns.closing if turns is not None and turns.closing else None
        return about | ({"date": self._day.isoformat()} if self._reads & variables(self._day).keys() else {})

    def _pieces(self, text: str, system: str | None) -> list[Piece]:
        return bare_pieces(text, system) if self._turns is None else self._turns.pieces(text, system)

    def _closing(self, system: str | None) -> list[Piece]:
        return [Piece("" if self._turns is None else self._turns.closing_after(system), False)]

    def _encoded(self, prompts: Sequence[Sequence[Piece]]) -> list[list[int]]:
        return [self._beginning + ids for ids in self._encoding.many(prompts)]

    def _joined(
        self, asked: Sequence[list[Piece]], tokens: Sequence[list[int]], answers: Sequence[str]
    ) -> list[list[list[int]]]:
        """The tokens that each answer adds to each prompt."""
        joint = [self._encoded([[*pieces, Piece(answer, True)] for pieces in asked]) for answer in answers]
        out = []
        for k, ids in enumerate(tokens):
            whole = [each[k] for each in joint]
            if all(both[: len(ids)] == ids for both in whole):
                out.append([both[len(ids) :] for both in whole])
            else:
                out.append(self._continuations(ids, whole, answers))
        return out

    def _continuations(self, ids: list[int], whole: list[list[int]], labels: Sequence[str]) -> list[list[int]]:
        """Tokens of the labels that go on from the prompt's own, where the tokenizer would merge its end with a label.

        What both give is decoded and must be the same text.
        """
        for anchor in ("", "\n"):
            added = [self._encoding.after(anchor, label) or [] for label in labels]
            texts = [self._encoding.decode([*ids, *own]) for own in added]
            if texts == [self._encoding.decode(both) for both in whole]:
                self._merged = True
                return added
        raise BadConfig(
            f"choices: this tokenizer merges the end of the prompt with the label {' or '.join(map(repr, labels))}, and "
            "no tokens of the label alone give the same text; choose other labels."
        )


def _beginning(tokenizer: Any) -> list[int]:
    """What the tokenizer puts before a text of itself; what it puts behind one would stand before the answer."""
    with_it = list(tokenizer(TEXT)["input_ids"])
    without = list(tokenizer(TEXT, add_special_tokens=False)["input_ids"])
    fits = (k for k in range(len(with_it)) if with_it[k : k + len(without)] == without)
    return with_it[: next(fits, 0)]


def _end(pieces: Sequence[Piece]) -> str:
    """What the template prints after the last text of the caller's."""
    last = max(k for k, piece in enumerate(pieces) if piece.given)
    return "".join(piece.string for piece in pieces[last + 1 :])
