"""Which tasks are shown under which system prompts: the experiments of a preset as rows."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prefprobe.errors import BadConfig
from prefprobe.settings import ShiftSettings
from prefprobe.shift.experiments import Experiment, builtin_paths, load_experiments, refitted_prompts
from prefprobe.shift.subset import subset_of
from prefprobe.sources import input_file
from prefprobe.store.objects import ObjectStore

BASELINE = "baseline"
"""The id of the prompt that every other one is compared with, in choices and in scores alike."""

_RESERVED = re.compile(rf"{BASELINE}|neutral-\d+")


def neutral_prompts(settings: ShiftSettings) -> dict[str, str]:
    """{id: text} of the paraphrases of the baseline, "neutral-1", …: in no experiment, under every shifted task."""
    return {f"neutral-{i}": text for i, text in enumerate(settings.neutral, 1)}


def row_id(prompt_id: str, task_id: str) -> str:
    """The id under which the features of a prompted task stand: "prompt id<TAB>task id"."""
    return f"{prompt_id}\t{task_id}"


def split_row_id(id_: str) -> tuple[str, str]:
    """(prompt id, task id) of a row of features; ids hold no white space."""
    prompt_id, _, task_id = id_.partition("\t")
    return prompt_id, task_id


@dataclass(frozen=True, order=True)
class PromptedTask:
    """One task under one system prompt."""

    prompt_id: str
    task_id: str
    prompt: str
    text: str

    @property
    def row_id(self) -> str:
        """Its id in features."""
        return row_id(self.prompt_id, self.task_id)


def experiment_paths(names: Sequence[str], objects: ObjectStore) -> list[Path]:
    """The YAML files of a preset's experiments: packaged names, or files of one's own, also in the store (`store:KEY`)."""
    packaged = {path.stem: path for path in builtin_paths()}
    paths = [packaged.get(name) or input_file(name, objects) for name in names]
    for path in paths:
        if not path.is_file():
            raise BadConfig(
                f"shift.experiments: {path} is neither a file nor one of {', '.join(packaged)}; correct the preset."
            )
    return paths


def experiments_of(settings: ShiftSettings, objects: ObjectStore) -> list[tuple[Experiment, Experiment]]:
    """(the part that is run, the whole) of every experiment of a preset.

    Raises BadConfig if `shift.refitted` names nothing of the part.
    """
    whole = load_experiments(experiment_paths(settings.experiments, objects))
    part = subset_of(whole, settings.subset)
    refitted_prompts(settings.refitted, part)
    return list(zip(part, whole, strict=True))


def prompted_tasks(settings: ShiftSettings, objects: ObjectStore) -> list[PromptedTask]:
    """Every task under every prompt of its experiments, the baseline and its paraphrases, sorted, each once."""
    rows = set()
    for experiment, _ in experiments_of(settings, objects):
        prompts = {p.id: p.text for p in experiment.prompts}
        for id_ in filter(_RESERVED.fullmatch, prompts):
            raise BadConfig(f"experiment {experiment.name}: the prompt id {id_!r} is reserved; rename the prompt.")
        prompts |= {BASELINE: settings.baseline, **neutral_prompts(settings)}
        rows |= {PromptedTask(p, t.id, text, t.text) for p, text in prompts.items() for t in experiment.tasks}
    return sorted(rows)


def check_disjoint(rows: Iterable[PromptedTask], measured: Mapping[str, str]) -> None:
    """Raise BadConfig if a shifted task is one of the `measured` (id → text): probes must never have seen it."""
    texts = {text: id_ for id_, text in measured.items()}
    for row in rows:
        if row.task_id in measured or row.text in texts:
            raise BadConfig(
                f"shift task {row.task_id}: the same {'id' if row.task_id in measured else 'text'} is in the train or "
                "eval set; change the experiment's file so that probes are tested on tasks they never saw."
            )
