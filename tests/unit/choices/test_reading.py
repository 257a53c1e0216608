"""What an answer says, for every form in which answers have come."""

import json
import math
import re
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefprobe.choices.engine import Answer
from prefprobe.choices.listed import Listed, kept
from prefprobe.choices.reading import Labels, answer_text, read_probabilities, read_text
from prefprobe.choices.stimulus import Stimulus
from prefprobe.errors import BadConfig

LABELS = Labels.of(Stimulus())
TEXTS = {
    "a": [
        "Task A:",
        "Task A: Write a poem",
        "task a",
        "TASK A!",
        "**Task A:** Roses",
        "`Task A:`\nRoses",
        "> # Task A",
        "_Task A_ it is",
        "\u2028\n Task A: after a line separator",
        "\ufeffTask A:",
        "Task A: {b} {0} Task {",
        "Task A: first I thought of Task B, but no",
        "Task A: I can't say why, but I like it.",
        "<think>Task B? No.</think>\n\nTask A:",
        "so B would be longer.</think>Task A:",
        "Task A:\u2028Task, then",
        "Task A: 日本語の詩",
    ],
    "b": ["Task B:", "**Task B", "Task B. As an AI I", "Task B: I find Task A dull", "Task B\n\nOh, what a task"],
    "refusal": [
        "I can't help with that.",
        "I can’t do either of these.",
        "I cannot assist with Task A or Task B.",
        "I'm sorry, but I can't choose.",
        "I am very sorry, but no.",
        "Sorry, I won't do this.",
        "**I apologize**, but neither is appropriate.",
        "Unfortunately, I cannot do that.",
        "I'm afraid I can't do that, Dave.",
        "I must decline.",
        "As an AI language model, I have no preferences.",
        "<think>Both are harmful.</think>I'm unable to do this.",
    ],
    "unparsed": [
        "",
        " \n*",
        "Task",
        "Task Alpha is my choice",
        "A",
        "The task A",
        "Task A/Task B",
        "Task A and Task B are both nice",
        "Task B: Task A:",
        "**Task A:**\n\n**Task B:** ",
        "I can't wait to do Task A!",
        "I can't decide, but Task B sounds fun.",
        "As an AI, I would pick Task B.",
        "<think>Task A is shorter and",
        "<think>Task A:</think>",
        "Here is a poem: Task A",
        "I would rather write a poem.",
    ],
}


@pytest.mark.parametrize(("expected", "text"), [(name, text) for name, texts in TEXTS.items() for text in texts])
def test_what_a_sampled_answer_says(expected: str, text: str) -> None:
    for finish in ("stop", "length"):  # a truncated answer says what it says
        reading = read_text(Answer("q", text, finish), LABELS)
        assert reading.outcome == expected
        assert reading.logit is None


@pytest.mark.parametrize("text", ["Task A: yes", "Task B:", "", "no"])
def test_a_provider_that_refuses_or_fails(text: str) -> None:
    assert read_text(Answer("q", text, "content_filter"), LABELS).outcome == "refusal"
    assert read_text(Answer("q", text, "refusal"), LABELS).outcome == "refusal"
    assert read_text(Answer("q", "", "failed: 400: context too long"), LABELS).outcome == "failed"
    assert read_probabilities(Answer("q", "", "failed: 400: too long"), LABELS, 1.0).outcome == "failed"


def test_other_labels() -> None:
    numbers = Labels.of(Stimulus("Option (1)", "Option (2)"))
    assert read_text(Answer("q", "option (2) because"), numbers).outcome == "b"
    russian = Labels.of(Stimulus("Задание А:", "Задание Б:"))
    assert read_text(Answer("q", "**задание б** да"), russian).outcome == "b"


@pytest.mark.parametrize(
    ("a", "b"), [("Task 1:", "Task 10:"), ("Task 10:", "Task 1:"), ("A", "a:"), ("*", "#"), ("Task A", "**Task A:**")]
)
def test_labels_of_which_one_begins_with_the_other(a: str, b: str) -> None:
    with pytest.raises(BadConfig, match="begins with the other"):
        Labels.of(Stimulus(a, b))


@given(
    st.text(st.sampled_from(" \t\n\u2028*#_`>\u00a0"), max_size=6),
    st.sampled_from("ab"),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
)
@settings(max_examples=200, deadline=None)
def test_a_label_decides_whatever_stands_around_it(before: str, chosen: str, after: str) -> None:
    for label in (f"Task {chosen.upper()}:", f"task {chosen}"):
        text = f"{before}{label} {after}"
        said = read_text(Answer("q", text), LABELS).outcome
        other = "task b" if chosen == "a" else "task a"
        assert said == chosen or (said == "unparsed" and other in text.casefold())
        assert read_text(Answer("q", f"<think>{after.replace('<', '')}</think>{text}"), LABELS).outcome == said


@given(st.text(st.characters(exclude_categories=["Cs"])))
@settings(max_examples=200, deadline=None)
def test_any_text_is_read(text: str) -> None:
    assert read_text(Answer("q", text), LABELS).outcome in ("a", "b", "refusal", "unparsed")
    raw = kept(text, [{"token": text, "logprob": -1.0, "top_logprobs": []}], LABELS.undecided)
    assert read_probabilities(Answer("q", raw), LABELS, 1.0).outcome in ("exact", "refusal", "unparsed")
    assert answer_text(f"<think>{text.replace('</think>', '')}</think>rest") == "rest"


def entry(token: str, p: float, others: dict[str, float]) -> dict:
    listed = [{"token": t, "logprob": math.log(q)} for t, q in {token: p, **others}.items() if q > 0]
    return {"token": token, "logprob": math.log(p), "top_logprobs": listed}


def exact(content: list[dict], temperature: float = 1.0, text: str | None = None):
    if text is None:
        text = "".join(each["token"] for each in content).translate(str.maketrans("Ġ▁", "  "))
    return read_probabilities(Answer("q", kept(text, content, LABELS.undecided)), LABELS, temperature)


TOKENISATIONS = [
    ["Task", " A", ":"],
    ["Task ", "A", ":"],
    ["Task", " A:"],
    ["Task A"],
    ["Task A:"],
    ["T", "ask", " A", ":"],
    ["\n", "Task", " A"],
    ["**", "Task", " A", ":**"],
    ["**Task", " A"],
    ["▁Task", "▁A", ":"],
    ["Task", "Ġ", "A"],
    ["Task", " ", "A", ":"],
]


@pytest.mark.parametrize("tokens", TOKENISATIONS, ids="|".join)
@pytest.mark.parametrize("chosen", ["A", "B"])
@given(p=st.floats(0.02, 0.98), path=st.floats(0.1, 1.0))
@settings(max_examples=20, deadline=None)
def test_every_tokenisation_gives_the_planted_probabilities(
    tokens: list[str], chosen: str, p: float, path: float
) -> None:
    """The token with the letter has 0.9 of what is there, `p` of it for A; each token before it has `path`."""
    content = []
    for token in tokens:
        if "A" in token:
            both = {token: 0.9 * p, token.replace("A", "B"): 0.9 * (1 - p), "Alas": 0.05, " Also": 0.01}
            said = token.replace("A", chosen)
            content.append(entry(said, both.pop(said), both))
        else:
            content.append(entry(token, path, {"Well": (1 - path) / 2}))
    before = next(i for i, token in enumerate(tokens) if "A" in token)
    for temperature in (1.0, 0.5):
        reading = exact(content, temperature)
        assert reading.outcome == "exact"
        assert reading.logit == pytest.approx(math.log(p / (1 - p)) / temperature, abs=1e-4)
        assert reading.label_mass == pytest.approx(path**before * 0.9, rel=1e-4)
        assert not reading.bounded


def test_labels_in_one_token_and_in_two_are_summed() -> None:
    content = [entry("Task", 0.5, {"Task A": 0.1, "Task B": 0.3, "I": 0.1}), entry(" A", 0.8, {" B": 0.2})]
    reading = exact(content)
    assert reading.logit == pytest.approx(math.log((0.1 + 0.5 * 0.8) / (0.3 + 0.5 * 0.2)), abs=1e-5)
    assert reading.label_mass == pytest.approx(0.9, abs=1e-5)


def test_a_label_that_is_not_listed_gives_a_bound() -> None:
    """The bound is the smallest listed probability, or what those that are listed leave, whichever is less."""
    for others, bound in (({" one": 0.02, " two": 0.01}, 0.01), ({" one": 0.03, " two": 0.015}, 0.005)):
        reading = exact([entry("Task", 0.9, {}), entry(" A", 0.95, others)])
        assert reading.bounded
        assert reading.logit == pytest.approx(math.log(0.95 / bound), abs=1e-3)
        assert reading.label_mass == pytest.approx(0.9 * 0.95, abs=1e-5)
    everything = [{"token": "Task A", "logprob": -math.inf, "top_logprobs": []}]
    assert math.isfinite(exact(everything).logit)


@pytest.mark.parametrize("floor", [-9999.0, -100.0, -math.inf])
@pytest.mark.parametrize("chosen", ["A", "B"])
def test_one_hot_log_probabilities_are_a_bound_and_not_a_tie(floor: float, chosen: str) -> None:
    content = [entry("Task", 1.0, {}), entry(f" {chosen}", 1.0, {})]
    content[1]["top_logprobs"] += [{"token": other, "logprob": floor} for other in (" A", " B", " C")]
    reading = exact(content)
    assert (reading.outcome, reading.bounded) == ("exact", True)
    assert reading.logit == pytest.approx(math.log(1e6) * (1 if chosen == "A" else -1), abs=1e-5)


def plain(chosen: str = "A", p: float = 0.87) -> list[dict]:
    """`Task A: la` by a model for which `p` is P(A)."""
    both = {" A": p, " B": 1 - p}
    first = entry("Task", 0.9, {"I": 0.06, "Both": 0.04})
    return [first, entry(f" {chosen}", both.pop(f" {chosen}"), both), entry(":", 0.99, {}), entry(" la", 0.9, {})]


def rewritten(content: list[dict], write) -> list[dict]:
    """Every entry, its alternatives too, as `write` has it."""
    return [
        write({**each, "top_logprobs": [write(dict(other)) for other in each["top_logprobs"]]})
        for each in json.loads(json.dumps(content))
    ]


def units(change) -> Callable[[dict], dict]:
    return lambda each: {**each, "logprob": change(each["logprob"])}


@pytest.mark.parametrize("change", [math.exp, lambda _: 0.0, lambda log: log / math.log(10), lambda log: -log])
@given(p=st.floats(0.05, 0.95))
@settings(max_examples=20, deadline=None)
def test_values_in_other_units_are_not_read(change: Callable[[float], float], p: float) -> None:
    content = rewritten(plain(p=p), units(change))
    raw = kept("Task A: la", content, LABELS.undecided)
    reading = read_probabilities(Answer("q", raw), LABELS, 1.0)
    assert (reading.outcome, reading.logit, reading.label_mass) == ("unparsed", None, None)
    of = Listed.of(raw)
    assert of.fault == "the probabilities listed for one token add up to more than 1"
    assert float(of.found) > 1
    assert read_probabilities(Answer("q", raw), LABELS, 1.0).fault == of.fault


def test_what_is_listed_twice_counts_once_and_like_tokens_count_together() -> None:
    twice = plain()
    twice[1]["top_logprobs"].append(dict(twice[1]["top_logprobs"][0]))
    assert exact(twice) == exact(plain())
    like = plain()
    like[1]["top_logprobs"][1:] = [{"token": " B", "logprob": math.log(q)} for q in (0.10, 0.03)]
    assert exact(like).logit == pytest.approx(math.log(0.87 / 0.13), abs=1e-4)


def test_the_likely_path_has_the_probability_that_is_listed_for_it() -> None:
    greedy = plain()
    for each in greedy:
        each["logprob"] = 0.0  # of the decoding, not of the model
    assert exact(greedy) == exact(plain())


def test_probabilities_that_add_up_to_one_but_for_rounding_are_read() -> None:
    rounded = rewritten(plain(), units(lambda log: round(log, 2)))
    assert exact(rounded).logit == pytest.approx(exact(plain()).logit, abs=0.02)


SAID = "Task A: la, “so” it is"
TOKENS = ["Task", " A", ":", " la", ",", " “", "so", "”", " it", " is"]


def told(tokens: list[str], text: str = SAID, first: float = 1.0) -> Listed:
    content = [entry(token, first if not n else 1.0, {}) for n, token in enumerate(tokens)]
    return Listed.of(kept(text, content, LABELS.undecided))


@pytest.mark.parametrize(
    "tokens",
    [
        TOKENS,
        TOKENS[:4],  # fewer than the answer has
        [*TOKENS, "<|im_end|>"],
        [*TOKENS, " \ufffd", "\ufffd", "\ufffd"],  # a character that was not finished
        [*TOKENS, "\n", "</s>", " "],
        ["<s>", *TOKENS],
        ["", *TOKENS],
        ["\n", " ", *TOKENS],
        [token.strip() for token in TOKENS],
        ["<s>", *(token.strip() for token in TOKENS)],
        [*TOKENS[:5], " \ufffd", "\ufffd", "so", "\ufffd"],
        [*TOKENS[:5], " ", "<0xE2>", "<0x80>", "<0x9C>", "so"],
        [*TOKENS[:5], "ĠâĢľ", "so", "âĢĿ"],
        [*TOKENS[:5], " ", "bytes:\\xe2\\x80", "so"],
        [token.replace(" ", "▁") for token in TOKENS],
    ],
    ids=repr,
)
def test_tokens_that_are_the_answer_however_they_are_written(tokens: list[str]) -> None:
    of = told(tokens)
    assert of.fault == ""
    assert "".join(position.said for position in of.positions).lstrip().startswith("Task A: la")


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        (["<think>", "Task", " A", " is", " nice", "</think>", *TOKENS], SAID),
        (["Hm", ".", "\n", *TOKENS], SAID),
        (TOKENS, "Task B: la"),
        (TOKENS, "Task A"),  # the rest is a thought
        (TOKENS, ""),
        ([f"token_id:{n}" for n in range(9)], SAID),
        (["âĢ", "ľ", *TOKENS], SAID),
    ],
    ids=repr,
)
def test_tokens_that_are_not_the_answer(tokens: list[str], text: str) -> None:
    of = told(tokens, text)
    assert of.fault == "the listed tokens are not the answer"
    assert repr("".join(tokens).replace("Ġ", " ")[:24]) in of.found
    assert exact([entry(token, 0.9, {}) for token in tokens], text=text).outcome == "unparsed"


def test_a_first_token_that_is_not_shown_must_have_been_as_good_as_given() -> None:
    assert told(["<s>", *TOKENS], first=0.5).fault
    content = [{"token": "<s>", "logprob": -9999.0, "top_logprobs": []}, *plain()]
    assert exact(content, text="Task A: la") == exact(plain())


def test_spaces_that_were_stripped_stand_before_every_alternative() -> None:
    stripped = rewritten(plain(), lambda each: {**each, "token": each["token"].strip()})
    assert exact(stripped, text="Task A: la") == exact(plain())
    assert exact(rewritten(plain("B"), lambda e: {**e, "token": e["token"].strip()}), text="Task B: la").logit == (
        pytest.approx(exact(plain()).logit)
    )


def test_a_path_that_leads_to_no_label_is_unparsed_with_the_mass_that_was_left() -> None:
    reading = exact([entry("I", 0.5, {"Task": 0.3, " Task": 0.05, "Task A": 0.04, "Tasks": 0.1})], text="I would")
    assert (reading.outcome, reading.logit) == ("unparsed", None)
    assert reading.label_mass == pytest.approx(0.39, abs=1e-5)
    reading = exact([entry("Task", 0.6, {}), entry(" Alpha", 0.5, {" A": 0.3, " B": 0.1})], text="Task Alpha")
    assert reading.outcome == "unparsed"
    assert reading.label_mass == pytest.approx(0.6 * 0.4, abs=1e-5)
    assert exact([entry("I", 0.9, {"Task": 0.1})], text="I can't help with that.").outcome == "refusal"
    assert exact([entry("Task", 0.7, {})], text="Task").label_mass == pytest.approx(0.7, abs=1e-5)
    assert exact([], text="").label_mass == 0


def test_what_is_kept_of_an_exact_answer_ends_where_a_label_would() -> None:
    content = [entry(token, 0.9, {"x": 0.05}) for token in ("Task", " A", ":", " once", " upon", " a", " time")]
    raw = json.loads(kept("Task A: once upon a time", content, LABELS.undecided))
    assert [(token, len(listed)) for token, _, listed in raw["top"]] == [
        *(("Task", 2), (" A", 2), (":", 2)),
        *((token, 0) for token in (" once", " upon", " a", " time")),
    ]
    assert raw["text"] == "Task A: once upon a time"
