"""What a plan rests on, in a few plain lines."""

from collections.abc import Callable, Iterator
from pathlib import Path

from prefprobe.activations.memory import gpus_for
from prefprobe.choices.agreement import SAMPLES
from prefprobe.numbers import count, listed, rough, rough_dollars, rough_size, rough_tokens
from prefprobe.plan.model import BYTES, ModelFacts
from prefprobe.plan.needs import (
    ACTIVATION_RATE,
    ANSWER_TOKENS,
    CHOICE_BYTES,
    CHOICE_RATE,
    LOADED,
    MORE,
    RATED,
    TOPIC_TOKENS,
    Line,
    Need,
    Study,
    answers,
)
from prefprobe.plan.pods import MOST
from prefprobe.plan.prompts import CHARACTERS, TEMPLATE_TOKENS
from prefprobe.plan.shifts import shows
from prefprobe.plan.standins import CHARACTERS as CHARACTERS_OF_A_TASK

NODE = 8
"""GPUs that the largest common nodes have."""
DEVICES = Path("/dev")
"""Where GPUs of this machine are seen."""


def remarks(study: Study, lines: list[Line]) -> list[str]:
    """Assumptions, what is unknown and how to make it known, and what the study would stop at."""
    said = [
        *_choices(study),
        *_topics(study, lines),
        *_tokens(study),
        *_money(study, lines),
        *_hours(study, lines),
        *_storage(study),
    ]
    return [*said, *(experiment.said for experiment in shows(study.experiments))]


def _choices(study: Study) -> Iterator[str]:
    config = study.config
    if study.absent:
        yield (
            f"Tasks of {listed(study.absent)} are not on this machine: as many of {CHARACTERS_OF_A_TASK} characters stand in for "
            "them, and none is taken for a near duplicate; how many there are is seen by `prefprobe tasks`."
        )
    if study.untold:
        yield (
            f"{study.untold} tasks have no topic: the step topics stops there; add a `topic` column to the "
            "task file, name the file's own in `tasks.sources`, or let a judge say topics (`topics.judge`)."
        )
    if study.too_long:
        yield f"{count(study.too_long)} tasks are beyond a model's context and are dropped (tasks.too_long)."
    yield (
        "Pairs: the least if active learning converges after its second round, the most if no round does; requests, "
        "tokens, dollars, hours and storage are for the most. Each pair is asked in both orders."
    )
    times = [answers(config, s) for s in (config.train.samples, config.eval.samples, config.shift.samples)]
    api = config.choices.api
    if max(times) > 1:
        exact = ", or once if the endpoint turns out to list log-probabilities" if api and api.mode == "auto" else ""
        yield f"Samples: each order is asked {times[0]} (train), {times[1]} (eval) and {times[2]} (shifts) times{exact}."
    if config.choices.own_pairs:
        often = answers(config, SAMPLES)
        each = f"{often} times" if often > 1 else "once"
        yield (
            f"Compared: {config.choices.own_pairs} pairs at most are asked of own weights too (choices.api.compare); each of "
            f"measure.train and measure.eval asks the endpoint for them, each order {each}, before anything else."
        )


def _topics(study: Study, lines: list[Line]) -> Iterator[str]:
    settings, taxonomy = study.config.topics, study.taxonomy
    if taxonomy is None:
        return
    yield f"Topics: judged by the taxonomy {taxonomy.title}; whether they are enough for folds is known only then."
    for which, judge in settings.judges.items():
        need = next(line.need for line in lines if line.step == f"classify.{which}")
        setting = f"topics.{'judge' if which == 'first' else which}"
        if judge.by == "encoder":
            checked = (
                "check it by hand, or by `topics.second`" if which == "first" else "check by hand where both disagree"
            )
            yield f"{setting}: the nearest label by an encoder is a last resort: {checked}."
        if judge.api is None:
            continue
        yield f"Answers of {judge.api.model} on topics: {judge.api.max_tokens or TOPIC_TOKENS} tokens each; no retries."
        if need.dollars is None:
            yield f"Dollars of {judge.api.model}: ?; give {setting}.api.prices.prompt and {setting}.api.prices.completion."
        budgets = (
            (judge.api.budget_usd, need.dollars, rough_dollars),
            (judge.api.budget_tokens, need.prompt_tokens + need.completion_tokens, rough_tokens),
        )
        for budget, most, shown in budgets:
            if budget is not None and most is not None and most > budget:
                yield f"classify.{which}: takes {shown(most)}, and stops at its budget of {shown(budget)}: raise it first."


def _tokens(study: Study) -> Iterator[str]:
    for model in _different(study):
        lengths = model.lengths
        if lengths.tokenizer is None:
            yield (
                f"Tokens of {model.name}: characters ÷ {CHARACTERS}"
                + (f" and {TEMPLATE_TOKENS} a prompt for the chat template" if lengths.chat else "")
                + "; its tokenizer is not on this machine."
            )
        elif lengths.assumed:
            yield f"Tokens of {model.name}: by its tokenizer, and {TEMPLATE_TOKENS} a prompt for the chat template."
        else:
            yield f"Tokens of {model.name}: by its tokenizer{' and chat template' if lengths.chat else ''}."


def _money(study: Study, lines: list[Line]) -> Iterator[str]:
    api = study.config.choices.api
    if api is None:
        return
    length = api.max_tokens or ANSWER_TOKENS
    yield (
        f"Answers of {api.model}: {length} tokens each"
        + ("" if api.max_tokens else "; a model that thinks first takes many more, which choices.api.max_tokens says")
        + "."
    )
    if api.prices is None:
        yield "Dollars: ?; give choices.api.prices.prompt and choices.api.prices.completion, in dollars a million tokens."
    else:
        yield (
            f"Dollars: {api.prices.prompt:g} and {api.prices.completion:g} for a million tokens of prompts and answers; "
            "no cache, no retries" + (", no judge." if api.judge else ".")
        )
    if api.budget_usd is None and api.budget_tokens is None:
        yield "Budgets: none; choices.api.budget_usd and choices.api.budget_tokens limit what one node may spend."
    asking = [line for line in lines if line.need.pairs and line.node == "cpu"]
    if api.budget_usd is not None:
        yield f"Budget: {rough_dollars(api.budget_usd)} a node (choices.api.budget_usd)."
        for line in asking if api.prices is not None else ():
            yield from _over(line, lambda need: need.dollars or 0.0, api.budget_usd, rough_dollars)
    if api.budget_tokens is not None:
        yield f"Budget: {rough_tokens(api.budget_tokens)} a node (choices.api.budget_tokens)."
        for line in asking:
            yield from _over(
                line, lambda need: need.prompt_tokens + need.completion_tokens, api.budget_tokens, rough_tokens
            )


def _over(line: Line, of: Callable[[Need], float], budget: float, shown: Callable[[float], str]) -> Iterator[str]:
    """A sentence if the most that a node of `line` takes is more than its budget."""
    need = max(line.needs, key=of)
    most, least = of(need), of(need) * need.pairs_least / need.pairs
    if most <= budget:
        return
    if line.step == "shift-measure":
        yield f"{line.step}: a node takes {shown(most)}, and stops at its budget of {shown(budget)}: raise it first."
    elif least > budget:
        yield f"{line.step}: {shown(least)} at least, and ends at its budget of {shown(budget)} before it can converge."
    else:
        yield f"{line.step}: {shown(most)} at most, and ends at its budget of {shown(budget)} if not converged by then."


def _hours(study: Study, lines: list[Line]) -> Iterator[str]:
    pods = sum(len(line.needs) for line in lines if line.node == "gpu")
    api = study.config.choices.api
    read_off = api is None or api.compare
    choices = f"{count(CHOICE_RATE)} tokens a second for choices and " if read_off else ""
    yield (
        f"GPU hours: of one H100, at {choices}{count(ACTIVATION_RATE)} tokens a second for activations, which "
        f"benchmarks/extraction_gpu.py measured at {rough(RATED)} parameters, blocks compiled (not where a pod has "
        "little to do: there .7 of it), in proportion to the parameters (small models reach less); and the weights loaded at "
        "an assumed "
        f"{LOADED / 1e9:g} GB/s in each of {pods} pods."
    )
    for model in _different(study):
        if model.parameters is None or model.weights is None:
            yield f"Parameters of {model.name}: ?; its name does not say them, and its files are not on this machine."
        else:
            how = "name says" if model.by_name else "files say"
            size = rough_size(model.weights)
            if model.quantisation is not None and model.held is not None:
                size += f", quantised {rough_size(model.held)}"
            yield f"Parameters of {model.name}: {rough(model.parameters)}, as its {how}; weights {size}."
            yield from _memory(model, study.gpu)
    yield from _drawn(study)
    here = len(list(DEVICES.glob("nvidia[0-9]*")))
    if not here:
        yield "This machine has no GPU: here the same steps run on the CPU and take far longer."
    for model in _different(study):
        if (model.devices or 1) > max(here, 1):
            yield (
                f"{model.name}: its `devices` are {model.devices} GPUs, and this machine has {here or 'none'}: here its steps "
                "stop."
            )


def _memory(model: ModelFacts, gpu: float) -> Iterator[str]:
    """How many GPUs hold the model, and whether they can."""
    gpus, held = model.gpus(gpu), model.held
    if gpus is None or held is None:
        return
    least, each = gpus_for(held, gpu), f"{rough_size(gpu)} (--gpu-memory)"
    if least > gpus or gpus > NODE:
        has = f"model.devices says {gpus}" if least > gpus else f"most nodes have {NODE} at most"
        less = "" if model.quantisation == "4bit" else "; model.quantisation takes less"
        yield (
            f"{model.name}: its weights take {rough_size(held)}, which {least} GPUs of {each} hold, and {has}: the steps of a "
            f"GPU stop for want of memory{less}."
        )
    elif gpus > 1:
        yield f"{model.name}: its weights take {rough_size(held)}, and each node divides its blocks over {gpus} GPUs of {each}."
    if model.device == "cpu":
        yield f"{model.name}: its `device` is cpu, on any node: no GPU is used, and its steps take far longer than GPU hours say."
    if model.quantisation is not None:
        alone = ", and prompts go through one at a time" if model.quantisation == "8bit" else ""
        yield f"{model.name}: GPU hours are of weights that are not quantised; {model.quantisation} ones are slower{alone}."


def _drawn(study: Study) -> Iterator[str]:
    """The untrained copy is drawn in memory whole, whatever devices it goes to and however it is quantised."""
    settings, parameters = study.config.model, study.models["model"].parameters
    if not study.config.untrained or parameters is None:
        return
    drawn = parameters * BYTES[settings.dtype]
    if drawn > MOST["model"] * 2**30:
        yield (
            f"extract.untrained: its weights are drawn in memory, {rough_size(drawn)}, and pods may have {MOST['model']} GiB: "
            "raise resources.steps.extract in the chart's values, or leave the control out (untrained: false)."
        )


def _storage(study: Study) -> Iterator[str]:
    api = study.config.choices.api
    kind = "local" if api is None else "exact" if api.mode == "exact" else "sampled"
    longer = f", {MORE} more for each token of an answer after {ANSWER_TOKENS}" if api is not None else ""
    yield (
        f"Storage: activations in float32, and about {count(CHOICE_BYTES[kind])} bytes a choice with its answer{longer}, as "
        "synthetic rows take; smaller files are left out."
    )
    judges = {id(m) for name, m in study.models.items() if name.startswith("topics.")}
    unknown = [m.name for m in _different(study) if id(m) not in judges and (m.d is None or m.n_layers is None)]
    unknown += [name for name, d in study.widths.items() if name in study.config.encoders and d is None]
    if unknown:
        yield (
            f"Storage of the activations of {', '.join(unknown)}: ?; no config.json on this machine says layers and width. "
            "Download the files, or name a local folder as the source."
        )


def _different(study: Study) -> list[ModelFacts]:
    """The models, each once: the untrained one is the model."""
    return [model for name, model in study.models.items() if name != "untrained"]
