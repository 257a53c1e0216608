"""A part of large experiments for small studies: fewer prompts and tasks, drawn so that they can still show something.

What carries a correlation is on-target cells of several prompts with several tasks, so the draw keeps few labels and much
of each: love and hate in equal numbers, tasks of every label alike, and for every prompt tasks that it is not about.
Nothing is random: ties are broken by digests of ids, so the part is the same in whatever order a file stands.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from prefprobe.errors import BadConfig
from prefprobe.settings import ShiftSubset
from prefprobe.shift.experiments import Experiment, ShiftPrompt, ShiftTask, on_target

Labels = frozenset[str]


def subset_of(experiments: Sequence[Experiment], subset: ShiftSubset | None) -> list[Experiment]:
    """The experiments with `subset.prompts` of each file's prompts and `subset.tasks` of each task set; None: as they are.

    What has no more than that is kept whole. Prompts come in pairs with opposite targets, out of the fewest labels that
    have enough of them; tasks are those with such a label, each combination of labels alike. Raises BadConfig naming
    experiment and prompt where too few tasks are drawn for it to have one on target and one off.
    """
    if subset is None:
        return list(experiments)
    drawn = []
    for experiment in experiments:
        prompts = _prompts(experiment.prompts, subset.prompts)  # the same for all sets of a file
        labels = frozenset(label for p in prompts for label in p.targets)
        part = Experiment(experiment.name, prompts, _tasks(experiment.tasks, labels, subset.tasks))
        _check(part, experiment)
        drawn.append(part)
    return drawn


def part_of(part: Experiment, whole: Experiment) -> str:
    """What was drawn, as in "12 of 38 prompts, 18 of 60 tasks" or "all 38 prompts, all 60 tasks"."""

    def counted(n: int, of: int, what: str) -> str:
        return f"all {of} {what}" if n == of else f"{n} of {of} {what}"

    sizes = (len(part.prompts), len(whole.prompts), "prompts"), (len(part.tasks), len(whole.tasks), "tasks")
    return ", ".join(counted(*size) for size in sizes)


@dataclass(frozen=True)
class _Unit:
    """Prompts that are drawn together: two with opposite targets, or one that has no opposite left."""

    prompts: tuple[ShiftPrompt, ...]

    @property
    def labels(self) -> Labels:
        return frozenset(self.prompts[0].targets)

    @property
    def order(self) -> tuple[bool, bool, str]:
        """Pairs come first, and last what is about nothing."""
        return len(self.prompts) == 1, not self.labels, _digest(*(p.id for p in self.prompts))


def _prompts(prompts: tuple[ShiftPrompt, ...], n: int) -> tuple[ShiftPrompt, ...]:
    """`n` of the prompts, in the order of their ids."""
    if n >= len(prompts):
        return prompts
    left = sorted(_units(prompts), key=lambda unit: unit.order)
    picked = _two_apart(left, n)
    left = [unit for unit in left if unit not in picked]
    while left and sum(len(unit.prompts) for unit in picked) < n:
        picked.append(left.pop(_next(left, picked)))
    return tuple(sorted([p for unit in picked for p in unit.prompts][:n], key=lambda p: p.id))


def _next(left: Sequence[_Unit], picked: Sequence[_Unit]) -> int:
    """Which of `left` comes next, the first at a tie.

    Pairs come first, then what brings no new label, then what has targets and labels that were picked least.
    """
    labels = frozenset[str]().union(*(unit.labels for unit in picked))
    targets = Counter(unit.labels for unit in picked)
    of_label = Counter(label for unit in picked for label in unit.labels)

    def cost(i: int) -> tuple[bool, bool, int, int, int]:
        unit = left[i]
        alone, neutral, _ = unit.order
        per_label = sum(of_label[label] for label in unit.labels)
        return alone, neutral, len(unit.labels - labels), targets[unit.labels], per_label

    # a prompt about every label that is kept would have no task off target
    return min([i for i, unit in enumerate(left) if labels - unit.labels] or range(len(left)), key=cost)


def _units(prompts: Iterable[ShiftPrompt]) -> list[_Unit]:
    """All prompts, paired by opposite targets as far as they go."""
    by_targets: dict[frozenset[tuple[str, int]], list[ShiftPrompt]] = {}
    for prompt in sorted(prompts, key=lambda p: _digest(p.id)):
        by_targets.setdefault(frozenset(prompt.targets.items()), []).append(prompt)
    units = []
    for targets, these in sorted(by_targets.items(), key=lambda item: sorted(item[0])):
        opposite = frozenset((label, -sign) for label, sign in targets)
        others = by_targets.get(opposite, []) if targets else []
        if sorted(targets) < sorted(opposite) or not others:
            units += [_Unit(pair) for pair in zip(these, others, strict=False)]
        units += [_Unit((prompt,)) for prompt in these[len(others) :]]
    return units


def _two_apart(units: list[_Unit], n: int) -> list[_Unit]:
    """Two units of the fewest labels that none shares with the other, and that have `n` prompts among them."""

    def cost(one: _Unit, other: _Unit) -> tuple[int, int, str]:
        labels = one.labels | other.labels
        within = sum(len(unit.prompts) for unit in units if unit.labels < labels)
        return max(0, n - within), len(labels), _digest(one.order[2], other.order[2])

    about = [unit for unit in units if unit.labels]
    pairs = [unit for unit in about if len(unit.prompts) == 2] or about
    apart = [two for two in combinations(pairs, 2) if not two[0].labels & two[1].labels]
    if not apart:
        return pairs[:1]
    return list(min(apart, key=lambda two: cost(*two)))


def _tasks(tasks: tuple[ShiftTask, ...], labels: Labels, n: int) -> tuple[ShiftTask, ...]:
    """`n` of the tasks that have one of `labels`, in the order of their ids; all tasks, if there are no more."""
    if n >= len(tasks):
        return tasks
    kinds: dict[Labels, list[ShiftTask]] = {}
    # those with no other label come first: what else they are about is not among the prompts
    for task in sorted(tasks, key=lambda t: (len(set(t.labels) - labels), _digest(t.id))):
        if kind := labels & set(task.labels):
            kinds.setdefault(kind, []).append(task)
    picked: list[ShiftTask] = []
    taken: Counter[Labels] = Counter()
    of_label: Counter[str] = Counter()
    while kinds and len(picked) < n:
        kind = min(kinds, key=lambda k: (taken[k], len(k), sum(of_label[label] for label in k), _digest(*sorted(k))))
        picked.append(kinds[kind].pop(0))
        taken[kind] += 1
        of_label.update(kind)
        if not kinds[kind]:
            del kinds[kind]
    return tuple(sorted(picked, key=lambda t: t.id))


def _check(part: Experiment, whole: Experiment) -> None:
    for prompt in part.prompts:
        for aside in (False, True) if prompt.targets else ():
            if any(on_target(prompt, t) is not aside for t in part.tasks):
                continue
            if any(on_target(prompt, t) is not aside for t in whole.tasks):
                raise BadConfig(
                    f"shift.subset: experiment {whole.name}: prompt {prompt.id} has no {'off' if aside else 'on'}-target task "
                    f"among the {len(part.tasks)} that are drawn; raise shift.subset.tasks."
                )


def _digest(*ids: str) -> str:
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()
