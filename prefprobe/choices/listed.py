"""An exact answer as it is kept: its text beside the log-probabilities that were listed, and whether the two agree."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp
from typing import Any

UNLISTED = -99.0
"""Log-probabilities below this say only that a token was not listed (OpenAI writes -9999)."""
_MOST = 1.02
"""Sum of the probabilities at a position beyond which they are none; rounded ones may add up to a little more than 1."""
_SURE = -0.01
"""Log-probability from which on a token is as good as given."""
_PART = re.compile(r"(?:<0x[0-9a-fA-F]{2}>|bytes:|\\x[0-9a-fA-F]{2})+")
"""Part of a character, as servers write it."""
_SIGNS = str.maketrans({"Ġ": " ", "▁": " ", "Ċ": "\n"})
"""What some vocabularies write for white space."""
_SHOWN = 24


@dataclass(frozen=True, slots=True)
class Position:
    """One token of an answer."""

    said: str
    """The token, as it stands in the answer."""
    logprob: float
    listed: list[tuple[str, float]]
    """Tokens that were possible here and their log-probabilities: all that were listed, and the one that was said."""

    @property
    def total(self) -> float:
        """Sum of the probabilities."""
        return sum(exp(min(value, 1.0)) for _, value in self.listed if value > UNLISTED)


@dataclass(frozen=True, slots=True)
class Listed:
    """What was listed for one answer."""

    text: str
    positions: list[Position]
    fault: str
    """Why the log-probabilities are not those of the answer, in words; "" if they are."""
    found: str = ""
    """What makes that plain: what is listed for what is said, or the sum."""

    @classmethod
    def of(cls, raw: str) -> "Listed":
        """From an answer's raw form, as `kept` writes it."""
        read = json.loads(raw)
        top: list[tuple[str, float, list[list[Any]]]] = read["top"]
        leads = _leads([(token, logprob) for token, logprob, _ in top], read["text"])
        if leads is None:
            said = "".join(token for token, _, _ in top)
            found = f"{said[:_SHOWN]!r} for {read['text'][:_SHOWN]!r}"
            return cls(read["text"], [], "the listed tokens are not the answer", found)
        positions = [_position(lead, *each) for lead, each in zip(leads, top, strict=False) if lead is not None]
        most = max((each.total for each in positions), default=0.0)
        if most > _MOST:
            return cls(
                read["text"], positions, "the probabilities listed for one token add up to more than 1", f"{most:.2f}"
            )
        return cls(read["text"], positions, "")


def kept(text: str, content: Sequence[dict[str, Any]], undecided: Callable[[str], bool], given: str = "") -> str:
    """The raw form of an exact answer: JSON of its text and tokens, with what else was listed for a token while the
    beginning of the answer before it is `undecided`.

    `content` has a token, its log-probability and `top_logprobs` for every position. The text is without a beginning that
    was `given`, which some servers repeat and list nothing of.
    """
    tokens = [(_token(entry), _rounded(entry["logprob"])) for entry in content]
    leads = _leads(tokens, text)
    if leads is None and given and text.startswith(given):
        text = text.removeprefix(given)
        leads = _leads(tokens, text)
    leads = leads or []
    top: list[list[Any]] = []
    said = ""
    for number, ((token, logprob), entry) in enumerate(zip(tokens, content, strict=True)):
        others = (entry.get("top_logprobs") or []) if undecided(said) else []
        top.append([token, logprob, [[_token(other), _rounded(other["logprob"])] for other in others]])
        lead = leads[number] if number < len(leads) else ""
        said += "" if lead is None else lead + token
    return json.dumps({"text": text, "top": top}, separators=(",", ":"))


def _leads(tokens: Sequence[tuple[str, float]], text: str) -> list[str | None] | None:
    """The white space that stands before each token in `text` and not in the token, as some servers strip it.

    None within it for a first token that the answer does not show, such as one that begins every text; it must have been
    as good as given. The list ends where a part of a character is met. None for tokens that are not the answer.
    """
    leads: list[str | None] = []
    rest, begun, beyond = text.translate(_SIGNS).lstrip(), False, 0
    for token, logprob in tokens:
        said = token if begun else token.lstrip()
        white = rest[: len(rest) - len(rest.lstrip())]
        fits = (lead for lead in ("", white) if rest.startswith(lead + said) or (lead + said).startswith(rest))
        lead = next(fits, None)
        if not rest.strip():  # what ends an answer is not shown in it
            beyond += bool(token.strip()) and not _is_part(token)
            if beyond > 1:
                return None
            leads.append("")
        elif lead is not None:
            leads.append(lead)
            begun, rest = begun or bool(said), rest[len(lead + said) :]
        elif not leads and not UNLISTED < logprob < _SURE:
            leads.append(None)
        elif begun and _is_part(token):
            break
        else:
            return None
    return leads


def _position(lead: str, token: str, logprob: float, top: list[list[Any]]) -> Position:
    """What was listed of one token; twice the same counts once."""
    listed = list(dict.fromkeys((other if other[:1].isspace() else lead + other, value) for other, value in top))
    own = [value for other, value in listed if other == lead + token]
    if not own:
        listed.append((lead + token, logprob))
    return Position(lead + token, max(own, default=logprob), listed)


def _is_part(token: str) -> bool:
    """Whether a token may be a part of a character, which servers write in many ways."""
    return not token.isascii() or _PART.fullmatch(token) is not None


def _token(entry: dict[str, Any]) -> str:
    return str(entry["token"]).translate(_SIGNS)


def _rounded(logprob: float) -> float:
    return round(max(float(logprob), -9999.0), 6)  # -inf is no JSON
