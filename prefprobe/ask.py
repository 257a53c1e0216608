"""A few pairs of a study, asked of its endpoint and of its own weights before anything else is paid for."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from prefprobe.choices.agreement import SAMPLES, Agreement, agreement
from prefprobe.choices.api.endpoint import Budget
from prefprobe.choices.api.engine import INTERVIEWED, ApiEngine
from prefprobe.choices.engine import Engine, Spend
from prefprobe.choices.log import ChoiceLog
from prefprobe.choices.pairs import few_pairs
from prefprobe.errors import BadConfig, PrefprobeError
from prefprobe.numbers import MISSING, count, number, rough, rough_dollars, shortened
from prefprobe.plan.needs import Study, plan, read_study
from prefprobe.plan.table import total
from prefprobe.progress import Progress
from prefprobe.settings import Config
from prefprobe.settings.api import ApiSettings
from prefprobe.store.objects import ObjectStore

if TYPE_CHECKING:
    from prefprobe.choices.api.dialect import Dialect

_SHOWN = 40  # characters of a task
_WIDTH = 110


@dataclass(frozen=True)
class Told:
    """What one side has told of the pairs."""

    choices: pa.Table
    spend: Spend
    """Of the answers alone."""
    seconds: float


def ask(config: Config, objects: ObjectStore, n: int, weights: bool) -> None:
    """Ask the endpoint of a study, then its own weights if they are on this machine, for `n` pairs of the train set in both
    orders, and print what each said. Nothing is saved.

    Raises what reading the study and asking raise; that own weights cannot be loaded is only said if an endpoint was asked.
    """
    study = read_study(config, objects)
    train = study.sets["train"]
    pairs = few_pairs(train, n, config.seed)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _WIDTH
    told: dict[str, Told] = {}
    api, thinks = config.choices.api, False
    if api is not None:
        texts = [(train[a], train[b]) for a, b in few_pairs(train, INTERVIEWED, config.seed)]
        budget = Budget(api, Spend())
        console.print(f"{api.model} at {api.base_url}", style="bold", markup=False)
        engine = ApiEngine(api, study.stimulus, config.choices.temperature, budget=budget, samples=texts)
        _say(console, _understood(engine.dialect, config.choices.temperature))
        told["endpoint"], thinks = _tell(engine, train, pairs), engine.dialect.reasons
        _say(console, _price(study, api, engine.dialect, told["endpoint"]))
    if weights:
        try:
            told["own weights"] = _tell(_own(config, study), train, pairs)
        except PrefprobeError as error:
            if api is None:
                raise
            console.print(f"own weights are not asked: {error}", markup=False, soft_wrap=True)
    if told:
        console.print(_table(pairs, train, told))
    if thinks:
        console.print("Own weights are read without a thought, so both are not held against each other.")
    elif api is not None and len(told) == 2:
        bounds = {"min_agreement": api.min_agreement, "max_difference": api.max_difference}
        found = agreement(told["own weights"].choices, told["endpoint"].choices, **bounds)
        console.print(_agreed(found, api), markup=False, soft_wrap=True)


def _own(config: Config, study: Study) -> Engine:
    """The exact engine on own weights. Raises BadConfig if they would have to be downloaded first."""
    facts = study.models["model"]
    if facts.by_name or facts.parameters is None:
        raise BadConfig(f"{config.model.source} is not on this machine; download it first to compare.")
    from prefprobe.choices.local import LocalEngine
    from prefprobe.jobs._model import load

    return LocalEngine(load(config.model, config.model.revision, None), study.stimulus, config.choices.temperature)


def _tell(engine: Engine, texts: dict[str, str], pairs: Sequence[tuple[str, str]]) -> Told:
    log = ChoiceLog(engine, texts, progress=Progress())
    questions = log.questions((("", a, b) for a, b in pairs), SAMPLES)
    began = time.monotonic()
    with log.progress.step("ask"):
        choices = log.measure(questions, 0)
    return Told(choices, Spend.of(log.asked.values()), time.monotonic() - began)


def _understood(dialect: "Dialect", temperature: float) -> Iterator[tuple[str, str]]:
    yield "answers", f"from {dialect.model or 'a model without a name'} by {dialect.provider or 'the endpoint'}"
    yield "read", dialect.why
    takes = [name for name, taken in (("a system role", dialect.system), ("seed", dialect.seed)) if taken]
    takes += [f"temperature {temperature:g}"] if dialect.temperature and not dialect.exact else []
    takes += [f"{dialect.limit} {dialect.max_tokens}"] if dialect.limit else []
    takes += [f"top_logprobs {dialect.top_logprobs}"] if dialect.exact else []
    takes += [f"a beginning of its answer ({dialect.prefill!r}, by {dialect.prefill_by})"] if dialect.prefill else []
    yield "takes", ", ".join(takes)
    for name, sentence in dialect.refused.items():
        yield "turned down", f"{name}: {sentence}"
    if dialect.reasons:
        yield "thinks", "before it answers, which takes tokens; see `extra` for how to have it think less"


def _price(study: Study, api: ApiSettings, dialect: "Dialect", told: Told) -> Iterator[tuple[str, str]]:
    spend, n = told.spend, told.choices.num_rows
    if n:
        yield "speed", f"{count(n)} answers in {number(told.seconds, 1)} s, up to {api.transport.concurrency} at once"
    spent = spend + dialect.spend
    dollars = f", {rough_dollars(spent.dollars)}" if spent.dollars else ""
    asked = f"{count(spent.prompt_tokens)} prompt and {count(spent.completion_tokens)} answer tokens"
    asked += "" if dialect.usage else " (estimated: the endpoint reports none)"
    if not n:
        limits = [name for name in ("budget_usd", "budget_tokens") if getattr(api, name) is not None]
        named = " or ".join(f"choices.api.{name}" for name in limits)
        yield "spent", f"{asked}{dollars} to find this out; the budget covers no question after that: raise {named}"
        return
    yield (
        "spent",
        f"{asked}{dollars}, of which {count(dialect.prompt_tokens + dialect.completion_tokens)} to find this out",
    )
    found = api.model_copy(update={"mode": "exact" if dialect.exact else "sampled"})
    choices = study.config.choices.model_copy(update={"api": found})
    lines = plan(replace(study, config=study.config.model_copy(update={"choices": choices})))
    requests = total(lines).requests
    tokens = rough(requests * (spend.prompt_tokens + spend.completion_tokens) / n)
    price = f", {rough_dollars(requests * spend.dollars / n)}" if spend.dollars else ", dollars unknown (api.prices)"
    yield "the study", f"{count(requests)} requests at most; at what these took about {tokens} tokens{price}"


def _agreed(found: Agreement, api: ApiSettings) -> str:
    if not found.pairs:
        return "The endpoint and own weights cannot be compared: no pair has a choice of both."
    far = (found.difference_low or 0.0) > found.max_difference
    verdict = {
        "same": "they are one model",
        "different": "they are not one model, and a study of both stops",
        "undecided": f"{'that looks like two models, but ' if far else ''}so few pairs do not decide it; more do (--n)",
    }[found.verdict]
    compares = f" A study compares {api.compare} pairs before it asks anything else." if api.compare else ""
    return f"Endpoint and own weights, over {found.pairs} pairs: {found.found}: {verdict}.{compares}"


def _say(console: Console, lines: Iterator[tuple[str, str]]) -> None:
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, said in lines:
        table.add_row(name, said)
    console.print(table, markup=False)


def _table(pairs: Sequence[tuple[str, str]], texts: dict[str, str], told: dict[str, Told]) -> Table:
    """P(A) of both orders of each pair, as each side has it; A is the task shown first."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("first task")
    table.add_column("second task")
    for side in told:
        table.add_column(f"P(A),\n{side}", justify="right", no_wrap=True)
    for a, b in pairs:
        for first, second in ((a, b), (b, a)):
            said = [_p(of.choices, first, second) for of in told.values()]
            table.add_row(*(shortened(texts[id_], _SHOWN) for id_ in (first, second)), *said)
    return table


def _p(choices: pa.Table, first: str, second: str) -> str:
    mine = [row for row in choices.to_pylist() if (row["task_a"], row["task_b"]) == (first, second)]
    exact = [row for row in mine if row["outcome"] == "exact"]
    if exact:
        at_most = "≈ " if exact[0]["bounded"] else ""
        return f"{at_most}{number(exact[0]['p_a'])}"
    chosen = [row["p_a"] for row in mine if row["p_a"] is not None]
    if not chosen:
        return mine[0]["outcome"] if mine else MISSING
    return f"{number(sum(chosen) / len(chosen), 2)} of {len(chosen)}"
