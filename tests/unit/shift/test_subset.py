"""A part of an experiment: balanced, with something to compare, and the same however a file is ordered."""

import random
from collections import Counter

import pytest
from pydantic import ValidationError

from prefprobe.errors import BadConfig
from prefprobe.settings import ShiftSettings, ShiftSubset
from prefprobe.shift.experiments import (
    BUILTIN,
    Experiment,
    ShiftPrompt,
    ShiftTask,
    builtin_paths,
    load_experiments,
    on_target,
)
from prefprobe.shift.prompted import BASELINE, experiments_of, prompted_tasks
from prefprobe.shift.subset import part_of, subset_of
from prefprobe.store.objects import ObjectStore

WHOLE = load_experiments(builtin_paths())
SIZES = [(4, 6), (8, 8), (8, 10), (12, 12), (16, 16), (20, 30), (38, 24)]


def parts(prompts, tasks, whole=WHOLE):
    return subset_of(whole, ShiftSubset(prompts=prompts, tasks=tasks))


def experiment(*prompts, tasks):
    """Prompts as targets, tasks as labels."""
    return Experiment(
        "mine",
        tuple(ShiftPrompt(id=f"p{i}", text=f"You {i}.", targets=t) for i, t in enumerate(prompts)),
        tuple(ShiftTask(id=f"t{i}", text=f"Do {i}.", topic="x", labels=t) for i, t in enumerate(tasks)),
    )


@pytest.mark.parametrize(("prompts", "tasks"), SIZES)
def test_every_prompt_keeps_tasks_on_and_off_target_and_love_balances_hate(prompts, tasks):
    for part, whole in zip(parts(prompts, tasks), WHOLE, strict=True):
        assert len(part.prompts) == prompts
        assert len(part.tasks) <= tasks
        assert {p.id for p in part.prompts} <= {p.id for p in whole.prompts}
        for prompt in part.prompts:
            on = [on_target(prompt, t) for t in part.tasks]
            assert 0 < sum(on) < len(on), prompt.id
        signs = Counter(target for p in part.prompts for target in p.targets.items())
        for label in {label for label, _ in signs}:
            assert signs[label, 1] == signs[label, -1], (part.name, label)


@pytest.mark.parametrize(("prompts", "tasks"), [(8, 8), (12, 12)])
def test_cells_are_crossed_and_not_on_a_diagonal(prompts, tasks):
    """Half of the grid is on target, several tasks for each prompt and several prompts for each task."""
    for part in parts(prompts, tasks)[:3]:
        on = [[on_target(p, t) for t in part.tasks] for p in part.prompts]
        assert {sum(row) for row in on} == {tasks // 2}
        assert {sum(column) for column in zip(*on, strict=True)} == {prompts // 2}


def test_tasks_are_spread_over_labels_and_wordings_are_different():
    category, targeted, crossed, competing, persona = parts(8, 10)
    for part in (category, targeted):
        assert set(Counter(t.labels for t in part.tasks).values()) == {5}
    assert set(Counter(t.labels[0] for t in crossed.tasks).values()) == {5}
    assert targeted.prompts == crossed.prompts
    assert len({p.text for p in category.prompts}) == 8
    kinds = Counter(len(set(t.labels)) for t in competing.tasks)
    assert min(kinds.values()) >= 3  # tasks that are one, and tasks that are both
    assert len(persona.prompts) == 8


def test_the_part_is_the_same_in_whatever_order_a_file_stands():
    shuffle = random.Random(3)
    turned = [
        Experiment(e.name, tuple(shuffle.sample(e.prompts, len(e.prompts))), tuple(shuffle.sample(e.tasks, len(e.tasks))))
        for e in WHOLE
    ]  # fmt: skip
    for size in SIZES[:5]:
        assert parts(*size, turned) == parts(*size)


def test_null_and_more_than_there_is_are_the_whole():
    assert subset_of(WHOLE, None) == WHOLE
    assert parts(50, 60) == WHOLE
    (part, *_) = parts(50, 12)
    assert part.prompts == WHOLE[0].prompts
    assert Counter(t.labels for t in part.tasks) == dict.fromkeys({t.labels for t in WHOLE[0].tasks}, 2)


def test_what_was_drawn_is_said():
    assert part_of(parts(12, 18)[0], WHOLE[0]) == "12 of 38 prompts, 18 of 60 tasks"
    assert part_of(WHOLE[0], WHOLE[0]) == "all 38 prompts, all 60 tasks"


def test_prompts_without_an_opposite_are_drawn_last():
    both = [{"a": 1}, {"a": -1}, {"b": 1}, {"b": -1}]
    one = experiment(*both, {"a": 1}, {}, {"c": 1}, tasks=[("a",), ("b",), ("c",)] * 2)
    drawn = {tuple(p.targets.items()) for p in parts(4, 4, [one])[0].prompts}
    assert drawn == {(("a", 1),), (("a", -1),), (("b", 1),), (("b", -1),)}
    more = parts(6, 6, [one])[0].prompts
    assert Counter(bool(p.targets) for p in more) == {True: 6}  # the neutral one comes last of all


def test_an_experiment_that_only_loves_is_drawn_too():
    love = experiment(*({label: 1} for label in "abcdef"), tasks=[(label,) for label in "abcdef"])
    (part,) = parts(4, 4, [love])
    assert len(part.prompts) == len(part.tasks) == 4


def test_too_few_tasks_are_refused():
    two = experiment(*({label: s, "z": -s} for label in "abcd" for s in (1, -1)), tasks=[(x,) for x in "abcdz"] * 2)
    with pytest.raises(
        BadConfig,
        match=r"^shift\.subset: experiment mine: prompt p\d has no off-target task among the 2 .*; raise shift\.subset\.tasks\.$",
    ):
        parts(4, 2, [two])
    parts(4, 6, [two])


@pytest.mark.parametrize(
    "given", [{"prompts": 3, "tasks": 4}, {"prompts": 2, "tasks": 4}, {"prompts": 4}, {"tasks": 1}]
)
def test_odd_and_tiny_parts_are_refused(given):
    with pytest.raises(ValidationError):
        ShiftSubset(**given)


def test_steps_see_the_part_alone():
    settings = ShiftSettings(comparisons=2, subset={"prompts": 4, "tasks": 6})
    store = ObjectStore.open("no-store-is-here")
    pairs = experiments_of(settings, store)
    assert [whole for _, whole in pairs] == WHOLE
    rows = prompted_tasks(settings, store)
    wanted = {(p.id, t.id) for part, _ in pairs for p in part.prompts for t in part.tasks}
    assert {(r.prompt_id, r.task_id) for r in rows if r.prompt_id in {p for p, _ in wanted}} == wanted
    assert {r.task_id for r in rows if r.prompt_id == BASELINE} == {t for _, t in wanted}
    assert settings.model_dump()["subset"] == {"prompts": 4, "tasks": 6}
    assert "subset" not in ShiftSettings(comparisons=2).model_dump()
    assert list(BUILTIN) == settings.experiments
