"""What an answer says, for every form in which answers have come."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefprobe.choices.engine import Answer
from prefprobe.choices.reading import Labels, answer_text, probabilities_raw, read_probabilities, read_text
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
    raw = probabilities_raw(text, [{"token": text, "logprob": -1.0, "top_logprobs": []}], LABELS)
    assert read_probabilities(Answer("q", raw), LABELS, 1.0).outcome in ("exact", "refusal", "unparsed")
    assert answer_text(f"<think>{text.replace('</think>', '')}</think>rest") == "rest"


def entry(token: str, p: float, others: dict[str, float]) -> dict:
    listed = [{"token": t, "logprob": math.log(q)} for t, q in {token: p, **others}.items() if q > 0]
    return {"token": token, "logprob": math.log(p), "top_logprobs": listed}


def exact(content: list[dict], temperature: float = 1.0, text: str = "Task A"):
    return read_probabilities(Answer("q", probabilities_raw(text, content, LABELS)), LABELS, temperature)


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
    reading = exact([entry("Task", 0.9, {}), entry(" A", 0.95, {" one": 0.03, " two": 0.02})])
    assert reading.bounded
    assert reading.logit == pytest.approx(math.log(0.95 / 0.02), abs=1e-5)
    assert reading.label_mass == pytest.approx(0.9 * 0.95, abs=1e-5)
    content = [entry("Task", 0.9, {}), entry(" B", 1.0, {})]
    content[1]["top_logprobs"].append({"token": " A", "logprob": -9999.0})
    reading = exact(content)
    assert (reading.bounded, reading.logit) == (True, 0.0)  # all that is known: B's own probability bounds A's
    everything = [{"token": "Task A", "logprob": -math.inf, "top_logprobs": []}]
    assert math.isfinite(exact(everything).logit)


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
    raw = json.loads(probabilities_raw("Task A: once upon a time", content, LABELS))
    assert [token for token, _, _ in raw["top"]] == ["Task", " A", ":"]
    assert raw["text"] == "Task A: once upon a time"
