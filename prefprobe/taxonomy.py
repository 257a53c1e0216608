"""A draft of a taxonomy for a study's tasks: what `prefprobe taxonomy` prints."""

import hashlib

from prefprobe.errors import BadConfig
from prefprobe.numbers import count, dollars
from prefprobe.progress import Progress
from prefprobe.settings import Config
from prefprobe.store.objects import ObjectStore
from prefprobe.tasks.candidates import read_candidates
from prefprobe.tasks.located import all_files, pin
from prefprobe.topics.discovery import discover, draft


def taxonomy(config: Config, objects: ObjectStore, sample: int, labels: int) -> tuple[str, str]:
    """The draft as YAML, and a sentence on its cost, of `sample` tasks of the study's sources.

    Raises BadConfig where the preset names no endpoint that judges topics, and what `discover` raises.
    """
    judge = next((judge for judge in config.topics.judges.values() if judge.api is not None), None)
    if judge is None or judge.api is None:
        raise BadConfig(
            "topics.judge: a draft of a taxonomy is asked of an endpoint, and the preset names none; set topics.judge.by to api "
            "and give topics.judge.api."
        )
    sources = config.tasks.all_sources
    texts = read_candidates(sources, all_files(sources, [pin(source, objects) for source in sources], objects)).texts
    drawn = sorted(texts, key=lambda id_: hashlib.sha256(f"{config.seed} {id_}".encode()).digest())[:sample]
    found, spend = discover(judge.api, [texts[id_] for id_ in drawn], labels=labels, progress=Progress.silent())
    said = f"{count(spend.requests)} answers, {count(spend.prompt_tokens + spend.completion_tokens)} tokens"
    cost = f", {dollars(spend.dollars)} US$" if spend.dollars else ""
    return draft(found.model_dump(mode="json")), f"a draft from {count(len(drawn))} tasks: {said}{cost}"
