"""The tasks of a study and their topics, as the steps `tasks` and `topics` freeze them, with all that they must meet.

Whatever a later step would refuse for the tasks' sake is refused here, before anything is spent.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from prefprobe.activations.turns import check_thought
from prefprobe.choices.stimulus import Stimulus
from prefprobe.errors import BadConfig
from prefprobe.plan.context import too_long
from prefprobe.plan.model import ModelFacts
from prefprobe.probes.crosstopic import MIN_TOPIC_TASKS, fold_topics
from prefprobe.settings import Config
from prefprobe.shift.behaviour import comparison_tasks
from prefprobe.shift.prompted import PromptedTask, check_disjoint
from prefprobe.tasks.pool import Task
from prefprobe.tasks.sampling import sample_sets, task_set
from prefprobe.tasks.topics import OTHER, merged


@dataclass(frozen=True, eq=False)
class Frozen:
    """Task sets, and what was left out for them."""

    tasks: pa.Table
    """id, text, set, sorted by id."""
    too_long: list[str]
    """Ids of the tasks that were dropped, since they are beyond a model's context."""


def freeze(
    config: Config, pool: Sequence[Task], models: Mapping[str, ModelFacts], prompted: Sequence[PromptedTask]
) -> Frozen:
    """Draw the task sets out of the pool; `models` are by features, `prompted` the tasks of the experiments.

    Raises BadConfig for a task beyond the context of the model or the base model, unless `tasks.too_long` drops it, for
    too few tasks, for a task of an experiment that is in a set, and for a template that leaves answers within a thought.
    """
    stimulus = Stimulus(config.choices.label_a, config.choices.label_b)
    texts = {task.id: task.text for task in pool}
    dropped: list[str] = []
    for name in ("model", "base"):
        if name not in models:
            continue
        chooses = name == "model"
        # an endpoint alone says itself what is too long for it; one that is compared with own weights has their context
        own = config.choices.engine == "local" or config.choices.own_pairs
        asked = stimulus if chooses and own else None
        turns = models[name].lengths.turns
        if asked is not None and turns is not None:
            check_thought(turns, models[name].takes)
        beyond, said = too_long(texts, models[name], asked, prompted if chooses else ())
        if beyond and config.tasks.too_long == "refuse":
            raise BadConfig(
                f"{said} ({len(beyond)} such tasks); shorten or remove them, or set `tasks.too_long` to drop."
            )
        dropped += beyond
        texts = {id_: text for id_, text in texts.items() if id_ not in set(beyond)}
    tasks = sample_sets(texts, config.tasks.n_train, config.tasks.n_eval, config.seed)
    check_disjoint(prompted, task_set(tasks, "train") | task_set(tasks, "eval"))
    return Frozen(tasks, dropped)


def freeze_topics(
    config: Config, pool: Sequence[Task], train: Mapping[str, str], eval_: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, int]]:
    """{task id: topic} of both sets (id → text), small topics merged, and {merged topic: its train tasks}.

    Raises BadConfig for a task without a topic, and for topics, or a number of train tasks, that are too few for
    cross-topic folds or for the comparison tasks of the shifts.
    """
    of = {task.id: task.topic for task in pool if task.id in train or task.id in eval_}
    given = {id_: topic for id_, topic in of.items() if topic is not None}
    without = sorted(of.keys() - given.keys())
    if without:
        raise BadConfig(
            f"task {without[0]}: no `topic` ({len(without)} tasks have none); add a `topic` column to the task file, or "
            "name the file's own in `tasks.sources`: demeaning and cross-topic folds need it."
        )
    topics, small = merged(given, train, config.topics.min_tasks)
    in_train = Counter(topics[id_] for id_ in train)
    if small and 0 < in_train[OTHER] < MIN_TOPIC_TASKS:
        raise BadConfig(
            f"topics: {OTHER!r}, merged of {', '.join(sorted(small))}, has {in_train[OTHER]} train tasks, and a fold needs "
            f"{MIN_TOPIC_TASKS} or more; raise `topics.min_tasks`, so that more topics are merged, or add tasks."
        )
    fold_topics([topics[id_] for id_ in train], config.probes.holdout)
    # any utilities do: what is checked is whether there are enough tasks
    planted = {id_: float(i) for i, id_ in enumerate(train)}
    comparison_tasks(planted, topics, config.shift.comparisons, config.seed)
    return topics, small
