"""Experiments as YAML: system prompts that are meant to move some labels, and tasks that carry labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prefprobe.errors import BadConfig
from prefprobe.numbers import slug
from prefprobe.yaml_text import parse_yaml

PROMPTS = Path(__file__).parent / "prompts"
BUILTIN = ("category", "targeted", "competing", "persona")

Id = Annotated[str, Field(pattern=r"^[^\s\x00]+$")]
"""Without white space: rows of features are named "prompt id<TAB>task id". Nor NUL, which numpy drops at the end."""
Text = Annotated[str, Field(pattern=r"\S")]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ShiftPrompt(_Model):
    """One system prompt."""

    id: Id
    text: Text
    targets: dict[Text, Literal[-1, 1]]
    """Label → the direction in which the prompt is meant to move tasks with that label; empty for a neutral prompt."""


class ShiftTask(_Model):
    """One task that is measured under the prompts of its experiment."""

    id: Id
    text: Text
    topic: Text
    labels: tuple[Text, ...] = Field(min_length=1)


class _File(_Model):
    experiment: Text
    prompts: tuple[ShiftPrompt, ...] = Field(min_length=1)
    task_sets: dict[Text, Annotated[tuple[ShiftTask, ...], Field(min_length=1)]] = Field(min_length=1)


@dataclass(frozen=True)
class Experiment:
    """One task set under the prompts of its file. Every task is measured under every prompt."""

    name: str
    """The task set's: the name under which results are reported."""
    prompts: tuple[ShiftPrompt, ...]
    tasks: tuple[ShiftTask, ...]


def builtin_paths() -> list[Path]:
    """The packaged experiment files."""
    return [PROMPTS / f"{name}.yaml" for name in BUILTIN]


def load_experiments(paths: Sequence[Path]) -> list[Experiment]:
    """All task sets of all files, in order.

    Raises BadConfig naming file and key: for a file that is missing or malformed, for a prompt, a task, a task set or
    an experiment whose name stands twice in these files, for two task sets whose files in the report would have one name,
    and for a target that no task of the file is labelled with.
    """
    seen: dict[tuple[str, str], str] = {}
    named: dict[str, str] = {}
    experiments = []
    for path in paths:
        file = _read(path)
        names = [("experiment", "experiment", file.experiment)]
        names += [(f"prompts.{i}.id", "prompt id", p.id) for i, p in enumerate(file.prompts)]
        for name, tasks in file.task_sets.items():
            names.append(("task_sets", "task set", name))
            names += [(f"task_sets.{name}.{i}.id", "task id", t.id) for i, t in enumerate(tasks)]
        for key, kind, name in names:
            if (kind, name) in seen:
                raise BadConfig(
                    f"{path}: `{key}`: the {kind} {name!r} stands already in {seen[kind, name]}; make it unique."
                )
            seen[kind, name] = str(path)
        for name in file.task_sets:
            other = named.setdefault(slug(name), name)
            if other != name:
                raise BadConfig(
                    f"{path}: `task_sets.{name}`: its results and those of {other!r} would both be called "
                    f"shift-{slug(name)} in the report; rename one task set."
                )
        labels = {label for tasks in file.task_sets.values() for task in tasks for label in task.labels}
        for i, prompt in enumerate(file.prompts):
            for label in prompt.targets:
                if label not in labels:
                    raise BadConfig(
                        f"{path}: `prompts.{i}.targets.{label}`: no task of the file has the label {label!r}; "
                        "correct the target or label a task with it."
                    )
        experiments += [Experiment(name, file.prompts, tasks) for name, tasks in file.task_sets.items()]
    return experiments


def intended(prompt: ShiftPrompt, task: ShiftTask) -> int:
    """The direction in which `prompt` is meant to move `task`: sign of the sum of its targets over the task's labels.

    0 means none: off target, or targets of both signs that cancel.
    """
    total = sum(prompt.targets.get(label, 0) for label in set(task.labels))
    return (total > 0) - (total < 0)


def on_target(prompt: ShiftPrompt, task: ShiftTask) -> bool:
    """Whether any label of `task` is among the targets of `prompt`, even if these cancel."""
    return any(label in prompt.targets for label in task.labels)


def refitted_prompts(names: Sequence[str], experiments: Sequence[Experiment]) -> set[str]:
    """Ids of the prompts that `shift.refitted` names, itself or by an experiment of theirs.

    Raises BadConfig for a name that is neither.
    """
    chosen: set[str] = set()
    for name in names:
        found = {p.id for e in experiments for p in e.prompts if name in (p.id, e.name)}
        if not found:
            raise BadConfig(
                f"shift.refitted: {name!r} is neither a prompt nor an experiment that is run; name one of the experiments "
                f"{', '.join(e.name for e in experiments)}, or a prompt of theirs."
            )
        chosen |= found
    return chosen


def _read(path: Path) -> _File:
    try:
        values = parse_yaml(path.read_bytes(), str(path))
    except FileNotFoundError as error:
        raise BadConfig(f"{path}: no such experiment file; name a YAML file or a packaged experiment.") from error
    except OSError as error:
        raise BadConfig(f"{path}: {error.strerror}; name a YAML file that can be read.") from error
    if not isinstance(values, dict):
        raise BadConfig(f"{path}: expected a mapping with `experiment`, `prompts` and `task_sets`; write it so.")
    try:
        return _File.model_validate(values)
    except ValidationError as error:
        # a list whose items are wrong is also said to be too short: the innermost problem is the one to correct
        outer = {e["loc"][:n] for e in error.errors() for n in range(len(e["loc"]))}
        inner = [e for e in error.errors() if e["loc"] not in outer]
        problems = "; ".join(_problem(e["loc"], e["type"], e["msg"]) for e in inner)
        raise BadConfig(f"{path}: {problems}; correct the file.") from error


def _problem(location: tuple[int | str, ...], kind: str, message: str) -> str:
    key = ".".join(map(str, location))
    return f"`{key}`: {'no such key' if kind == 'extra_forbidden' else message[0].lower() + message[1:]}"
