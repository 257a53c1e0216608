"""The packaged content: demo tasks, and the prompts and tasks of the shift experiments."""

import json
import re
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

import prefprobe
from prefprobe.tasks.pool import DEMO, read_tasks

PROMPTS = Path(prefprobe.__file__).parent / "shift" / "prompts"
TOPICS = {
    *("math", "coding", "fiction", "science", "health", "business"),
    *("travel", "language", "clerical", "advice", "opinion", "unsafe"),
}
CATEGORIES = {"math", "coding", "fiction", "science", "travel", "clerical"}
PERSONA = CATEGORIES | {"health", "business", "language", "advice"}
SHELLS = CATEGORIES | {"business", "language"}
N_PROMPTS = {"category": 38, "targeted": 48, "competing": 48, "persona": 50}
N_TASKS = {"category": 60, "targeted": 48, "crossed": 48, "competing": 52, "persona": 40}
TASK_SETS = {name: ["targeted", "crossed"] if name == "targeted" else [name] for name in N_PROMPTS}

# Words that give a reserved subject away. No demo task holds one, so these subjects are new to every probe.
RESERVED = {
    subject: re.compile(rf"\b(?:{words})\b", re.IGNORECASE)
    for subject, words in {
        "cheese": r"chees\w*|cheddar|gouda|brie|camembert|mozzarella|parmesan|feta|dairy|curds?",
        "rainy_weather": r"rain\w*|drizzl\w*|weather\w*|storm\w*|thunder\w*|umbrellas?|puddles?|clouds?|cloudy|downpour"
        r"|showers?|monsoons?|forecasts?|wellies",
        "cats": r"cats?|kitten\w*|feline\w*|purr\w*|whiskers?|tomcats?|litter|meow\w*|pets?",
        "classical_music": r"classical|music\w*|orchestra\w*|symphon\w*|concert\w*|operas?|sonatas?|violin\w*|pian\w*"
        r"|cellos?|cellists?|composers?|conductors?|mozart|beethoven|bach|chopin|vivaldi|fugues?|quartets?",
        "gardening": r"garden\w*|plants?|planting|flowers?|soil|weeds?|weeding|lawns?|seeds?|seedlings?|compost|hedges?"
        r"|pruning|roses?|tulips?|vegetables?|shrubs?|greenhouses?|orchards?|trees?|bulbs?",
        "astronomy": r"astro\w*|stars?|starry|planet\w*|moons?|moonlight|galax\w*|telescop\w*|comets?|cosm\w*|eclips\w*"
        r"|orbit\w*|nebula\w*|constellation\w*|solar|sun|mars|jupiter|saturn|venus|meteor\w*|universe|asteroids?",
        "cooking": r"cook\w*|recipes?|bak(?:e|es|ed|ing|er|ery)|kitchens?|ovens?|stews?|roast\w*|fry|fried|frying"
        r"|boil\w*|grill\w*|chefs?|soups?|sauces?|dishes|dish|meals?|dinner|dough|simmer\w*|ingredients?|cakes?|restaurants?",
        "ancient_history": r"ancient\w*|antiquity|rome|romans?|gree(?:k|ks|ce)|egypt\w*|pharaohs?|pyramids?|caesar"
        r"|spartan?s?|athen\w*|babylon\w*|mesopotamia\w*|archaeolog\w*|gladiators?|mumm(?:y|ies)|emperors?|trojans?|latin",
    }.items()
}


def words(text: str) -> int:
    return len(text.split())


def normal(text: str) -> str:
    return " ".join(text.split()).casefold()


def intended(prompt: dict[str, Any], task: dict[str, Any]) -> int:
    return sum(prompt["targets"].get(label, 0) for label in task["labels"])


def near_copies(tasks: list[dict[str, Any]]) -> list[tuple[str, str]]:
    bags = [(t["id"], set(re.findall(r"\w+", t["text"].casefold()))) for t in tasks]
    return [(i, j) for (i, a), (j, b) in combinations(bags, 2) if len(a & b) > 0.5 * len(a | b)]


@pytest.fixture(scope="module")
def demo() -> list[dict[str, str]]:
    return [json.loads(line) for line in DEMO.read_bytes().decode("utf-8").split("\n") if line]


@pytest.fixture(scope="module")
def experiments() -> dict[str, dict[str, Any]]:
    return {name: yaml.safe_load((PROMPTS / f"{name}.yaml").read_text("utf-8")) for name in N_PROMPTS}


@pytest.fixture(scope="module")
def shifted(experiments: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [task for e in experiments.values() for tasks in e["task_sets"].values() for task in tasks]


class TestDemo:
    def test_thirty_numbered_tasks_of_each_topic(self, demo: list[dict[str, str]]) -> None:
        assert Counter(t["topic"] for t in demo) == dict.fromkeys(TOPICS, 30)
        assert {t["id"] for t in demo} == {f"{topic}-{k:02}" for topic in TOPICS for k in range(1, 31)}
        assert all(t["id"].startswith(f"{t['topic']}-") for t in demo)

    def test_every_line_has_the_same_four_keys_in_order(self, demo: list[dict[str, str]]) -> None:
        assert {tuple(t) for t in demo} == {("id", "text", "origin", "topic")}
        assert {t["origin"] for t in demo} == {"prefprobe-demo"}
        assert DEMO.read_bytes().endswith(b"}\n")
        assert b"\r" not in DEMO.read_bytes()

    def test_texts_are_distinct_even_without_case_and_punctuation(self, demo: list[dict[str, str]]) -> None:
        repeated = [t for t, n in Counter(re.sub(r"\W+", " ", t["text"]).casefold() for t in demo).items() if n > 1]
        assert not repeated

    def test_no_two_texts_are_near_copies(self, demo: list[dict[str, str]], shifted: list[dict[str, Any]]) -> None:
        assert near_copies([*demo, *shifted]) == []

    def test_texts_are_one_short_line(self, demo: list[dict[str, str]]) -> None:
        assert [t["id"] for t in demo if not 6 <= words(t["text"]) <= 20] == []
        assert [t["id"] for t in demo if t["text"] != " ".join(t["text"].split())] == []
        assert 12 <= sum(words(t["text"]) for t in demo) / len(demo) <= 14

    @pytest.mark.parametrize("subject", sorted(RESERVED))
    def test_reserved_subjects_are_absent(self, demo: list[dict[str, str]], subject: str) -> None:
        assert [t["text"] for t in demo if RESERVED[subject].search(t["text"])] == []

    def test_openings_and_forms_vary(self, demo: list[dict[str, str]]) -> None:
        openings = Counter(t["text"].split()[0] for t in demo)
        assert max(openings.values()) <= 0.07 * len(demo), openings.most_common(3)
        assert len(openings) >= 100
        for topic in TOPICS:
            questions = sum("?" in t["text"] for t in demo if t["topic"] == topic)
            assert 1 <= questions <= 20, topic

    def test_one_text_has_braces_and_one_a_quoted_phrase(self, demo: list[dict[str, str]]) -> None:
        assert len([t for t in demo if re.search(r"[{}]", t["text"])]) == 1
        assert len([t for t in demo if re.search(r"\{name\}", t["text"])]) == 1
        assert len([t for t in demo if '"' in t["text"]]) == 1
        assert len([t for t in demo if re.search(r'"[^"]+ [^"]+"', t["text"])]) == 1

    def test_the_reader_takes_it(self, demo: list[dict[str, str]]) -> None:
        assert {(t.id, t.text, t.origin, t.topic) for t in read_tasks([DEMO])} == {tuple(t.values()) for t in demo}


class TestShift:
    def test_there_is_one_file_for_each_experiment(self) -> None:
        assert sorted(p.name for p in PROMPTS.iterdir()) == sorted(f"{name}.yaml" for name in N_PROMPTS)

    @pytest.mark.parametrize("name", N_PROMPTS)
    def test_structure(self, experiments: dict[str, dict[str, Any]], name: str) -> None:
        experiment = experiments[name]
        first = (PROMPTS / f"{name}.yaml").read_text("utf-8").split("\n")[0]
        assert first.startswith("# ")
        assert first.endswith("?")
        assert list(experiment) == ["experiment", "prompts", "task_sets"]
        assert experiment["experiment"] == name
        assert len(experiment["prompts"]) == N_PROMPTS[name]
        assert {s: len(t) for s, t in experiment["task_sets"].items()} == {s: N_TASKS[s] for s in TASK_SETS[name]}
        for prompt in experiment["prompts"]:
            assert list(prompt) == ["id", "text", "targets"]
            assert prompt["targets"]
        for task in (t for tasks in experiment["task_sets"].values() for t in tasks):
            assert list(task) == ["id", "text", "topic", "labels"]
            assert task["topic"] in TOPICS | RESERVED.keys()
            assert set(task["labels"]) <= TOPICS | RESERVED.keys()
            assert len(set(task["labels"])) == len(task["labels"]) >= 1
            assert task["topic"] == task["labels"][-1]

    @pytest.mark.parametrize("name", N_PROMPTS)
    def test_prompts_are_short_and_signed(self, experiments: dict[str, dict[str, Any]], name: str) -> None:
        for prompt in experiments[name]["prompts"]:
            assert set(prompt["targets"].values()) <= {-1, 1}
            assert 6 <= words(prompt["text"]) <= 45, prompt["id"]
            assert prompt["text"] == " ".join(prompt["text"].split())

    def test_prompts_are_no_one_sentence_with_words_filled_in(self, experiments: dict[str, dict[str, Any]]) -> None:
        """But for the versions of a biography, which shall be alike."""
        prompts = [p for e in experiments.values() for p in e["prompts"]]
        assert [ids for ids in near_copies(prompts) if not {biography(ids[0])} & {biography(ids[1])} - {None}] == []
        for name, e in experiments.items():
            openings = Counter(" ".join(p["text"].split()[:3]) for p in e["prompts"] if not biography(p["id"]))
            assert max(openings.values()) <= 0.1 * len(e["prompts"]), (name, openings.most_common(3))

    def test_love_and_hate_are_balanced_for_every_label(self, experiments: dict[str, dict[str, Any]]) -> None:
        for name, e in experiments.items():
            signs = Counter(target for p in e["prompts"] for target in p["targets"].items())
            for label in {label for label, _ in signs}:
                assert signs[label, 1] == signs[label, -1] >= 2, (name, label)

    @pytest.mark.parametrize("name", N_PROMPTS)
    def test_every_target_meets_a_task_of_every_set(self, experiments: dict[str, dict[str, Any]], name: str) -> None:
        targets = {label for p in experiments[name]["prompts"] for label in p["targets"]}
        for tasks in experiments[name]["task_sets"].values():
            assert targets <= {label for t in tasks for label in t["labels"]}

    def test_every_prompt_has_tasks_on_and_off_target(self, experiments: dict[str, dict[str, Any]]) -> None:
        for e in experiments.values():
            for prompt, tasks in ((p, t) for p in e["prompts"] for t in e["task_sets"].values()):
                on = [bool(prompt["targets"].keys() & set(t["labels"])) for t in tasks]
                assert 0 < sum(on) < len(on), prompt["id"]

    def test_both_signs_in_every_experiment(self, experiments: dict[str, dict[str, Any]]) -> None:
        for name, e in experiments.items():
            assert {s for p in e["prompts"] for s in p["targets"].values()} == {-1, 1}, name

    def test_ids_and_texts_are_unique_over_all_files(
        self, demo: list[dict[str, str]], experiments: dict[str, dict[str, Any]], shifted: list[dict[str, Any]]
    ) -> None:
        prompts = [p for e in experiments.values() for p in e["prompts"]]
        ids = Counter(x["id"] for x in [*prompts, *shifted, *demo])
        texts = Counter(normal(x["text"]) for x in [*prompts, *shifted, *demo])
        assert [i for i, n in ids.items() if n > 1] == []
        assert [t for t, n in texts.items() if n > 1] == []
        assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", i) for i in ids)

    def test_tasks_are_one_short_line(self, shifted: list[dict[str, Any]]) -> None:
        assert [t["id"] for t in shifted if not 5 <= words(t["text"]) <= 25] == []
        assert [t["id"] for t in shifted if t["text"] != " ".join(t["text"].split())] == []

    def test_openings_and_forms_of_tasks_vary(self, experiments: dict[str, dict[str, Any]]) -> None:
        for e in experiments.values():
            for name, tasks in e["task_sets"].items():
                openings = Counter(" ".join(t["text"].split()[:2]) for t in tasks)
                assert max(openings.values()) <= 0.1 * len(tasks), (name, openings.most_common(3))
                assert 0.2 <= sum("?" in t["text"] for t in tasks) / len(tasks) <= 0.8, name

    def test_labels_name_exactly_the_reserved_subjects_in_a_text(self, shifted: list[dict[str, Any]]) -> None:
        for task in shifted:
            found = {subject for subject, pattern in RESERVED.items() if pattern.search(task["text"])}
            assert found == RESERVED.keys() & set(task["labels"]), task["id"]


def biography(id_: str) -> str | None:
    """Whose biography the prompt of this id is."""
    found = re.match(r"persona-biography-([a-z]+)-", id_)
    return found[1] if found else None


def test_category_has_three_wordings_of_love_and_of_hate_for_each(experiments: dict[str, dict[str, Any]]) -> None:
    """Travel has a fourth, to make 38. No prompt is about two categories, so that these stay apart as blocks of cells."""
    prompts = Counter(tuple(p["targets"].items()) for p in experiments["category"]["prompts"])
    assert prompts == {((c, s),): 3 + (c == "travel") for c in CATEGORIES for s in (1, -1)}
    labels = [t["labels"] for t in experiments["category"]["task_sets"]["category"]]
    assert Counter(label for task in labels for label in task) == dict.fromkeys(CATEGORIES, 10)


def test_targeted_has_each_subject_six_times_pure_and_in_six_shells(experiments: dict[str, dict[str, Any]]) -> None:
    prompts, sets = experiments["targeted"]["prompts"], experiments["targeted"]["task_sets"]
    signs = Counter(target for p in prompts for target in p["targets"].items())
    assert signs == {(subject, sign): 3 for subject in RESERVED for sign in (1, -1)}
    assert Counter(tuple(t["labels"]) for t in sets["targeted"]) == {(subject,): 6 for subject in RESERVED}
    assert Counter(t["labels"][0] for t in sets["crossed"]) == dict.fromkeys(RESERVED, 6)
    assert Counter(t["labels"][1] for t in sets["crossed"]) == dict.fromkeys(SHELLS, 6)
    assert len({tuple(t["labels"]) for t in sets["crossed"]}) == 48  # no shell twice for a subject
    for tasks in sets.values():
        on = sum(bool(p["targets"].keys() & set(t["labels"])) for p in prompts for t in tasks)
        assert on >= 16 * 16


def test_competing_prompts_reverse_and_cancel_where_both_meet(experiments: dict[str, dict[str, Any]]) -> None:
    prompts, tasks = experiments["competing"]["prompts"], experiments["competing"]["task_sets"]["competing"]
    by_pair: dict[frozenset[str], list[dict[str, int]]] = {}
    for prompt in prompts:
        by_pair.setdefault(frozenset(prompt["targets"]), []).append(prompt["targets"])
        assert sorted(prompt["targets"].values()) == [-1, 1]
        both = [t for t in tasks if prompt["targets"].keys() <= set(t["labels"])]
        assert [intended(prompt, t) for t in both] == [0]
        one = [t for t in tasks if len(prompt["targets"].keys() & set(t["labels"])) == 1]
        assert {intended(prompt, t) for t in one} == {-1, 1}
    assert len(by_pair) == 24
    for forth, back in by_pair.values():
        assert forth == {label: -sign for label, sign in back.items()}
        subject, kind = sorted(forth, key=lambda label: label in TOPICS)
        assert (subject in RESERVED, kind in CATEGORIES) == (True, True)
    assert Counter(label for pair in by_pair for label in pair) == dict.fromkeys(RESERVED, 3) | dict.fromkeys(
        CATEGORIES, 4
    )
    kinds = Counter(frozenset(t["labels"]) for t in tasks)
    assert kinds == dict.fromkeys(by_pair, 1) | {frozenset({label}): 2 for label in RESERVED.keys() | CATEGORIES}


def test_persona_has_twenty_roles_that_like_one_thing_and_not_another(experiments: dict[str, dict[str, Any]]) -> None:
    roles = [p["targets"] for p in experiments["persona"]["prompts"] if p["id"].startswith("persona-role-")]
    assert len(roles) == 20
    assert all(sorted(targets.values()) == [-1, 1] for targets in roles)
    assert Counter(t for targets in roles for t in targets.items()) == {(x, s): 2 for x in PERSONA for s in (1, -1)}
    assert all({label: -sign for label, sign in targets.items()} in roles for targets in roles)
    tasks = experiments["persona"]["task_sets"]["persona"]
    assert Counter(tuple(t["labels"]) for t in tasks) == {(label,): 4 for label in PERSONA}


def test_versions_of_a_biography_differ_in_exactly_one_sentence(experiments: dict[str, dict[str, Any]]) -> None:
    """Two versions say the opposite of one thing, the third is about another."""
    versions: dict[str, list[dict[str, Any]]] = {}
    for prompt in experiments["persona"]["prompts"]:
        if (name := biography(prompt["id"])) is not None:
            versions.setdefault(name, []).append(prompt)
    assert len(versions) == 10
    for name, (love, hate, other) in versions.items():
        (label,) = love["targets"]
        assert (love["targets"], hate["targets"]) == ({label: 1}, {label: -1})
        assert label not in other["targets"]
        texts = [re.split(r"(?<=[.!?]) ", p["text"]) for p in (love, hate, other)]
        assert len({len(sentences) for sentences in texts}) == 1
        assert len(texts[0]) >= 3
        differ = [len(set(sentences)) for sentences in zip(*texts, strict=True)]
        assert sorted(differ) == [1] * (len(differ) - 1) + [3], name
