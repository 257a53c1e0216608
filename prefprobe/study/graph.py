"""The graph of the study: which steps there are, what each reads, and which parameters make its result what it is.

This is the only place that knows the graph. The local runner walks it, and `make argo` writes it for a cluster.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from prefprobe.choices.reading import READING
from prefprobe.settings import Config, ModelSettings, TaskSource
from prefprobe.settings.activations import named
from prefprobe.topics.reading import READING as TOPIC_READING
from prefprobe.topics.wording import WORDING


@dataclass(frozen=True)
class Step:
    """One kind of work: one file in jobs/, one name on the command line, and on a cluster a template of its own."""

    name: str
    node: Literal["cpu", "gpu"]
    """Where it runs as a rule; `gpu` takes torch too."""
    code: int
    """Raised whenever the same inputs would give another result; part of every key."""
    does: str
    asks: bool = False
    """Whether it asks a model, for choices or topics: through an API it does so on a CPU node, as the template `<name>-api`."""


STEPS = {
    step.name: step
    for step in (
        Step("tasks", "cpu", 2, "freeze disjoint train and eval sets"),
        Step("classify", "gpu", 1, "judge which topic every task is of", asks=True),
        Step("topics", "cpu", 3, "give every task its topic"),
        Step("own-choices", "gpu", 1, "own weights' choices in pairs that an endpoint is asked too"),
        Step("measure", "gpu", 3, "measure choices under active learning, fit utilities", asks=True),
        Step("extract", "gpu", 4, "activations of every task at tokens of its prompt"),
        Step("embed", "cpu", 2, "features that are not a model's: encoders, random vectors"),
        Step("probe", "cpu", 4, "ridge probes, tested on held-out tasks"),
        Step("hoo-layers", "cpu", 1, "folds of held-out topics, layer by layer"),
        Step("hoo", "cpu", 2, "probes tested on topics they never saw"),
        Step("content", "cpu", 1, "what the model's probe knows beyond an encoder's"),
        Step("shift-measure", "gpu", 4, "choices under system prompts", asks=True),
        Step("shift-score", "gpu", 3, "activations and probe scores under system prompts"),
        Step("shift", "cpu", 4, "do probe scores follow what system prompts change"),
        Step("report", "cpu", 7, "figures, tables, verdict"),
    )
}


@dataclass(frozen=True)
class Template:
    """One way to run a step on a cluster: one Argo template and one image, both of this name."""

    name: str
    step: Step
    node: Literal["cpu", "gpu"]
    """Kind of node."""
    base: Literal["cpu", "gpu"]
    """What its image is built on: images/base/gpu has torch, images/base/cpu has not."""


def _templates() -> Iterator[Template]:
    for name, step in STEPS.items():
        yield Template(name, step, step.node, base=step.node)
        if step.asks:
            yield Template(f"{name}-api", step, "cpu", base="cpu")
        if name == "embed":  # for encoders that take torch, which a CPU is enough for
            yield Template("embed-torch", step, "cpu", base="gpu")


TEMPLATES = {template.name: template for template in _templates()}


ASIDE = frozenset(["judging.json", "pool.parquet", "sources.json"])
"""Outputs of `tasks` and `topics` on all tasks: what reads of the measured ones alone stays as it is when the pool grows."""


@dataclass(frozen=True)
class Node:
    """One step with its arguments, as it stands in a study's graph."""

    id: str
    step: Step
    args: dict[str, Any] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)
    """Everything but the inputs that the result depends on; part of the key."""
    reads: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    """Nodes that must be done first, though nothing of them is read: the key does not know them."""
    template: str = ""
    """The name of the one of TEMPLATES that runs it."""
    unread: frozenset[str] = frozenset()
    """Outputs of its inputs that nothing here depends on: the key does not know them."""


def features_of(config: Config) -> dict[str, str]:
    """{name: role} of everything a probe reads; roles are model, position, base, encoder, untrained, random."""
    roles = {"model": "model", **dict.fromkeys(config.activations.further, "position")}
    if config.base:
        roles["base"] = "base"
    roles |= dict.fromkeys(config.encoders, "encoder")
    if config.untrained:
        roles["untrained"] = "untrained"
    if config.random_features:
        roles["random"] = "random"
    return roles


def extracted_as(config: Config, features: str) -> tuple[str, str]:
    """Whose nodes write these features, and what their arrays are called but for the layer: a further position of the model's
    comes out of the same forward passes.
    """
    position = config.activations.further.get(features)
    return (features, "layer") if position is None else ("model", named(position))


def position_of(config: Config, features: str) -> str | None:
    """Where in a prompt these features are read; None for those that are no activations."""
    if features_of(config)[features] in ("encoder", "random"):
        return None
    return config.activations.further.get(features, config.activations.positions[0])


def pin_of(features: str, role: str) -> str:
    """The name of the pin that features of a role come from; "" for random ones, which come from nothing."""
    pins = {
        "model": "model",
        "position": "model",
        "untrained": "model",
        "base": "base",
        "encoder": f"encoder.{features}",
    }
    return pins.get(role, "")


def graph(config: Config, pins: dict[str, str], run_id: str) -> dict[str, Node]:
    """All nodes of a study in an order in which they can run."""
    nodes: dict[str, Node] = {}

    def add(
        step: str,
        *instance: str | int,
        reads: tuple[str, ...] = (),
        after: tuple[str, ...] = (),
        params: dict[str, Any],
        unread: frozenset[str] = ASIDE,
        through_api: bool = config.choices.engine == "api",
        **args: Any,
    ) -> str:
        id_ = ".".join([step, *map(str, instance)])
        template = step
        if STEPS[step].asks and through_api:
            template = f"{step}-api"
        if step == "embed" and (reader := pins.get(f"encoder.{args['features']}.torch")) is not None:
            template = "embed-torch"  # numpy does not read this encoder
            params = params | {"reader": reader}
        nodes[id_] = Node(id_, STEPS[step], args, params | args, reads, after, template, unread)
        return id_

    model = _model_params(config.model, "model", pins)
    seed = config.seed
    prompts = {stem: pins[f"experiment.{stem}"] for stem in config.shift.stems}
    files = [(pins[f"tasks.{i}"], source) for i, source in enumerate(config.tasks.all_sources)]
    # what is drawn, and the prompts that must fit into a model's context
    columns = [[pin, source.id, source.text, source.topic, source.origin, *_chosen(source)] for pin, source in files]
    # without a pool topics and origins are read by the step that needs them: a corrected one draws nothing anew
    read = columns if config.tasks.pooled else [column[:3] for column in columns]
    drawn = {"sources": read, "seed": seed, **config.tasks.model_dump(exclude={"sources", "non_commercial"})}
    part = {} if config.shift.subset is None else {"subset": config.shift.subset.model_dump()}
    unmoved = {"baseline": config.shift.baseline, "neutral": config.shift.neutral, **part}
    shown: dict[str, Any] = {"model": model, "experiments": prompts, **unmoved}
    if config.base:
        shown["base"] = _model_params(config.base, "base", pins)
    if config.choices.engine == "local" or config.choices.own_pairs:
        shown["labels"] = [config.choices.label_a, config.choices.label_b]
    tasks = add("tasks", params=drawn | {"prompts": shown})
    limits = {"holdout": config.probes.holdout, "comparisons": config.shift.comparisons}
    judged = tuple(
        add(
            "classify",
            which,
            params=_judge_params(config, which, pins),
            reads=(tasks,),
            unread=ASIDE - {"pool.parquet"},
            through_api=judge.by == "api",
            judge=which,
        )
        for which, judge in config.topics.judges.items()
    )
    merging: dict[str, Any] = {"min_tasks": config.topics.min_tasks}
    if config.topics.second is not None:
        merging["second"] = config.topics.second.by
    topics = add("topics", params={"sources": columns, **merging, **limits}, reads=(tasks, *judged))
    checked = (topics,)

    sources: dict[str, tuple[str, ...]] = {}
    none: frozenset[str] = frozenset()
    for name, role in features_of(config).items():
        if role in ("model", "base", "untrained"):
            settings = config.base if role == "base" and config.base else config.model
            params: dict[str, Any] = {"model": _model_params(settings, pin_of(name, role), pins)}
            params |= {"fractions": config.activations.fractions, "part": config.activations.part}
            params |= {"shards": config.activations.shards, **_kept(config, role == "model")}
            if role == "untrained":
                params["seed"] = seed
            sources[name] = tuple(
                add("extract", name, k, params=params, reads=(tasks,), after=checked, features=name, shard=k)
                for k in range(config.activations.shards)
            )
            for k in range(config.activations.shards if config.tasks.n_pool and role != "untrained" else 0):
                more: dict[str, Any] = {"features": name, "shard": k, "pool": True}
                add("extract", name, "pool", k, params=params, reads=(tasks,), after=checked, unread=none, **more)
        elif role == "position":
            sources[name] = sources["model"]
        elif role == "encoder":
            params = {"encoder": pins[pin_of(name, role)]}
            sources[name] = (add("embed", name, params=params, reads=(tasks,), after=checked, features=name),)
            if config.tasks.n_pool:
                add(
                    "embed",
                    name,
                    "pool",
                    params=params,
                    reads=(tasks,),
                    after=checked,
                    unread=none,
                    features=name,
                    pool=True,
                )
        else:
            # as wide as the model's activations, which the first shard tells
            reads = (tasks, sources["model"][0])
            sources[name] = (add("embed", name, params={"seed": seed}, reads=reads, after=checked, features=name),)

    choices = config.choices.keyed()
    if config.choices.api is not None:
        choices["reading"] = READING
    compared: tuple[str, ...] = ()
    if config.choices.own_pairs:
        asked = config.choices.model_dump(mode="json", include={"temperature", "label_a", "label_b", "part"})
        params = {"model": model, "choices": asked, "pairs": config.choices.own_pairs, "seed": seed}
        compared = (add("own-choices", params=params, reads=(tasks,), after=checked),)
    for name in (
        "train",
        "eval",
    ):  # after the activations: a model that gives none is refused before choices are paid for
        learning = getattr(config, name).model_dump()
        params = {"model": model, "choices": choices, "learning": learning, "seed": seed}
        add("measure", name, params=params, reads=(tasks, *compared), after=checked, set=name)
    measured = ("measure.train", "measure.eval")

    for name in sources:
        # the shuffled-label control belongs to the model: it asks what the model's own features give by chance
        shuffles = config.probes.permutations if name == "model" else 0
        params = {"seed": seed, "compat": config.probes.compat, "permutations": shuffles}
        add("probe", name, params=params, reads=(*measured, topics, *sources[name]), features=name)
    for name, role in features_of(config).items():
        shuffles = config.probes.permutations if name == "model" else 0
        params = {
            "seed": seed,
            **config.probes.model_dump(exclude={"shards", "permutations"}),
            "permutations": shuffles,
        }
        most = len(config.activations.fractions) if role not in ("encoder", "random") else 1
        shards = min(config.probes.shards, most)
        of_layers = (*measured, topics, *sources[name])
        parts = [
            add("hoo-layers", name, k, params=params, reads=of_layers, features=name, shard=k, shards=shards)
            for k in range(shards)
        ]
        add("hoo", name, params=params, reads=(*measured, topics, *parts), features=name)
    if config.encoders:
        compared = (*measured, "probe.model", *sources["model"], *(sources[name][0] for name in config.encoders))
        add("content", params={"seed": seed, "permutations": config.probes.permutations}, reads=compared)

    prompted = {"experiments": prompts, **unmoved, "shards": config.shift.shards}
    prompt_shards = range(config.shift.shards)
    measure_params = {
        "model": model,
        "choices": choices,
        "seed": seed,
        "comparisons": config.shift.comparisons,
        "samples": config.shift.samples,
        **prompted,
    }
    moved = [
        add("shift-measure", k, params=measure_params, reads=(tasks, topics, "measure.train"), shard=k)
        for k in prompt_shards
    ]
    moved += [
        add("shift-score", k, params={"model": model, **prompted, "part": config.activations.part, **_kept(config, False)},
            reads=(tasks, "probe.model"), shard=k)
        for k in prompt_shards
    ]  # fmt: skip
    for name in config.encoders:
        params = {"encoder": pins[pin_of(name, "encoder")], "experiments": prompts, **unmoved}
        moved.append(add("embed", name, "shift", params=params, after=checked, features=name, prompted=True))
    probes = tuple(f"probe.{name}" for name in config.encoders)
    params = {"seed": seed, "comparisons": config.shift.comparisons, **prompted}
    if config.shift.refitted:  # against the comparison tasks' utilities
        params["refitted"] = config.shift.refitted
        probes = ("measure.train", *probes)
    add("shift", params=params, reads=(*moved, *probes))
    add("report", params={"config": config.model_dump(mode="json"), "run": run_id}, reads=tuple(nodes))
    return nodes


def _kept(config: Config, further: bool) -> dict[str, Any]:
    """At which positions and in which type activations are kept, where that is not the last token and float32."""
    positions = config.activations.positions if further else config.activations.positions[:1]
    kept = config.activations.model_copy(update={"positions": positions})
    return kept.model_dump(include={"positions", "dtype"})


def judge_model(config: Config, which: str) -> tuple[ModelSettings, str]:
    """The model that a judge with own weights reads, and its pin: the one that chooses, where no other is named."""
    other = config.topics.judges[which].model
    return (config.model, "model") if other is None else (other, f"topics.{which}.model")


def _judge_params(config: Config, which: str, pins: dict[str, str]) -> dict[str, Any]:
    judge, pin = config.topics.judges[which], f"topics.{which}"
    params: dict[str, Any] = {
        "taxonomy": pins["taxonomy"],
        "by": judge.keyed(),
        "wording": WORDING,
        "reading": TOPIC_READING,
    }
    if judge.by == "local":
        params["model"] = _model_params(*judge_model(config, which), pins)
    params |= {name: pins[f"{pin}.{name}"] for name in ("encoder", "examples") if getattr(judge, name) is not None}
    return params | ({"sample": config.topics.sample, "seed": config.seed} if which == "second" else {})


def fan_out(nodes: Collection[Node]) -> dict[str, list[str]]:
    """{template: ids of its nodes}, every template named even if none of the nodes is of it."""
    return {template: [n.id for n in nodes if n.template == template] for template in TEMPLATES}


def _chosen(source: TaskSource) -> list[dict[str, Any]]:
    """What tells the rows of a source that are tasks; nothing of a file in which all are."""
    if source.strict:
        return []
    said = source.model_dump(mode="json", include={"name", "hub", "files", "language", "where"})
    limits = {"min_characters": source.min_characters, "max_characters": source.max_characters}
    return [{**said, **limits}]


def _model_params(settings: ModelSettings, pin: str, pins: dict[str, str]) -> dict[str, Any]:
    params: dict[str, Any] = {"revision": pins[pin], "dtype": settings.dtype, "chat": settings.chat}
    params |= {"template": settings.template, "date": settings.date.isoformat()}
    if settings.quantisation:
        params["quantisation"] = settings.quantisation
    if settings.adapter:
        params["adapter"] = pins[f"{pin}.adapter"]
    return params
