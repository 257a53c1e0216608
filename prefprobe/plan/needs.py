"""What a study will take before anything is spent: requests, tokens, dollars, GPU hours and storage of every node.

The tasks are those that the study will draw, the graph is the study's, and lengths are measured. Nothing is asked of
the hub or of an API, nothing is downloaded, and nothing is saved.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any, Literal

from prefprobe.choices.agreement import SAMPLES
from prefprobe.choices.pairs import few_pairs
from prefprobe.choices.stimulus import Stimulus
from prefprobe.features.encoder_files import Encoder
from prefprobe.plan.frozen import freeze, freeze_topics
from prefprobe.plan.model import ModelFacts, encoder_facts, model_facts
from prefprobe.plan.prompts import Prompt
from prefprobe.plan.standins import planned_tasks
from prefprobe.settings import ActiveLearningSettings, Config
from prefprobe.settings.activations import ActivationSettings
from prefprobe.shift.experiments import Experiment
from prefprobe.shift.prompted import PromptedTask, experiments_of, prompted_tasks
from prefprobe.sources import local_path
from prefprobe.store.objects import ObjectStore
from prefprobe.study.graph import TEMPLATES, Node, graph
from prefprobe.study.pins import torch_pins
from prefprobe.tasks.sampling import SETS, shard_of, task_set
from prefprobe.topics.taxonomy import Taxonomy, load_taxonomy
from prefprobe.topics.wording import message, scored_message

CHOICE_RATE, ACTIVATION_RATE = 18_858, 12_362
"""Prompt tokens a second on one H100 at the shape of RATED parameters, as benchmarks/extraction_gpu.py printed them of whole
calls of the steps.
"""
RATED = 27e9
GPU = 80e9
"""Bytes that a GPU holds unless it is said: what the largest common ones do."""
LOADED = 1e9
"""Bytes of weights that a pod is assumed to read in a second."""
ANSWER_TOKENS = 16
"""Length of an answer where `max_tokens` is null, as the API engine begins with."""
CHOICE_BYTES = {"local": 150, "sampled": 150, "exact": 1150}
"""Bytes in the store a choice, with its answer as part and as output; Parquet of 20,000 synthetic rows gave them.

`exact` keeps the log-probabilities that an API lists, `sampled` an answer of 16 tokens; a longer one is MORE a token.
"""
MORE = 4
TOPIC_TOKENS = 40
"""Of an answer with a topic: a JSON object with two labels; the room for it is larger."""
TOPIC_BYTES = 300
"""Bytes in the store a topic, with its answer as part and as output."""
LABEL_TOKENS = 3
"""Of a label's name."""
_FLOAT32 = 4


@dataclass(frozen=True)
class Need:
    """What a node takes, or several nodes together. None is unknown, 0 is nothing."""

    tasks: int = 0
    pairs_least: int = 0
    """If active learning converges as early as it can; all else is for `pairs`."""
    pairs: int = 0
    """At most."""
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    dollars: float | None = 0.0
    gpu_hours: float | None = 0.0
    bytes: float | None = 0.0

    def __add__(self, other: "Need") -> "Need":
        both = zip(astuple(self), astuple(other), strict=True)
        sums: list[Any] = [None if a is None or b is None else a + b for a, b in both]
        return Need(*sums)


@dataclass(frozen=True)
class Line:
    """Nodes that are alike."""

    step: str
    node: Literal["cpu", "gpu"]
    needs: tuple[Need, ...]
    """One for each node."""
    gpus: int | None = 0
    """That each node takes; None is unknown."""

    @property
    def need(self) -> Need:
        """All nodes together."""
        return sum(self.needs, Need())


@dataclass(frozen=True)
class Study:
    """What a plan is made from."""

    config: Config
    stimulus: Stimulus
    sets: dict[str, dict[str, str]]
    """train and eval, id → text."""
    pool: dict[str, str]
    """Further tasks that activations are made of, id → text."""
    absent: list[str]
    """Sources that are not on this machine; others stand in for their tasks."""
    taxonomy: Taxonomy | None
    """What judges choose topics from; None where topics are given."""
    untold: int
    """Tasks without a topic, where these are given."""
    too_long: int
    """Tasks that are dropped, as they are beyond a model's context."""
    experiments: list[tuple[Experiment, Experiment]]
    """The part that is run, and the whole."""
    prompted: list[PromptedTask]
    models: dict[str, ModelFacts]
    """By features: model, untrained, and base if there is one."""
    encoders: dict[str, Encoder]
    """Those of which files are here."""
    widths: dict[str, int | None]
    """d of encoders and of random features; None if unknown."""
    task_tokens: dict[str, float]
    """Mean tokens of a task's prompt, by features."""
    gpu: float = GPU
    """Bytes that a GPU holds."""


def read_study(config: Config, objects: ObjectStore, gpu: float = GPU) -> Study:
    """Read tasks, experiments and what lies here of the models. Raises what the steps of the study would raise."""
    stimulus = Stimulus(config.choices.label_a, config.choices.label_b)
    models = {"model": model_facts(config.model)}
    models["untrained"] = models["model"]
    if config.base is not None:
        models["base"] = model_facts(config.base)
    for settings in filter(None, (config.model, config.base)):
        if settings.adapter:
            local_path(settings.adapter)  # raises for one that is neither here nor a hub id
    found = {name: encoder_facts(source) for name, source in config.encoders.items()}
    encoders = {name: encoder for name, encoder in found.items() if encoder is not None}
    widths = dict.fromkeys(found) | {name: e.width for name, e in encoders.items()} | {"random": models["model"].d}
    config, pool, absent = planned_tasks(config, objects)
    prompted = prompted_tasks(config.shift, objects)
    frozen = freeze(config, pool, models, prompted)
    sets = {name: task_set(frozen.tasks, name) for name in SETS}
    texts = sets["train"] | sets["eval"]
    of = frozen.drawn.pool.to_pylist()
    topic_of = {row["id"]: row["topic"] for row in of if row["id"] in texts}
    taxonomy = load_taxonomy(config.topics.taxonomy, objects) if config.topics.judges else None
    untold = 0 if taxonomy else sum(topic is None for topic in topic_of.values())
    if not untold and taxonomy is None:  # what a judge will say is not known
        freeze_topics(config, topic_of, sets["train"], sets["eval"])
    chosen = {name: m.lengths.mean([(text, None) for text in texts.values()]) for name, m in models.items()}
    judges = {f"topics.{which}": judge.model for which, judge in config.topics.judges.items() if judge.model}
    models |= {name: model_facts(settings) for name, settings in judges.items()}
    return Study(
        config,
        stimulus,
        sets,
        {row["id"]: row["text"] for row in of if row["set"] == "pool"},
        absent,
        taxonomy,
        untold,
        len(frozen.too_long),
        experiments_of(config.shift, objects),
        prompted,
        models,
        encoders,
        widths,
        chosen,
        gpu,
    )


def plan(study: Study) -> list[Line]:
    """One line for nodes that are alike, in the order of the graph."""
    nodes = graph(study.config, defaultdict(str, torch_pins(study.encoders)), "")
    lines: dict[str, Line] = {}
    for node in nodes.values():
        need = _need(study, node)
        counted = need != Need()
        name = node.id.removesuffix(f".{node.args.get('shard')}") if counted else node.step.name
        before = lines[name].needs if name in lines else ()
        kind = TEMPLATES[node.template].node
        gpus = _model(study, node).gpus(study.gpu) if kind == "gpu" else 0
        lines[name] = Line(name, kind, (*before, need), gpus)
    return list(lines.values())


def _model(study: Study, node: Node) -> ModelFacts:
    """What a node with own weights runs: a judge of topics may have others than the model that chooses."""
    name = f"topics.{node.args['judge']}" if "judge" in node.args else node.args.get("features", "model")
    return study.models.get(name, study.models["model"])


def rounds(n: int, settings: ActiveLearningSettings) -> list[int]:
    """Pairs of every round that active learning on `n` tasks may have."""
    total = n * (n - 1) // 2
    degree = settings.initial_degree
    sizes = [total if n <= degree + 1 else (n * degree + 1) // 2]
    while len(sizes) < settings.max_rounds and (left := total - sum(sizes)):
        sizes.append(min(settings.batch, left))
    return sizes


def answers(config: Config, samples: int) -> int:
    """How often each order of a pair is asked at most."""
    api = config.choices.api
    return 1 if api is None or api.mode == "exact" else samples


def _need(study: Study, node: Node) -> Need:
    if node.step.name == "classify":
        return _classify(study, node)
    if node.step.name in ("tasks", "topics"):
        further = len(study.pool) if node.step.name == "tasks" else 0
        return Need(tasks=sum(map(len, study.sets.values())) + further)
    if node.step.name == "own-choices":
        prompts = _compared(study)
        need = Need(tasks=len(study.sets["train"]), pairs_least=len(prompts), pairs=len(prompts))
        return _read_off(study, replace(need, requests=2 * len(prompts)), prompts)
    if node.step.name == "measure":
        return _measure(study, node)
    if node.step.name == "shift-measure":
        return _shift_measure(study, node)
    if node.step.name == "extract":
        config, name = study.config.activations, node.args["features"]
        rows = sum(shard_of(id_, config.shards) == node.args["shard"] for id_ in _drawn(study, node))
        return _extract(study, study.models[name], rows, study.task_tokens[name], config, name == "model")
    if node.step.name == "shift-score":
        mine, model = _rows(study, node), study.models["model"]
        one = study.config.activations.model_copy(update={"fractions": [0.0]})
        mean = model.lengths.mean([(r.text, r.prompt) for r in mine])
        return _extract(study, model, len(mine), mean, one, False)
    if node.step.name == "embed":
        rows = len(study.prompted) if node.args.get("prompted") else len(_drawn(study, node))
        d = study.widths[node.args["features"]]
        return Need(tasks=rows, bytes=None if d is None else rows * d * _FLOAT32)
    return Need()


def _drawn(study: Study, node: Node) -> dict[str, str]:
    """The tasks that a node makes features of, id → text."""
    return study.pool if node.args.get("pool") else study.sets["train"] | study.sets["eval"]


def _measure(study: Study, node: Node) -> Need:
    texts = list(study.sets[node.args["set"]].values())
    settings: ActiveLearningSettings = getattr(study.config, node.args["set"])
    sizes = rounds(len(texts), settings)
    # on a ring every task stands first once and second once, as it does on average in the loop
    ring = zip(texts, texts[1:] + texts[:1], strict=True)
    need = Need(tasks=len(texts), pairs_least=sum(sizes[:2]), pairs=sum(sizes))
    prompts = [(study.stimulus.message(a, b), None) for a, b in ring]
    need = replace(need, requests=need.pairs * 2 * answers(study.config, settings.samples))
    need = _asked(study, need, prompts)
    if compared := _compared(study):
        need += _asked(study, Need(requests=2 * len(compared) * answers(study.config, SAMPLES)), compared)
    return need


def _classify(study: Study, node: Node) -> Need:
    """One question a task; a second, plainer one is for the few whose first answer says nothing."""
    which = node.args["judge"]
    judge = study.config.topics.judges[which]
    texts = [text for of in (*study.sets.values(), study.pool) for text in of.values()]
    if which == "second":
        texts = texts[: study.config.topics.sample]
    need, taxonomy = Need(tasks=len(texts)), study.taxonomy
    assert taxonomy is not None
    if judge.by == "encoder":
        return need
    model = _model(study, node)
    if judge.api is None:
        # a prompt is computed once for all labels
        each = model.lengths.mean([(scored_message(taxonomy, text), None) for text in texts])
        tokens = round(len(texts) * (each + LABEL_TOKENS * len(taxonomy.labels)))
        return replace(need, prompt_tokens=tokens, gpu_hours=_hours(study, model, tokens, CHOICE_RATE))
    tokens = round(len(texts) * model.lengths.mean([(message(taxonomy, text), None) for text in texts]))
    completion = len(texts) * (judge.api.max_tokens or TOPIC_TOKENS)
    prices = judge.api.prices
    dollars = None if prices is None else (tokens * prices.prompt + completion * prices.completion) / 1e6
    asked = replace(need, requests=len(texts), prompt_tokens=tokens, completion_tokens=completion, dollars=dollars)
    return replace(asked, bytes=len(texts) * TOPIC_BYTES)


def _compared(study: Study) -> list[Prompt]:
    """The pairs that own weights and an endpoint are asked, shown in one order."""
    train, config = study.sets["train"], study.config
    pairs = few_pairs(train, config.choices.own_pairs, config.seed)
    return [(study.stimulus.message(train[a], train[b]), None) for a, b in pairs]


def _shift_measure(study: Study, node: Node) -> Need:
    mine, train = _rows(study, node), list(study.sets["train"].values())
    settings = study.config.shift
    pairs = len(mine) * settings.comparisons
    need = Need(tasks=len(mine), pairs_least=pairs, pairs=pairs)
    # which tasks are compared with is known only once there are utilities: all of the train set stand for them
    each = -(-len(train) // max(1, len(mine)))
    prompts = [
        (study.stimulus.message(r.text, train[(i * each + k) % len(train)]), r.prompt)
        for i, r in enumerate(mine)
        for k in range(each)
    ]
    need = replace(need, requests=pairs * 2 * answers(study.config, settings.samples))
    return _asked(study, need, prompts)


def _asked(study: Study, need: Need, prompts: Sequence[Prompt]) -> Need:
    """`need` with what its requests take of whoever chooses, if prompts are as long as these on average."""
    api = study.config.choices.api
    if api is None:
        return _read_off(study, need, prompts)
    requests, tokens = need.requests, round(need.requests * study.models["model"].lengths.mean(prompts))
    length = api.max_tokens or ANSWER_TOKENS
    completion = requests * length
    price = api.prices
    kept = CHOICE_BYTES["exact" if api.mode == "exact" else "sampled"] + MORE * max(0, length - ANSWER_TOKENS)
    dollars = None if price is None else (tokens * price.prompt + completion * price.completion) / 1e6
    return replace(need, prompt_tokens=tokens, completion_tokens=completion, dollars=dollars, bytes=requests * kept)


def _read_off(study: Study, need: Need, prompts: Sequence[Prompt]) -> Need:
    """The same of own weights."""
    model = study.models["model"]
    tokens = round(need.requests * model.lengths.mean(prompts))
    hours = _hours(study, model, tokens, CHOICE_RATE)
    return replace(need, prompt_tokens=tokens, gpu_hours=hours, bytes=need.requests * CHOICE_BYTES["local"])


def _extract(
    study: Study, model: ModelFacts, rows: int, mean: float, settings: ActivationSettings, further: bool
) -> Need:
    tokens = round(rows * mean)
    stored = None
    if model.d is not None and model.n_layers is not None:
        vectors = rows * len({int(f * model.n_layers) for f in settings.fractions})
        vectors *= len(settings.positions) if further else 1
        stored = vectors * model.d * (_FLOAT32 if settings.dtype == "float32" else 2)
    hours = _hours(study, model, tokens, ACTIVATION_RATE)
    return Need(tasks=rows, prompt_tokens=tokens, gpu_hours=hours, bytes=stored)


def _hours(study: Study, model: ModelFacts, tokens: int, rate: float) -> float | None:
    """H100 hours of one node: its tokens, and loading the weights, for which all of its GPUs wait."""
    if model.parameters is None or model.weights is None:
        return None
    return (tokens / rate * model.parameters / RATED + (model.gpus(study.gpu) or 1) * model.weights / LOADED) / 3600


def _rows(study: Study, node: Node) -> list[PromptedTask]:
    """The prompted tasks of a shard: those under its system prompts."""
    mine = set(_every(sorted({r.prompt_id for r in study.prompted}), node, study.config.shift.shards))
    return [r for r in study.prompted if r.prompt_id in mine]


def _every(items: Iterable[str], node: Node, shards: int) -> list[str]:
    return list(items)[node.args["shard"] :: shards]
