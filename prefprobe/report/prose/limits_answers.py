"""What answers that came over an API cannot show: budget, refusals, what was lost, and who answered."""

from collections import Counter
from typing import Any

from prefprobe.findings.results import Results
from prefprobe.numbers import by_set, count, listed, number, percent, shortened

MANY = 0.05
"""A larger share of answers that choose neither task, refused or unparsed, is said to be a limit."""
_NAMED = 3
"""So many sentences of a provider are given; of the others only how many questions they turned down."""
_LONGEST = 200


def answers(results: Results) -> list[str]:
    """One or two sentences each; none where every question got a plain answer."""
    said = _spent(results.measure) + _estimated(results) + _given(results) + _neither(results) + _tool_calls(results)
    said += _unread(results) + _bounded(results)
    return said + _failed(results) + _lost(results) + _answered_by(results) + _sampled(results) + _unmoved(results)


def _spent(measure: dict[str, dict[str, Any]]) -> list[str]:
    stopped = {name: found for name, found in measure.items() if found["stopped"] == "budget"}
    if not stopped:
        return []
    after = by_set({name: f"{count(found['n_choices'])} choices" for name, found in stopped.items()})
    return [f"Budget: measuring stopped because the budget was spent, after {after}; the last round is not whole."]


def _estimated(results: Results) -> list[str]:
    estimated = {
        name: f"{count(found['estimated'])} of {count(found['n_choices'])} answers"
        for name, found in results.accounts.items()
        if found.get("estimated")
    }
    if not estimated:
        return []
    return [
        f"Tokens: of {by_set(estimated)} the endpoint does not report the tokens. They are estimated, from the bytes of prompt "
        "and answer rather too high than too low, and so is what prices and budgets make of them."
    ]


def _given(results: Results) -> list[str]:
    begun = {
        name: f"“{asked['prefill']}”, since their own begin with a label with a probability of {number(asked['label_mass'], 2)}"
        for name, found in results.measure.items()
        if (asked := found.get("asked") or {}).get("prefill")
    }
    if not begun:
        return []
    return [
        f"Beginning: all answers were given their beginning, {by_set(begun)}. P(A) is then the probability of the one label "
        "among answers that begin so, and label mass that of both."
    ]


def _neither(results: Results) -> list[str]:
    shares: dict[str, dict[str, str]] = {"refusals": {}, "unparsed": {}}
    for kind, of in shares.items():
        for name, found in results.accounts.items():
            if (found.get(kind) or 0) > MANY * found["n_choices"]:
                of[name] = percent(found[kind] / found["n_choices"])
    no_judge = "" if results.api and results.api["judge"] else " No judge was set to read them."
    said = (
        (shares["refusals"], "Refusals: of the answers, {} decline to choose. They count for neither task, so a task that is "
         "often declined is measured by fewer choices."),
        (shares["unparsed"], "Unparsed answers: {} say neither a label nor that they decline, and count for neither task."
         + no_judge),
    )  # fmt: skip
    return [text.format(by_set(of)) for of, text in said if of]


def _tool_calls(results: Results) -> list[str]:
    calls = {name: count(found["tool_calls"]) for name, found in results.accounts.items() if found.get("tool_calls")}
    if not calls:
        return []
    return [
        f"Calls of tools: {by_set(calls)} of the unparsed answers call a tool and say nothing; `extra: {{tool_choice: none}}` "
        "forbids that where the endpoint heeds it."
    ]


def _unread(results: Results) -> list[str]:
    unread = results.counts("unread")
    if not unread:
        return []
    return [
        f"Unread: the log-probabilities of {count(unread.total())} unparsed answers are not those of an answer: "
        f"{_counted(unread)}."
    ]


def _bounded(results: Results) -> list[str]:
    bounded = {
        name: f"{count(found['bounded'])} of {count(found['n_choices'])} choices"
        for name, found in results.accounts.items()
        if found.get("bounded")
    }
    if not bounded:
        return []
    return [
        f"Bounds: of {by_set(bounded)} only one label was listed; the log-odds that are read of them are the least that "
        "they can be, and utilities that rest on them may lie further apart than they are said to."
    ]


def _failed(results: Results) -> list[str]:
    failures = results.counts("failures").most_common()
    if not failures:
        return []
    named = [f"“{shortened(why.removeprefix('failed: '), _LONGEST)}” ({count(n)})" for why, n in failures[:_NAMED]]
    others = sum(n for _, n in failures[_NAMED:])
    named += [f"other reasons ({count(others)})"] if others else []
    total = count(sum(n for _, n in failures))
    return [
        f"Failed questions: the endpoint turned down {total} for good; they count for neither task. It said {listed(named)}."
    ]


def _lost(results: Results) -> list[str]:
    losses, asked = results.counts("losses"), sum(found["n_choices"] for found in results.accounts.values())
    if not losses:
        return []
    return [
        f"Lost attempts: beside {count(asked)} answers, those that were lost and tried again number "
        f"{count(losses.total())}: {_counted(losses)}. Those that may be billed are counted as paid."
    ]


def _answered_by(results: Results) -> list[str]:
    served = results.counts("served")
    if len(served) < 2:
        return []
    return [
        f"Providers: answers came from more than one provider or name, {_counted(served)}; they may run the model at other "
        "precisions or with other templates, which no number here tells apart."
    ]


def _sampled(results: Results) -> list[str]:
    if not results.api or results.api["mode"] == "sampled":
        return []
    sampled = [found.get("asked") or {} for found in results.measure.values() if found["engine"].startswith("sampled")]
    if not sampled:
        return []
    reasons = sorted({(asked.get("why") or "").removeprefix("sampled: ") for asked in sampled} - {""})
    because = f" because {listed(reasons)}" if reasons else ""
    return [
        f"Sampling: answers were sampled and no probabilities read off{because}. A sampled answer says less of a pair, and "
        "has noise of its own."
    ]


def _unmoved(results: Results) -> list[str]:
    unanswered = (results.shift or {}).get("unanswered")
    if not unanswered:
        return []
    return [
        f"Unanswered: the tasks under a system prompt that shifts leave out number {count(unanswered)}; of their "
        "comparisons fewer than two drew a choice in both orders, under the prompt and under the baseline."
    ]


def _counted(counter: Counter[str]) -> str:
    return listed([f"{name} ({count(n)})" for name, n in counter.most_common()])
