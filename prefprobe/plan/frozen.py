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
from prefprobe.tasks.candidates import Candidates
from prefprobe.tasks.drawing import Drawn, Fits, draw
from prefprobe.tasks.sampling import task_set
from prefprobe.tasks.topics import OTHER, merged


@dataclass(frozen=True, eq=False)
class Frozen:
    """Task sets, and what was left out for them."""

    drawn: Drawn
    """train, eval and pool."""
    too_long: list[str]
    """Ids of the tasks that were dropped, since they are beyond a model's context."""

    @property
    def tasks(self) -> pa.Table:
        """id, text, set of the tasks that are measured, sorted by id."""
        return self.drawn.tasks


def freeze(
    config: Config, pool: Candidates, models: Mapping[str, ModelFacts], prompted: Sequence[PromptedTask]
) -> Frozen:
    """Draw the task sets out of the pool; `models` are by features, `prompted` the tasks of the experiments.

    Without quotas every task of the pool must fit into a context, with them every one that is drawn. Raises BadConfig for a
    task beyond the context of the model or the base model, unless `tasks.too_long` drops it, for too few tasks, for a task of
    an experiment that is in a set, and for a template that leaves answers within a thought; InputMissing for an origin of which
    no task is left.
    """
    dropped: list[str] = []
    shifted = sorted({row.text for row in prompted})
    fits = _fits(config, models["model"])
    beyond = [] if config.tasks.quotas is not None else _beyond(config, pool.texts, models, prompted)
    while True:
        dropped, pool = dropped + beyond, pool.without(beyond)
        drawn = draw(pool, config.tasks, config.seed, shifted, fits)
        of = dict(zip(drawn.pool.column("id").to_pylist(), drawn.pool.column("text").to_pylist(), strict=True))
        if config.tasks.quotas is None or not (beyond := _beyond(config, of, models, prompted)):
            break
    check_disjoint(prompted, task_set(drawn.tasks, "train") | task_set(drawn.tasks, "eval"))
    return Frozen(drawn, dropped)


def _beyond(
    config: Config, texts: Mapping[str, str], models: Mapping[str, ModelFacts], prompted: Sequence[PromptedTask]
) -> list[str]:
    """Ids out of `texts` (id → text) whose prompts are beyond a context, if they may be dropped."""
    stimulus = Stimulus(config.choices.label_a, config.choices.label_b)
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
    return dropped


def _fits(config: Config, model: ModelFacts) -> Fits | None:
    """Which texts are no longer than `tasks.max_tokens` in a prompt of the model; None where its tokenizer is not here."""
    most = config.tasks.max_tokens
    if most is None or model.lengths.counts([]) is None:
        return None
    return lambda texts: [count <= most for count in model.lengths.counts([(text, None) for text in texts]) or []]


def freeze_topics(
    config: Config, topic_of: Mapping[str, str | None], train: Mapping[str, str], eval_: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, int]]:
    """{task id: topic} of both sets (id → text), small topics merged, and {merged topic: its train tasks}.

    `topic_of` has the topic of every task of the sets, None of one without.

    Raises BadConfig for a task without a topic, and for topics, or a number of train tasks, that are too few for
    cross-topic folds or for the comparison tasks of the shifts.
    """
    of = {id_: topic for id_, topic in topic_of.items() if id_ in train or id_ in eval_}
    given = {id_: topic for id_, topic in of.items() if topic is not None}
    without = sorted(of.keys() - given.keys())
    if without:
        raise BadConfig(
            f"task {without[0]}: no `topic` ({len(without)} tasks have none); add a `topic` column to the task file, or "
            "name the file's own in `tasks.sources`, or let a judge say topics (`topics.judge`): demeaning and cross-topic folds "
            "need it."
        )
    topics, small = merged(given, train, config.topics.min_tasks)
    in_train = Counter(topics[id_] for id_ in train)
    if 0 < in_train[OTHER] < MIN_TOPIC_TASKS:
        merged_of = f", merged of {', '.join(sorted(small))}," if small else ""
        least = _enough(Counter(given[id_] for id_ in train), config.probes.holdout)
        step = f"set `topics.min_tasks` to {least}, so that more topics are merged with it, or " if least else ""
        raise BadConfig(
            f"topics: {OTHER!r}{merged_of} has {in_train[OTHER]} train tasks, and a fold needs {MIN_TOPIC_TASKS} or more; "
            f"{step}add tasks, or take these out."
        )
    fold_topics([topics[id_] for id_ in train], config.probes.holdout)
    # any utilities do: what is checked is whether there are enough tasks
    planted = {id_: float(i) for i, id_ in enumerate(train)}
    comparison_tasks(planted, topics, config.shift.comparisons, config.seed)
    return topics, small


def _enough(in_train: Mapping[str, int], holdout: int) -> int | None:
    """The least `topics.min_tasks` with which OTHER, too, has train tasks enough; None if too few topics were left."""
    for least in sorted({MIN_TOPIC_TASKS, *(n + 1 for n in in_train.values() if n >= MIN_TOPIC_TASKS)}):
        left = [topic for topic, n in in_train.items() if n >= least and topic != OTHER]
        other = sum(n for topic, n in in_train.items() if topic not in left)
        if other >= MIN_TOPIC_TASKS and len(left) + 1 >= holdout + 2:
            return least
    return None
