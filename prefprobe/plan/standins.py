"""The tasks of a study as far as they are on this machine, and stand-ins for those that a run would fetch."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

from prefprobe.settings import Config, TaskSettings, TaskSource
from prefprobe.store.objects import ObjectStore
from prefprobe.tasks.candidates import Candidates, read_candidates
from prefprobe.tasks.located import files_here
from prefprobe.tasks.pool import Task, read_tasks

CHARACTERS = 292
"""Length of a task that is not here: 73 tokens, the mean of the published pool, of four characters each."""


def planned_tasks(config: Config, objects: ObjectStore) -> tuple[Config, Candidates, list[str]]:
    """(the study as it can be planned, its tasks, the sources that are not on this machine). Nothing is asked of the hub.

    A source that is not here is stood in for by texts of the packaged set of CHARACTERS, which are not looked at for near
    duplicates. Raises what reading raises.
    """
    here: list[TaskSource] = []
    files: list[list[Path]] = []
    absent: list[TaskSource] = []
    for source in config.tasks.all_sources:
        found = files_here(source, objects)
        if found is None:
            absent.append(source)
        else:
            here.append(source)
            files.append(found)
    if not absent:
        return config, read_candidates(here, files), []
    tasks = config.tasks.model_copy(update={"near_duplicates": None, "max_tokens": None})
    made = Candidates.of(_stand_ins(config.tasks, absent, alone=not here))
    known = read_candidates(here, files) if here else None
    return config.model_copy(update={"tasks": tasks}), made.with_(known), [source.label for source in absent]


def _stand_ins(settings: TaskSettings, absent: Sequence[TaskSource], *, alone: bool) -> list[Task]:
    asked = settings.n_train + settings.n_eval + settings.n_pool
    each = (
        asked if not alone or (settings.quotas is not None and settings.quotas != "equal") else -(-asked // len(absent))
    )
    words = cycle(" ".join(task.text for task in read_tasks(["demo"])).split())
    tasks = []
    for source in absent:
        origin = source.name or (source.hub or "").rpartition("/")[2]
        for i in range(each):
            text = f"{origin} {i}"
            while len(text) < CHARACTERS:
                text = f"{text} {next(words)}"
            tasks.append(Task(f"{origin}-{i:06d}", text, origin, None))
    return tasks
