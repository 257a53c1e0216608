"""What was measured and what it took: the cells of the tables on choices."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from prefprobe.findings.results import Results
from prefprobe.numbers import MISSING, count, dollars, number
from prefprobe.report import rows as rows_of

Cell = tuple[float | None, str]
"""A number and how it is shown; words have no number."""
Row = tuple[str, list[Cell]]
Show = Callable[[Any], str]

SETS = ("train", "eval")
_STOPPED = {"max_rounds": "last round", "converged": "convergence"}

_ROUND: tuple[tuple[str, Show, str], ...] = (
    ("new pairs", count, "new_pairs"),
    ("choices", count, "choices"),
    ("rank r", number, "rank_correlation"),
    ("split-half", number, "split_half"),
    ("median s.e.", number, "median_se"),
    ("P(first)", number, "p_first"),
)
_ROUND_ASKED: tuple[tuple[str, Show, str], ...] = (
    ("refusals", count, "refusals"),
    ("unparsed", count, "unparsed"),
    ("failed", count, "failed"),
    ("tokens", count, "tokens"),
    ("US$", dollars, "dollars"),
)
"""What a round has besides where an API is asked."""

_SIZE: tuple[tuple[str, Show, str, str | None], ...] = (
    ("tasks", count, "n_tasks", None),
    ("pairs", count, "n_pairs", None),
    ("choices", count, "n_choices", None),
)
_ANSWERS: tuple[tuple[str, Show, str, str | None], ...] = (
    ("refusals", count, "refusals", None),
    ("unparsed answers", count, "unparsed", None),
    ("failed questions", count, "failed", None),
)
_SPEND: tuple[tuple[str, Show, str, str | None], ...] = (
    ("answers paid for", count, "spend", "requests"),
    ("tokens in", count, "spend", "prompt_tokens"),
    ("tokens out", count, "spend", "completion_tokens"),
    ("US$", dollars, "spend", "dollars"),
    ("of these in vain: answers", count, "repeated", "requests"),
    ("of these in vain: tokens in", count, "repeated", "prompt_tokens"),
    ("of these in vain: tokens out", count, "repeated", "completion_tokens"),
    ("of these in vain: US$", dollars, "repeated", "dollars"),
)
"""What came to nothing is what a process had on its way or not yet saved when it was killed."""
_OWN: tuple[tuple[str, Show, str, str | None], ...] = (
    ("pairs that own weights were asked too", count, "agreement", "pairs"),
    ("r of P(A) with own weights", number, "agreement", "r"),
    ("P(A) apart, root mean square", number, "agreement", "difference"),
)
_TRUST: tuple[tuple[str, Show, str, str | None], ...] = (
    ("P(first is chosen)", number, "position_bias", "p_first"),
    ("logit of first: mean", number, "position_bias", "mean_logit"),
    ("logit of first: sd", number, "position_bias", "sd_logit"),
    ("label mass: mean", number, "label_mass", "mean"),
    ("label mass: 5th percentile", number, "label_mass", "p05"),
    ("label mass: least", number, "label_mass", "min"),
    ("r between halves of the pairs", number, "reliability", "split_half_r"),
    ("stepped up (Spearman–Brown)", number, "reliability", "spearman_brown"),
    ("choices in line with μ", number, "fit", "agreement"),
    ("additive share of logit variance", number, "additive_r2", None),
)


def rounds(results: Results) -> tuple[list[str], list[tuple[str, list[Row]]]]:
    """Heads, and the rounds of each set. A column that is empty or all zero is left out."""
    rows = rows_of.rounds(results)
    for row in rows:
        row["tokens"] = (row["prompt_tokens"] or 0) + (row["completion_tokens"] or 0)
    columns = [of for of in _ROUND + (_ROUND_ASKED if results.api else ()) if any(row[of[2]] for row in rows)]
    of_set: dict[str, list[Row]] = {name: [] for name in SETS}
    for row in rows:
        of_set[row["set"]].append((str(row["round"]), [(row[key], show(row[key])) for _, show, key in columns]))
    return [name for name, _, _ in columns], list(of_set.items())


def quantities(results: Results) -> list[Row]:
    """What there is to say of a whole set, train beside eval. A row that says nothing of either is left out."""
    sets = [results.measure[name] for name in SETS]
    rows = [_row(sets, *of) for of in _SIZE]
    rows.append(("rounds", [(len(found["rounds"]), count(len(found["rounds"]))) for found in sets]))
    rows.append(("stopped by", [(None, _STOPPED.get(found["stopped"], found["stopped"])) for found in sets]))
    rows += [_row(sets, *of) for of in _TRUST]
    return [(name, cells) for name, cells in rows if any(words != MISSING for _, words in cells)]


def asked(results: Results) -> list[Row]:
    """What came back over an API and what it cost, in the order of `Results.accounts`; no rows if none was asked."""
    if not results.api:
        return []
    sets = list(results.accounts.values())
    rows = [_row(sets, *of) for of in _ANSWERS]
    if any(found.get("tool_calls") for found in sets):
        rows.insert(2, _row(sets, "of them only calls of tools", count, "tool_calls", None))
    if results.api["judge"]:
        rows.append(_row(sets, "answers read by the judge", count, "judged", None))
    for key, name in (("losses", "attempts lost: "), ("served", "answers of ")):
        counted = [Counter(found.get(key) or {}) for found in sets]
        rows += [(name + of, [(by[of], count(by[of])) for by in counted]) for of in sorted(results.counts(key))]
    if any(found.get("bounded") for found in sets):
        rows.append(_row(sets, "with only one label listed", count, "bounded", None))
    rows += [_row(sets, *of) for of in _OWN]
    spend = [_row(sets, *of) for of in _SPEND]
    rows += [(name, cells) for name, cells in spend if any(value for value, _ in cells)]
    return [(name, cells) for name, cells in rows if any(words != MISSING for _, words in cells)]


def _row(sets: list[dict[str, Any]], name: str, show: Show, key: str, inner: str | None) -> Row:
    values = [found.get(key) if inner is None else (found.get(key) or {}).get(inner) for found in sets]
    return name, [(value, show(value)) for value in values]
