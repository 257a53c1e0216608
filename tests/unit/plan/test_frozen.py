"""What is known of tasks before anything is spent: whether prompts fit into a context, and whether topics will do."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from prefprobe.activations.templates import renderer
from prefprobe.activations.turns import Turns
from prefprobe.choices.stimulus import Stimulus
from prefprobe.config import load_config
from prefprobe.errors import BadConfig, TemporaryFailure
from prefprobe.plan.context import too_long
from prefprobe.plan.frozen import freeze, freeze_topics
from prefprobe.plan.model import ModelFacts, model_facts, pinned_facts
from prefprobe.plan.prompts import PromptLengths
from prefprobe.probes.crosstopic import MIN_TOPIC_TASKS
from prefprobe.settings import Config, ModelSettings
from prefprobe.settings.model import DATE
from prefprobe.shift.prompted import PromptedTask
from prefprobe.tasks.candidates import Candidates
from prefprobe.tasks.pool import Task

PRESETS = Path(__file__).parents[3] / "presets"
STIMULUS = Stimulus("One", "The other:")
API = ("choices.engine=api", "choices.api.base_url=http://127.0.0.1/v1", "choices.api.model=m")
LABELS = ["choices.label_a=One", "choices.label_b='The other:'"]


def words(tokens: int | None, name: str = "m") -> ModelFacts:
    """A model to which every word is a token, every turn has two more, and `tokens` are its context."""
    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    turn = "{% if m.role != 'assistant' %} <{{ m.role }}> {{ m.content }} <end> {% else %}{{ m.content }}{% endif %}"
    turns = Turns(renderer(f"{{% for m in messages %}}{turn}{{% endfor %}}", {}, DATE, {}))
    lengths = PromptLengths(True, tokenizer, turns)
    return ModelFacts(name, lengths, None, False, None, None, None, tokens)


def asked(text: str, other: str, system: str | None = None) -> int:
    """Tokens of a choice with the longer label, counted by hand."""
    said = (STIMULUS.message(text, other) + " The other:").split()
    return len(said) + 2 + (0 if system is None else len(system.split()) + 2)


def task(id_: str, n: int) -> str:
    return " ".join([f"{id_}{i}" for i in range(n)])


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(1, 60), min_size=2, max_size=9),
    st.integers(40, 140),
    st.booleans(),
    st.lists(st.tuples(st.integers(1, 10), st.integers(1, 10)), max_size=3),
)
def test_what_is_left_fits_in_every_pair_and_nothing_more_could_stay(
    sizes: list[int], context: int, chooses: bool, shifted: list[tuple[int, int]]
) -> None:
    tasks = {f"t{i}": task(f"t{i}-", n) for i, n in enumerate(sizes)}
    rows = [PromptedTask(f"p{i}", f"s{i}", task("p", p), task("s", n)) for i, (p, n) in enumerate(shifted)]
    left_out, said = too_long(tasks, words(context), STIMULUS if chooses else None, rows)

    def fits(id_: str, others: set[str]) -> bool:
        alone = len(tasks[id_].split()) + 2 <= context
        if not chooses:
            return alone
        pairs = all(asked(tasks[id_], tasks[other]) <= context for other in others - {id_})
        return alone and pairs and all(asked(tasks[id_], r.text, r.prompt) <= context for r in rows)

    left = tasks.keys() - set(left_out)
    assert all(fits(id_, left) for id_ in left)
    # the shortest of those left out would be too long beside those that stay
    assert not left_out or not fits(min(left_out, key=lambda i: (len(tasks[i].split()), i)), left)
    assert bool(said) == bool(left_out)


@pytest.mark.parametrize(
    ("tasks", "context", "rows", "said"),
    [
        ({"a": 5, "b": 60}, 50, [], "task b: its prompt takes 62 tokens, and the context of m is 50"),
        ({"a": 30, "b": 40}, 80, [], "task b: a choice between it and a takes {} tokens, and the context of m is 80"),
        (
            {"a": 3},
            60,
            [PromptedTask("baseline", "s", "x", "y"), PromptedTask("p", "s", task("p", 25), task("s", 20))],
            "task a: a choice between it and s under the system prompt p takes {} tokens, and the context of m is 60",
        ),
    ],
)
def test_the_longest_prompt_is_said(tasks: dict[str, int], context: int, rows: list[PromptedTask], said: str) -> None:
    texts = {id_: task(id_, n) for id_, n in tasks.items()}
    tokens = asked(texts["a"], rows[1].text, rows[1].prompt) if rows else asked(texts["a"], texts["b"])
    assert too_long(texts, words(context), STIMULUS, rows)[1] == said.format(tokens)


class _Uneven(PromptLengths):
    """One order of a pair takes more tokens, as it may where tokens reach over the edge of a text."""

    def counts(self, prompts: Sequence[tuple[str, str | None]], answer: str = "") -> list[int] | None:
        return [len(text) + (8 if text.find("bb") > text.find("aa") >= 0 else 0) for text, _ in prompts]


@pytest.mark.parametrize("texts", [("aa", "bb"), ("bb", "aa")])
def test_both_orders_of_a_pair_are_counted(texts: tuple[str, str]) -> None:
    tasks = dict(zip("xy", texts, strict=True))
    most = len(STIMULUS.message(*texts)) + 8
    model = ModelFacts("m", _Uneven(), None, False, None, None, None, most - 1)
    assert too_long(tasks, model, STIMULUS, [])[0] == ["y"]
    assert too_long(tasks, replace(model, context=most), STIMULUS, [])[0] == []


def test_a_shift_task_that_does_not_fit_alone_is_refused() -> None:
    rows = [PromptedTask("p", "s", task("p", 30), task("s", 30))]
    with pytest.raises(
        BadConfig, match=r"^shift task s: .* system prompt p takes 64 tokens, .* of m is 63; shorten one"
    ):
        too_long({"a": "x"}, words(63), STIMULUS, rows)
    assert too_long({"a": "x"}, words(64), None, rows) == ([], "")


def test_without_a_limit_or_a_tokenizer_nothing_is_too_long() -> None:
    blind = ModelFacts("m", PromptLengths(), None, False, None, None, None, 10)
    for model in (words(None), blind):
        assert too_long({"a": task("a", 1000)}, model, STIMULUS, [PromptedTask("p", "s", "x " * 99, "y")]) == ([], "")


def config(*overrides: str) -> Config:
    return load_config(
        PRESETS / "demo.yaml", ["tasks.n_train=20", "tasks.n_eval=10", "shift.comparisons=2", *overrides]
    )


def pool(*long: int) -> Candidates:
    tasks = [Task(f"t{i:02d}", task(f"t{i}-", 4), "o", f"k{i % 4}") for i in range(40)]
    return Candidates.of(tasks + [Task(f"x{i}", task(f"x{i}-", n), "o", "k0") for i, n in enumerate(long)])


def test_long_tasks_are_refused_by_name_or_dropped_and_counted() -> None:
    by_name = {"model": words(90)}
    with pytest.raises(
        BadConfig, match=r"^task x1: its prompt takes 502 .* is 90 \(2 such tasks\); .*`tasks\.too_long`"
    ):
        freeze(config(*LABELS), pool(300, 500), by_name, [])
    dropped = freeze(config(*LABELS, "tasks.too_long=drop"), pool(300, 500), by_name, [])
    assert sorted(dropped.too_long) == ["x0", "x1"]
    assert dropped.tasks.equals(freeze(config(*LABELS), pool(), by_name, []).tasks)
    assert freeze(config(*LABELS), pool(), by_name, []).too_long == []


def test_the_base_model_reads_bare_tasks_and_is_asked_nothing() -> None:
    """Its context holds the longest task, and no choice."""
    roomy = {"model": words(1000)}
    assert freeze(config(*LABELS), pool(30), roomy | {"base": words(32)}, []).too_long == []
    with pytest.raises(BadConfig, match=r"^task x0: its prompt takes 32 tokens, and the context of b is 31"):
        freeze(config(*LABELS), pool(30), roomy | {"base": words(31, "b")}, [])


def test_a_template_that_leaves_answers_in_a_thought_is_refused_where_labels_are_read_off() -> None:
    facts = words(1000)
    turn = "{% for m in messages %}<{{ m.role }}> {{ m.content }} {% endfor %}"
    thinking = turn + "{% if add_generation_prompt %}<think>{% endif %}"
    lengths = replace(facts.lengths, turns=Turns(renderer(thinking, {}, DATE, {})))
    by_name = {"model": replace(facts, lengths=lengths, takes=["effort"])}
    for asked in (LABELS, (*API, "choices.api.compare=8")):
        with pytest.raises(BadConfig, match=r"begins an answer with `<think>`.*it takes effort\).*api\.compare: 0"):
            freeze(config(*asked), pool(), by_name, [])
    assert freeze(config(*API, "choices.api.compare=0"), pool(), by_name, []).too_long == []


def test_of_an_endpoint_only_the_activations_are_counted_unless_own_weights_choose_too() -> None:
    assert freeze(config(*API, "choices.api.compare=0"), pool(30), {"model": words(32)}, []).too_long == []
    for asked in (LABELS, API):
        with pytest.raises(BadConfig, match="a choice between it and"):
            freeze(config(*asked), pool(30), {"model": words(32)}, [])


def test_a_shift_task_among_the_measured_ones_is_refused_before_they_are_measured() -> None:
    rows = [PromptedTask("p", "t00", "x", "y")]
    with pytest.raises(BadConfig, match=r"^shift task t00: the same id"):
        freeze(config("tasks.n_train=30"), pool(), {"model": words(None)}, rows)


LLAMA = {"max_position_embeddings": 4096}


@pytest.mark.parametrize(
    ("values", "context"),
    [
        (LLAMA, 4096),
        ({"n_positions": 1024}, 1024),
        ({"n_ctx": 512}, 512),
        ({"max_sequence_length": 2048}, 2048),
        ({"seq_length": 8192}, 8192),
        ({"text_config": LLAMA}, 4096),
        ({"max_seq_len": 2048}, 2048),
        ({**LLAMA, "alibi": True}, None),
        ({**LLAMA, "alibi": False}, 4096),
        ({}, None),
        ({**LLAMA, "rope_scaling": None}, 4096),
        ({**LLAMA, "rope_scaling": {"rope_type": "yarn", "original_max_position_embeddings": 512}}, 4096),
        ({**LLAMA, "rope_scaling": {"type": "dynamic", "original_max_position_embeddings": 2048}}, 2048),
        ({**LLAMA, "rope_scaling": {"type": "dynamic", "factor": 2.0}}, 4096),
        ({**LLAMA, "rope_parameters": {"rope_type": "longrope"}, "original_max_position_embeddings": 1024}, 4096),
        (
            {
                **LLAMA,
                "rope_parameters": {
                    "full_attention": {"rope_type": "dynamic", "original_max_position_embeddings": 256},
                    "sliding_attention": {"rope_type": "default"},
                },
            },
            256,
        ),
    ],
)
def test_the_context_is_what_the_configuration_says(
    values: dict[str, Any], context: int | None, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert model_facts(ModelSettings(source=str(tmp_path))).context == context


def test_of_a_model_on_the_hub_the_small_files_of_the_pinned_revision_are_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = (
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "model-1.safetensors",
        "x.bin",
    )
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    asked: list[tuple[str, str, set[str]]] = []

    def snapshot_download(source: str, *, revision: str, allow_patterns: list[str]) -> str:
        asked.append((source, revision, {name for name in files if any(map(partial(fnmatch, name), allow_patterns))}))
        if source == "lab/gone":
            raise OSError("no network")
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert pinned_facts(ModelSettings(source="lab/model", revision="main"), "c" * 40).context == 4096
    assert asked == [("lab/model", "c" * 40, set(files[:4]))]
    with pytest.raises(TemporaryFailure, match=r"^lab/gone@c+ could not be downloaded"):
        pinned_facts(ModelSettings(source="lab/gone"), "c" * 40)


def topics(n: dict[str, tuple[int, int]], *overrides: str) -> tuple[dict[str, str], dict[str, int]]:
    """Of so many train and eval tasks of each topic."""
    of: dict[str, str | None] = {"unused": None}
    sets: tuple[dict[str, str], dict[str, str]] = ({}, {})
    for topic, counts in n.items():
        for which, count in zip(sets, counts, strict=True):
            for _ in range(count):
                which[f"t{len(of)}"] = "x"
                of[f"t{len(of)}"] = topic
    return freeze_topics(config(*overrides), of, *sets)


EVEN = {"a": (6, 3), "b": (6, 3), "c": (6, 3)}
UNEVEN = EVEN | {"d": (5, 3)}


@pytest.mark.parametrize(
    ("given_", "overrides", "said"),
    [
        (
            {"a": (20, 9)},
            (),
            r"topics: 1 \('a' of 20 train tasks\) are too few to hold out 1, which takes 3: .* train on; add topics\.$",
        ),
        ({"a": (9, 9), "b": (9, 9)}, (), r"topics: 2 \('a' of 9, 'b' of 9 train tasks\) are too few to hold out 1"),
        (EVEN, ("probes.holdout=2",), r"topics: 3 .* are too few to hold out 2, which takes 4"),
        (
            {f"k{i}": (1, 1) for i in range(20)},
            (),
            r"^topics: 'k0' has 1 train tasks, and a fold needs 3 or more .*; merge small topics, as `topics\.min_tasks: 3` ",
        ),
        (EVEN | {"d": (2, 9)}, (), r"^topics: 'd' has 2 train tasks"),
        (
            EVEN | {"d": (2, 9)},
            ("topics.min_tasks=3",),
            r"^topics: 'other', merged of d, has 2 train tasks, .*; add tasks, or",
        ),
        (
            UNEVEN | {"other": (2, 9)},
            (),
            r"^topics: 'other' has 2 train tasks, .*; set `topics\.min_tasks` to 6, so that",
        ),
        (
            UNEVEN | {"other": (1, 0), "e": (1, 1)},
            ("topics.min_tasks=3",),
            r"'other', merged of e, has 2 .* to 6, so that",
        ),
        (UNEVEN | {"other": (2, 0), "e": (1, 1)}, (), r"'other' has 2 train tasks, .* to 3, so that"),
        (
            EVEN,
            ("shift.comparisons=17",),
            r"^shift\.comparisons: 17 comparison tasks were asked for, and 14 train tasks",
        ),
    ],
)
def test_topics_that_will_not_do_are_named_with_what_is_needed(
    given_: dict[str, tuple[int, int]], overrides: tuple[str, ...], said: str
) -> None:
    with pytest.raises(BadConfig, match=said):
        topics(given_, *overrides)


def test_small_topics_are_merged_by_their_train_tasks() -> None:
    of, merged = topics(EVEN | {"d": (2, 9), "e": (1, 0), "f": (0, 2)}, "topics.min_tasks=3")
    assert merged == {"d": 2, "e": 1, "f": 0}
    assert Counter(of.values()) == {"a": 9, "b": 9, "c": 9, "other": 14}


def test_what_is_advised_for_too_few_of_other_tasks_will_do() -> None:
    of, _ = topics(UNEVEN | {"other": (2, 9)}, "topics.min_tasks=6")
    assert Counter(of.values()) == {"a": 9, "b": 9, "c": 9, "other": 19}


def test_a_topic_that_is_called_other_takes_in_what_is_merged() -> None:
    of, merged = topics(EVEN | {"other": (2, 1), "d": (2, 1)}, "topics.min_tasks=3")
    assert merged == {"d": 2}
    assert Counter(of.values()) == {"a": 9, "b": 9, "c": 9, "other": 6}


def test_nothing_is_merged_by_default_and_a_topic_of_eval_alone_is_no_fault() -> None:
    of, merged = topics(EVEN | {"f": (0, 2)})
    assert merged == {}
    assert Counter(of.values()) == {"a": 9, "b": 9, "c": 9, "f": 2}
    assert MIN_TOPIC_TASKS == 3
