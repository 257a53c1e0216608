"""What a judge's answer says, in every form in which models answer."""

import json

import pytest

from prefprobe.choices.engine import Answer
from prefprobe.topics.reading import Labels, Reading
from prefprobe.topics.taxonomy import TAXONOMIES, Taxonomy

STUDY = Taxonomy.parse((TAXONOMIES / "study.yaml").read_bytes(), "study")
LABELS = Labels(STUDY)


def read(raw: str, finish: str = "stop") -> Reading:
    return LABELS.read(Answer("q", raw, finish))


@pytest.mark.parametrize("name", STUDY.names)
def test_every_label_is_read_in_every_form(name: str) -> None:
    said = json.dumps({"primary": name, "secondary": None, "confidence": 0.8})
    whole = Reading(name, None, 0.8, "object")
    for raw in (
        said,
        f"```json\n{said}\n```",
        f"Sure! Here it is:\n\n{said}\n",
        f"<think>math or coding?</think>{said}",
    ):
        assert read(raw) == whole
    words = name.replace("_", " ")
    prose = (name, name.upper(), f" **{name}** ", f"`{name}`.", words, words.title(), name.replace("_", "-"))
    spoken = (
        f"Topic: {name}",
        f"The topic is **{words}**.",
        f"Primary label: {name}\nConfidence: high",
        f"{name}\n\nIt fits.",
    )
    for raw in (*prose, *spoken, f'{{"primary": "{name}", "secon'):
        assert (read(raw).primary, read(raw).refusal) == (name, False), raw


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"primary": "math", "secondary": "coding", "confidence": 1}, Reading("math", "coding", 1.0, "object")),
        ({"primary": "math", "secondary": "math"}, Reading("math", None, None, "object")),
        ({"primary": "math", "secondary": "algebra", "confidence": "0.5"}, Reading("math", None, 0.5, "object")),
        ({"primary": "math", "confidence": 95}, Reading("math", None, None, "object")),
        ({"primary": "math", "confidence": True}, Reading("math", None, None, "object")),
        ({"primary": "math", "confidence": float("nan")}, Reading("math", None, None, "object")),
        ({"primary": "algebra", "secondary": "math"}, Reading(own="algebra")),
        ({"primary": None}, Reading(own="None")),
        ({"primary": ["math"]}, Reading(own="math")),
    ],
)
def test_objects(said: dict[str, object], expected: Reading) -> None:
    assert read(json.dumps(said)) == expected


def test_the_first_object_that_has_a_label_counts() -> None:
    assert read('{"note": {"primary": 1}} {"primary": "fiction"}').primary == "fiction"
    assert read("{{{" + '{"primary": "fiction"}').primary == "fiction"


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "algebra",
        "Mathematics and code.",
        "It is either math or coding.",
        "This is not math.",
        "It is math, coding and fiction.",
        "Neither fiction fits here.",
        "Another topic: none of these",
        "The other one.",
        "42",
        "x" * 500 + " math",
        "Topic: math. Topic: coding.",
        "{" * 3000,
    ],
)
def test_what_names_no_label_or_several_is_unread(raw: str) -> None:
    assert read(raw).primary is None
    assert not read(raw).refusal


def test_a_label_of_its_own_is_kept_short() -> None:
    assert read("algebra").own == "algebra"
    assert len(read(json.dumps({"primary": "long " * 100})).own) <= 40
    assert read("A long sentence about nothing in the list at all").own == ""


def test_refusals() -> None:
    for raw in ("I'm sorry, but I can't help with that.", "I cannot label this.", "As an AI, I have no view."):
        assert read(raw) == Reading(refusal=True)
    assert read("", "content_filter") == read("whatever", "refusal") == Reading(refusal=True)
    assert read("I'm sorry, but it is sad. Topic: harmful_request").primary == "harmful_request"
    assert read("", "failed: 400: policy") == Reading()
