import copy
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from prefprobe.errors import BadConfig
from prefprobe.settings import ShiftSettings
from prefprobe.shift.experiments import (
    BUILTIN,
    ShiftPrompt,
    ShiftTask,
    builtin_paths,
    intended,
    load_experiments,
    on_target,
)
from prefprobe.shift.prompted import BASELINE, PromptedTask, check_disjoint, experiment_paths, prompted_tasks
from prefprobe.store.objects import ObjectStore

STORE = ObjectStore.open("no-store-is-here")

GOOD: dict[str, Any] = {
    "experiment": "tastes",
    "prompts": [
        {"id": "p-1", "text": "You hate math.", "targets": {"math": -1}},
        {"id": "p-2", "text": "You love cats, not math.", "targets": {"cats": 1, "math": -1}},
        {"id": "p-3", "text": "You are calm.", "targets": {}},
    ],
    "task_sets": {
        "pure": [{"id": "t-1", "text": "Add 2 and 2.", "topic": "math", "labels": ["math"]}],
        "mixed": [{"id": "t-2", "text": "Count {these} cats.", "topic": "math", "labels": ["cats", "math"]}],
    },
}


def write(path, change=lambda values: None):
    values = copy.deepcopy(GOOD)
    change(values)
    path.write_text(yaml.safe_dump(values, sort_keys=False), "utf-8")
    return path


def other(values):
    """The same file with every name of its own."""
    values["experiment"] = "others"
    values["prompts"] = [{"id": "q-1", "text": "You hate math.", "targets": {"math": -1}}]
    values["task_sets"] = {"rest": [{"id": "u-1", "text": "Add 3 and 3.", "topic": "math", "labels": ["math"]}]}


def prompt(**targets):
    return ShiftPrompt(id="p", text="You.", targets=targets)


def task(*labels):
    return ShiftTask(id="t", text="Do.", topic="any", labels=labels)


def test_one_experiment_for_each_task_set_with_the_prompts_of_its_file(tmp_path):
    pure, mixed, rest = load_experiments([write(tmp_path / "a.yaml"), write(tmp_path / "b.yaml", other)])
    assert [e.name for e in (pure, mixed, rest)] == ["pure", "mixed", "rest"]
    assert pure.prompts == mixed.prompts
    assert [p.id for p in pure.prompts] == ["p-1", "p-2", "p-3"]
    assert [p.id for p in rest.prompts] == ["q-1"]
    assert mixed.tasks[0].text == "Count {these} cats."
    assert load_experiments([]) == []
    with pytest.raises(ValidationError, match="frozen"):
        pure.prompts[0].text = "You love math."  # type: ignore[misc]


def test_names_that_would_share_a_file_in_the_report(tmp_path):
    def named(name):
        def change(values):
            other(values)
            values["task_sets"] = {name: values["task_sets"]["rest"]}

        return change

    load_experiments([write(tmp_path / "a.yaml"), write(tmp_path / "b.yaml", named("pure 2"))])
    for name in ("Pure", " pure!"):
        with pytest.raises(
            BadConfig, match=rf"b\.yaml: `task_sets\.{name}`: .* those of 'pure' .* shift-pure .*; rename"
        ):
            load_experiments([write(tmp_path / "a.yaml"), write(tmp_path / "b.yaml", named(name))])
    with pytest.raises(BadConfig, match="would both be called shift-x in the report"):
        load_experiments([write(tmp_path / "a.yaml", lambda v: v.update(task_sets={"猫": v["task_sets"]["pure"],
                                                                                  "犬": v["task_sets"]["mixed"]}))])  # fmt: skip


def test_the_packaged_files_load():
    experiments = load_experiments(builtin_paths())
    assert [p.stem for p in builtin_paths()] == list(BUILTIN)
    assert [e.name for e in experiments] == ["category", "targeted", "crossed", "competing", "persona"]
    for e in experiments:
        cells = [(intended(p, t), on_target(p, t)) for p in e.prompts for t in e.tasks]
        assert 0 < sum(on for _, on in cells) < len(cells)
        assert {sign for sign, _ in cells} == {-1, 0, 1}
        assert all(on for sign, on in cells if sign)


@pytest.mark.parametrize(
    ("targets", "labels", "sign", "on"),
    [
        ({"math": -1}, ["math"], -1, True),
        ({"math": -1}, ["cats"], 0, False),
        ({"cats": 1, "math": -1}, ["cats", "math"], 0, True),  # cancels, and is on target all the same
        ({"cats": 1, "math": 1}, ["cats", "math"], 1, True),
        ({"cats": 1, "math": 1, "sea": -1}, ["sea", "cats", "math"], 1, True),
        ({"math": -1}, ["math", "math"], -1, True),
        ({"cats": 1, "math": -1}, ["cats", "math", "math"], 0, True),  # a label said twice counts once
        ({}, ["math"], 0, False),
    ],
)
def test_intended_is_the_sign_of_the_sum_of_targets(targets, labels, sign, on):
    assert intended(prompt(**targets), task(*labels)) == sign
    assert on_target(prompt(**targets), task(*labels)) is on


def put(*keys, value):
    def change(values):
        for key in keys[:-1]:
            values = values[key]
        values[keys[-1]] = value

    return change


def drop(*keys):
    def change(values):
        for key in keys[:-1]:
            values = values[key]
        del values[keys[-1]]

    return change


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (put("promts", value=[]), "`promts`: no such key"),
        (put("prompts", 0, "target", value={}), "`prompts.0.target`: no such key"),
        (put("prompts", 0, "targets", "math", value=2), "`prompts.0.targets.math`"),
        (put("prompts", 0, "targets", "math", value="like"), "`prompts.0.targets.math`"),
        (put("prompts", 1, "targets", "meth", value=1), "`prompts.1.targets.meth`: no task of the file has the label"),
        (put("prompts", 0, "id", value="p\t1"), "`prompts.0.id`"),
        (put("prompts", 0, "id", value="p-2"), "`prompts.1.id`: the prompt id 'p-2' stands already"),
        (put("prompts", 0, "text", value=" "), "`prompts.0.text`"),
        (put("prompts", value=[]), "`prompts`"),
        (drop("prompts", 2, "targets"), "`prompts.2.targets`: field required"),
        (put("task_sets", value={}), "`task_sets`"),
        (put("task_sets", "pure", value=[]), "`task_sets.pure`"),
        (put("task_sets", "pure", 0, "labels", value=[]), "`task_sets.pure.0.labels`"),
        (put("task_sets", "mixed", 0, "id", value="t-1"), "`task_sets.mixed.0.id`: the task id 't-1' stands already"),
        (put("task_sets", "mixed", 0, "id", value=7), "`task_sets.mixed.0.id`"),
        (drop("experiment"), "`experiment`: field required"),
    ],
)
def test_a_bad_file_is_one_sentence_with_file_and_key(tmp_path, change, named):
    path = write(tmp_path / "mine.yaml", change)
    with pytest.raises(BadConfig) as raised:
        load_experiments([path])
    message = str(raised.value)
    assert message.startswith(f"{path}: ")
    assert named in message
    assert message.endswith(".")
    assert "\n" not in message
    assert message.count("`") == 2


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (put("experiment", value="tastes"), "`experiment`: the experiment 'tastes'"),
        (put("prompts", 0, "id", value="p-1"), "`prompts.0.id`: the prompt id 'p-1'"),
        (put("task_sets", "rest", 0, "id", value="t-2"), "`task_sets.rest.0.id`: the task id 't-2'"),
        (put("task_sets", "pure", value=[GOOD["task_sets"]["pure"][0] | {"id": "t-9"}]), "the task set 'pure'"),
    ],
)
def test_names_are_unique_over_files(tmp_path, change, named):
    def both(values):
        other(values)
        change(values)

    first, second = write(tmp_path / "a.yaml"), write(tmp_path / "b.yaml", both)
    with pytest.raises(BadConfig) as raised:
        load_experiments([first, second])
    assert str(raised.value).startswith(f"{second}: ")
    assert f"{named} stands already in {first};" in str(raised.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"experiment: [", " line 1: not valid YAML"),
        (b"experiment: \xff", "not valid YAML"),
        (b"- a\n", "expected a mapping"),
        (b"", "expected a mapping"),
        (b"task_sets:\n  a: []\n  a: []\n", " line 3: not valid YAML \\(the key 'a' stands twice\\)"),
        (b"prompts:\n  - {targets: {a: 1, b: 1, a: -1}}\n", " line 2: not valid YAML \\(the key 'a' stands twice\\)"),
    ],
)
def test_what_is_no_experiment_is_refused(tmp_path, content, said):
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    with pytest.raises(BadConfig, match=said):
        load_experiments([path])
    with pytest.raises(BadConfig, match=r"gone\.yaml: no such experiment file"):
        load_experiments([tmp_path / "gone.yaml"])
    with pytest.raises(BadConfig, match="a YAML file that can be read"):
        load_experiments([tmp_path])


def test_two_problems_are_both_named(tmp_path):
    def change(values):
        values["prompts"][0]["text"] = values["prompts"][1]["id"] = ""

    with pytest.raises(BadConfig, match=r"`prompts\.0\.text`.*; `prompts\.1\.id`"):
        load_experiments([write(tmp_path / "x.yaml", change)])


def settings(*experiments):
    unmoved = {"baseline": "You are neutral.", "neutral": ["You take no side.", "You are {even-handed}."]}
    return ShiftSettings(experiments=[str(e) for e in experiments], comparisons=2, **unmoved)


def test_every_task_stands_under_every_prompt_the_baseline_and_its_paraphrases_once(tmp_path):
    rows = prompted_tasks(settings(write(tmp_path / "b.yaml", other), write(tmp_path / "a.yaml")), STORE)
    assert [(r.prompt_id, r.task_id) for r in rows] == [
        *((p, t) for p in (BASELINE, "neutral-1", "neutral-2") for t in ("t-1", "t-2", "u-1")),
        *((p, t) for p in ("p-1", "p-2", "p-3") for t in ("t-1", "t-2")),
        ("q-1", "u-1"),
    ]
    assert rows[0] == PromptedTask(BASELINE, "t-1", "You are neutral.", "Add 2 and 2.")
    assert rows[6] == PromptedTask("neutral-2", "t-1", "You are {even-handed}.", "Add 2 and 2.")
    assert rows[12] == PromptedTask("p-2", "t-2", "You love cats, not math.", "Count {these} cats.")
    assert rows == prompted_tasks(settings(tmp_path / "a.yaml", tmp_path / "b.yaml"), STORE)


@pytest.mark.parametrize("name", [BASELINE, "neutral-1", "neutral-17"])
def test_no_prompt_takes_the_name_of_the_baseline_or_of_a_paraphrase(tmp_path, name):
    path = write(tmp_path / "a.yaml", put("prompts", 2, "id", value=name))
    with pytest.raises(BadConfig, match=rf"experiment pure: the prompt id '{name}' is reserved; rename the prompt\.$"):
        prompted_tasks(settings(path), STORE)
    path = write(tmp_path / "b.yaml", put("prompts", 2, "id", value=f"{name}-x"))
    assert f"{name}-x" in {row.prompt_id for row in prompted_tasks(settings(path), STORE)}


def test_experiments_are_packaged_names_or_files(tmp_path):
    mine = write(tmp_path / "a.yaml")
    assert experiment_paths(["persona", str(mine)], STORE) == [builtin_paths()[3], mine]
    for name in ("personas", str(tmp_path)):
        with pytest.raises(
            BadConfig, match=f"{name} is neither a file nor one of category, targeted, competing, persona"
        ):
            experiment_paths(["persona", name], STORE)


def test_an_experiment_may_lie_in_the_store(tmp_path):
    store = ObjectStore.open(str(tmp_path / "store"))
    store.put("inputs/tastes.yaml", write(tmp_path / "a.yaml").read_bytes())
    mine = settings("store:inputs/tastes.yaml")
    assert prompted_tasks(mine, store) == prompted_tasks(settings(tmp_path / "a.yaml"), store)
    assert experiment_paths(mine.experiments, store)[0].stem == "tastes"
    with pytest.raises(BadConfig, match=r"^store:inputs/no\.yaml: the store \S+ has no such object"):
        experiment_paths(["store:inputs/no.yaml"], store)


def test_shifted_tasks_are_none_of_the_measured():
    rows = [PromptedTask(BASELINE, f"t-{i}", "You.", f"Do {i}.") for i in range(3)]
    check_disjoint(rows, {"m-1": "Do 3.", "m-2": "You."})
    check_disjoint([], {"t-1": "Do 1."})
    with pytest.raises(BadConfig, match="shift task t-1: the same id is in the train or eval set"):
        check_disjoint(rows, {"m-1": "Do 3.", "t-1": "Do something else."})
    with pytest.raises(BadConfig, match="shift task t-2: the same text is in the train or eval set"):
        check_disjoint(rows, {"m-1": "Do 3.", "m-2": "Do 2."})


def test_the_packaged_tasks_are_distinct():
    """In text as in id: each counts as a task of its own in intervals."""
    rows = prompted_tasks(settings(*BUILTIN), STORE)
    assert len({r.text for r in rows}) == len({r.task_id for r in rows})
    assert len({r.prompt for r in rows}) == len({r.prompt_id for r in rows})
