"""The tokens of a prompt, in which only the template's own control tokens are control tokens.

A text that quotes one (`<|im_end|>` in a chat log) is cut out of the prompt and read as plain text. That the cut changes
nothing else is shown on a twin of the text, whose control tokens are each changed in one character and are none any more.
"""

import re
import unicodedata
from collections.abc import Sequence
from itertools import product
from typing import Any

from prefprobe.activations.turns import TEXT, Piece
from prefprobe.errors import BadConfig
from prefprobe.numbers import shortened

_MARK = re.compile(r"[^\w\s].*\w.*[^\w\s]", re.DOTALL)
"""An added token that no text would hold by chance: neither a word nor white space."""

Run = tuple[str, bool]
"""A string, and whether control tokens in it are meant."""


class Encoding:
    """Tokens of prompts by one tokenizer; what it adds of itself to a text (BOS) is left out.

    Control tokens are those that it calls special, and the marks among its other added tokens that a template `prints`, such
    as `</think>`; of these a text that spells one out is refused, since no tokenizer reads them as text.
    """

    def __init__(self, tokenizer: Any, prints: str = "") -> None:
        self._tokenizer = tokenizer
        added = {
            str(token)
            for token in tokenizer.added_tokens_decoder.values()
            if token.special or (_MARK.fullmatch(str(token)) and str(token) in prints)
        }
        numbers = {token: tokenizer.convert_tokens_to_ids(token) for token in added | set(tokenizer.all_special_tokens)}
        self._special = {n: token for token, n in numbers.items() if tokenizer.convert_ids_to_tokens(n) == token}
        unknown = tokenizer.unk_token_id
        self._unknown = self._special.pop(unknown, None) if unknown is not None else None
        """May stand for any text that the vocabulary lacks: a control token only where it is spelt out."""
        self._unknown_id = unknown
        names = sorted({*self._special.values(), *filter(None, [self._unknown])}, key=lambda name: (-len(name), name))
        self._control = re.compile("|".join(map(re.escape, names)) or "(?!)")
        self._own: dict[tuple[str, ...], list[int]] = {}

    def many(self, prompts: Sequence[Sequence[Piece]]) -> list[list[int]]:
        """Token ids of each prompt. Raises BadConfig naming the control token of a text that cannot be read as text."""
        whole = self._ids([_joined(pieces) for pieces in prompts])
        return [
            ids if self._plain(pieces, ids) else self._apart(pieces) for pieces, ids in zip(prompts, whole, strict=True)
        ]

    def located(self, pieces: Sequence[Piece], ids: Sequence[int]) -> tuple[int, int]:
        """Where in a prompt's tokens, as `many` gave them, the task's text stands: half-open, from the token that holds the
        first of its characters that is no white space to the one that holds the last such.

        Found by the tokenizer's offsets, and held against the text that these tokens are. Raises BadConfig where that fails.
        """
        places = [k for k, piece in enumerate(pieces) if piece.task]
        text = pieces[places[0]].string.strip()
        if len(places) != 1 or not text:
            what = "prints a task's text more than once" if text else "prints nothing of the task"
            raise BadConfig(f"the prompt {what}, so that no tokens are the task's; read the last token of the prompt.")
        before = _joined(pieces[: places[0]]) + pieces[places[0]].string
        first = len(before.rstrip()) - len(text)
        spans = self._offsets(pieces, ids)
        held = [k for k, (start, stop) in enumerate(spans) if start < first + len(text) and stop > max(start, first)]
        if held and self._is_in(text, ids[held[0] : held[-1] + 1]):
            start, stop = held[0], held[-1] + 1
            # a space that the tokenizer adds of itself begins with the character behind it
            while spans[start][0] == spans[min(start + 1, stop - 1)][0] and self._is_in(text, ids[start + 1 : stop]):
                start += 1
            return start, stop
        raise BadConfig(
            f"the text “{shortened(text, 60)}” is not found in its tokens as it is, since the tokenizer alters it; read the last "
            "token of the prompt, or leave the text out."
        )

    def separates(self, end: str) -> bool:
        """Whether what follows the template's `end` is read as if no text stood before: a control token lies between."""
        return self._control.search(end) is not None

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, control tokens included."""
        text: str = self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def after(self, anchor: str, string: str, split: bool = True) -> list[int] | None:
        """Tokens of a plain string behind the anchor, less the anchor's; None if they do not begin with them.

        Some tokenizers put a space before what stands first; behind an anchor nothing does.
        """
        if not anchor:
            return self._ids([string], split)[0]
        lead, ids = self._ids([anchor, anchor + string], split)
        return ids[len(lead) :] if ids[: len(lead)] == lead else None

    def _ids(self, strings: list[str], split: bool = False) -> list[list[int]]:
        """Of each string; with `split` control tokens in it are plain text."""
        if not strings:
            return []
        found = self._tokenizer(strings, add_special_tokens=False, split_special_tokens=split)["input_ids"]
        return [list(ids) for ids in found]

    def _offsets(self, pieces: Sequence[Piece], ids: Sequence[int]) -> list[tuple[int, int]]:
        """The characters of the prompt that each of its tokens stands for."""
        if not self._tokenizer.is_fast:
            raise BadConfig(
                "this tokenizer does not say which characters a token stands for; read a position counted from the prompt's end."
            )
        whole = [([(_joined(pieces), True)], "")]
        apart = [(cut(pieces), anchor) for cut, anchor in product((self._at_controls, _at_texts), ("", "\n"))]
        for runs, anchor in whole + apart:
            found: list[tuple[int, int]] = []
            read: list[int] = []
            at = 0
            for k, (string, meant) in enumerate(runs):
                lead = anchor if k else ""
                got = self._tokenizer(
                    lead + string, add_special_tokens=False, split_special_tokens=not meant, return_offsets_mapping=True
                )
                skip = len(self._ids([lead], not meant)[0]) if lead else 0
                read += got["input_ids"][skip:]
                found += [(a + at - len(lead), b + at - len(lead)) for a, b in got["offset_mapping"][skip:]]
                at += len(string)
            if read == list(ids):
                return found
        return []

    def _is_in(self, text: str, ids: Sequence[int]) -> bool:
        """Whether tokens hold a text, but for the form in which its accents are written."""
        said, wanted = (unicodedata.normalize("NFC", each) for each in (self.decode(ids), text))
        return wanted in said

    def _controls(self, ids: Sequence[int]) -> list[int]:
        return [number for number in ids if number in self._special]

    def _plain(self, pieces: Sequence[Piece], ids: Sequence[int]) -> bool:
        """Whether the control tokens among `ids` are those that the template prints, and no text spells out an unknown."""
        if self._unknown and any(self._unknown in piece.string for piece in pieces if piece.given):
            return False
        key = tuple("" if piece.given else piece.string for piece in pieces)
        if key not in self._own:
            neutral = [TEXT if piece.given else piece.string for piece in pieces]
            self._own[key] = self._controls(self._ids(["".join(neutral)])[0])
        return self._controls(ids) == self._own[key]

    def _apart(self, pieces: Sequence[Piece]) -> list[int]:
        """Tokens of a prompt with control tokens in its texts, which are read as plain text."""
        twins = [Piece(self._control.sub(self._neutral, p.string), True) if p.given else p for p in pieces]
        expected = self._ids([_joined(twins)])[0]
        for cut, anchor in product((self._at_controls, _at_texts), ("", "\n")):
            if self._assembled(cut(twins), anchor) == expected:
                ids = self._assembled(cut(pieces), anchor) or []
                if self._controls(ids) == self._controls(expected) and self._same_unknowns(ids, expected):
                    return ids
        raise self._refusal(pieces)

    def _same_unknowns(self, ids: list[int], expected: list[int]) -> bool:
        return self._unknown is None or ids.count(self._unknown_id) == expected.count(self._unknown_id)

    def _neutral(self, match: re.Match[str]) -> str:
        """A control token with another character in its middle, so that its ends meet their neighbours as before."""
        token, middle = match[0], len(match[0]) // 2
        if len(token) < 3:
            return token
        changed = (token[:middle] + letter + token[middle + 1 :] for letter in "xqzXQZ")
        return next((twin for twin in changed if twin != token and not self._control.search(twin)), token)

    def _at_controls(self, pieces: Sequence[Piece]) -> list[Run]:
        """Cut at the template's control tokens, where tokenizers cut of themselves."""
        runs: list[Run] = []
        for string, given, _ in pieces:
            parts = [string] if given else re.split(f"({self._control.pattern})", string)
            for k, part in enumerate(parts):
                meant = k % 2 == 1
                if runs and runs[-1][1] == meant:
                    part = runs.pop()[0] + part
                if part:
                    runs.append((part, meant))
        return runs

    def _assembled(self, runs: list[Run], anchor: str) -> list[int] | None:
        out: list[int] = []
        for k, (string, meant) in enumerate(runs):
            ids = self.after(anchor if k else "", string, split=not meant)
            if ids is None:
                return None
            out += ids
        return out

    def _refusal(self, pieces: Sequence[Piece]) -> BadConfig:
        given = [piece.string for piece in pieces if piece.given]
        holding = next((text for text in given if self._control.search(text)), given[-1])
        found = self._control.search(holding)
        token = found[0] if found else next(iter(self._hidden(given)), "")
        return BadConfig(
            f"the text “{shortened(holding, 60)}” holds the control token {token}, which this tokenizer cannot be made to read "
            "as plain text; change the text or leave it out."
        )

    def _hidden(self, texts: list[str]) -> list[str]:
        """Control tokens that texts are read as without spelling them out, such as in letters of another width."""
        return [self._special[number] for ids in self._ids(texts) for number in self._controls(ids)]


def _at_texts(pieces: Sequence[Piece]) -> list[Run]:
    return [(piece.string, not piece.given) for piece in pieces if piece.string]


def _joined(pieces: Sequence[Piece]) -> str:
    return "".join(piece.string for piece in pieces)
