"""The graph of the study: which steps there are, what each reads, and which parameters make its result what it is.

This is the only place that knows the graph. The local runner walks it, and `make argo` writes it for a cluster.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from prefprobe.choices.reading import READING
from prefprobe.settings import Config, ModelSettings


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
    """Whether it asks the model for choices: through an API it does so on a CPU node, as the template `<name>-api`."""


STEPS = {
    step.name: step
    for step in (
        Step("tasks", "cpu", 2, "freeze disjoint train and eval sets"),
        Step("topics", "cpu", 2, "give every task its topic"),
        Step("own-choices", "gpu", 1, "own weights' choices in pairs that an endpoint is asked too"),
        Step("measure", "gpu", 3, "measure choices under active learning, fit utilities", asks=True),
        Step("extract", "gpu", 3, "activations at the last prompt token"),
        Step("embed", "cpu", 2, "features that are not a model's: encoders, random vectors"),
        Step("probe", "cpu", 2, "ridge probes, tested on held-out tasks"),
        Step("hoo", "cpu", 1, "probes tested on topics they never saw"),
        Step("shift-measure", "gpu", 3, "choices under system prompts", asks=True),
        Step("shift-score", "gpu", 2, "activations and probe scores under system prompts"),
        Step("shift", "cpu", 2, "do probe scores follow what system prompts change"),
        Step("report", "cpu", 4, "figures, tables, verdict"),
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


def features_of(config: Config) -> dict[str, str]:
    """{name: role} of everything a probe reads; roles are model, base, encoder, untrained, random."""
    named = {"model": "model"}
    if config.base:
        named["base"] = "base"
    named |= dict.fromkeys(config.encoders, "encoder")
    if config.untrained:
        named["untrained"] = "untrained"
    if config.random_features:
        named["random"] = "random"
    return named


def pin_of(features: str, role: str) -> str:
    """The name of the pin that features of a role come from; "" for random ones, which come from nothing."""
    return {"model": "model", "untrained": "model", "base": "base", "encoder": f"encoder.{features}"}.get(role, "")


def graph(config: Config, pins: dict[str, str], run_id: str) -> dict[str, Node]:
    """All nodes of a study in an order in which they can run."""
    nodes: dict[str, Node] = {}

    def add(
        step: str,
        *instance: str | int,
        reads: tuple[str, ...] = (),
        after: tuple[str, ...] = (),
        params: dict[str, Any],
        **args: Any,
    ) -> str:
        id_ = ".".join([step, *map(str, instance)])
        template = step
        if STEPS[step].asks and config.choices.engine == "api":
            template = f"{step}-api"
        if step == "embed" and (reader := pins.get(f"encoder.{args['features']}.torch")) is not None:
            template = "embed-torch"  # numpy does not read this encoder
            params = params | {"reader": reader}
        nodes[id_] = Node(id_, STEPS[step], args, params | args, reads, after, template)
        return id_

    model = _model_params(config.model, "model", pins)
    seed = config.seed
    prompts = {stem: pins[f"experiment.{stem}"] for stem in config.shift.stems}
    files = [(pins[f"tasks.{i}"], source) for i, source in enumerate(config.tasks.files)]
    # what is drawn, and the prompts that must fit into a model's context
    drawn = {"sources": [[pin, source.id, source.text] for pin, source in files], "seed": seed}
    drawn |= config.tasks.model_dump(exclude={"sources"})
    shown: dict[str, Any] = {"model": model, "experiments": prompts, "baseline": config.shift.baseline}
    if config.base:
        shown["base"] = _model_params(config.base, "base", pins)
    if config.choices.engine == "local" or config.choices.own_pairs:
        shown["labels"] = [config.choices.label_a, config.choices.label_b]
    tasks = add("tasks", params=drawn | {"prompts": shown})
    columns = [[pin, source.id, source.text, source.topic, source.origin] for pin, source in files]
    limits = {"holdout": config.probes.holdout, "comparisons": config.shift.comparisons}
    topics = add("topics", params={"sources": columns, **config.topics.model_dump(), **limits}, reads=(tasks,))
    checked = (topics,)

    sources: dict[str, tuple[str, ...]] = {}
    for name, role in features_of(config).items():
        if role in ("model", "base", "untrained"):
            settings = config.base if role == "base" and config.base else config.model
            params: dict[str, Any] = {"model": _model_params(settings, pin_of(name, role), pins)}
            params |= {"fractions": config.activations.fractions, "part": config.activations.part}
            params |= {"shards": config.activations.shards}
            if role == "untrained":
                params["seed"] = seed
            sources[name] = tuple(
                add("extract", name, k, params=params, reads=(tasks,), after=checked, features=name, shard=k)
                for k in range(config.activations.shards)
            )
        elif role == "encoder":
            params = {"encoder": pins[pin_of(name, role)]}
            sources[name] = (add("embed", name, params=params, reads=(tasks,), after=checked, features=name),)
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
        params = {"seed": seed, **config.probes.model_dump(exclude={"holdout"})}
        add("probe", name, params=params, reads=(*measured, topics, *sources[name]), features=name)
    for name in sources:
        params = {"seed": seed, **config.probes.model_dump(exclude={"permutations"})}
        add("hoo", name, params=params, reads=(*measured, topics, *sources[name]), features=name)

    prompted = {"experiments": prompts, "baseline": config.shift.baseline, "shards": config.shift.shards}
    shards = range(config.shift.shards)
    measure_params = {
        "model": model,
        "choices": choices,
        "seed": seed,
        "comparisons": config.shift.comparisons,
        "samples": config.shift.samples,
        **prompted,
    }
    moved = [
        add("shift-measure", k, params=measure_params, reads=(tasks, topics, "measure.train"), shard=k) for k in shards
    ]
    moved += [
        add("shift-score", k, params={"model": model, **prompted, "part": config.activations.part},
            reads=(tasks, "probe.model"), shard=k)
        for k in shards
    ]  # fmt: skip
    for name in config.encoders:
        params = {"encoder": pins[pin_of(name, "encoder")], "experiments": prompts, "baseline": config.shift.baseline}
        moved.append(add("embed", name, "shift", params=params, after=checked, features=name, prompted=True))
    probes = tuple(f"probe.{name}" for name in config.encoders)
    add("shift", params={"seed": seed, "comparisons": config.shift.comparisons, **prompted}, reads=(*moved, *probes))
    add("report", params={"config": config.model_dump(mode="json"), "run": run_id}, reads=tuple(nodes))
    return nodes


def fan_out(nodes: Mapping[str, Node]) -> dict[str, list[str]]:
    """{template: ids of its nodes}, every template named even if a study has no node of it."""
    return {template: [n.id for n in nodes.values() if n.template == template] for template in TEMPLATES}


def _model_params(settings: ModelSettings, pin: str, pins: dict[str, str]) -> dict[str, Any]:
    params: dict[str, Any] = {"revision": pins[pin], "dtype": settings.dtype, "chat": settings.chat}
    params |= {"template": settings.template, "date": settings.date.isoformat()}
    if settings.adapter:
        params["adapter"] = pins[f"{pin}.adapter"]
    return params
