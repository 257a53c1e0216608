"""The command line. Nothing heavy is imported before a step needs it."""

import contextlib
import logging
import os
import sys
from pathlib import Path
from typing import Any

import click

from prefprobe import __version__
from prefprobe.cluster.commands import cluster
from prefprobe.errors import PrefprobeError
from prefprobe.own.commands import extract, hoo, probe, score, shift_stats

_TERMINATION_LOG = "PREFPROBE_TERMINATION_LOG"
"""The variable that the pods of the chart have: where a failure's sentence goes."""
_LONGEST = 1000  # characters of it; Kubernetes keeps 4096 bytes

_STORE = click.option(
    "--store", envvar="PREFPROBE_STORE", default="store", show_default=True, help="A folder, or s3://bucket/prefix."
)
_GPU_MEMORY = click.option(
    "--gpu-memory",
    envvar="PREFPROBE_GPU_MEMORY",
    type=click.FloatRange(min=0, min_open=True),
    default=80,
    show_default=True,
    help="GB of each GPU, from which follows how many a model takes.",
)
_RUN = click.option(
    "--run", "run_id", envvar="PREFPROBE_RUN", required=True, help="The run's id (`prefprobe status` lists them)."
)


class _Main(click.Group):
    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Expected failures end in one sentence and their exit code; a traceback is for bugs and --debug."""
        try:
            return super().main(*args, **{**kwargs, "standalone_mode": False})
        except PrefprobeError as error:
            if "--debug" in sys.argv:
                raise
            click.echo(f"prefprobe: {error}", err=True)
            _tell_kubernetes(str(error))
            sys.exit(error.exit_code)
        except click.ClickException as error:
            error.show()
            _tell_kubernetes(error.format_message())
            sys.exit(78)
        except (click.Abort, KeyboardInterrupt):  # an Abort is a RuntimeError, so before the bugs
            click.echo(
                "prefprobe: interrupted; what is finished is saved, and the same command goes on from there.", err=True
            )
            sys.exit(75)
        except Exception as bug:
            _tell_kubernetes(f"{type(bug).__name__}: {bug} (a bug: the log has the traceback)")
            raise


def _tell_kubernetes(sentence: str) -> None:
    """In a pod, leave the sentence where Kubernetes and Argo take the reason of a failure from."""
    log = os.environ.get(_TERMINATION_LOG)
    if log:
        with contextlib.suppress(OSError):
            Path(log).write_text(sentence[:_LONGEST], "utf-8")


@click.group(cls=_Main)
@click.version_option(__version__)
@click.option("--debug", is_flag=True, help="Show the traceback of an expected failure too.")
def main(debug: bool) -> None:
    """Does this model represent what it likes?

    Measures a chat model's preferences, extracts activations, trains probes, and says with evidence whether the
    published finding replicates.
    """
    os.environ.setdefault("TQDM_DISABLE", "1")  # bars of the libraries below would break into the log of a run
    logging.basicConfig(format="%(message)s")
    logging.getLogger("prefprobe").setLevel(logging.DEBUG if debug else logging.INFO)


@main.command()
@click.argument("preset", type=click.Path(path_type=Path))
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting, such as train.max_rounds=2."
)
@click.option(
    "--run", "run_id", envvar="PREFPROBE_RUN", help="Name the run; by default the id follows from the configuration."
)
@_STORE
def run(preset: Path, overrides: tuple[str, ...], run_id: str | None, store: str) -> None:
    """Run a whole study, or whatever of it is not in the store yet."""
    from prefprobe.config import load_config
    from prefprobe.progress import Progress
    from prefprobe.study.run import Run, run_nodes
    from prefprobe.study.summary import show_summary

    study = Run.create(store, load_config(preset, overrides), run_id)
    progress = Progress()
    progress.line(f"run {study.id} in {study.objects.url}")
    seconds = run_nodes(study, study.nodes.values(), progress)
    show_summary(study, seconds)


@main.command()
@click.argument("preset", type=click.Path(path_type=Path))
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting, such as train.max_rounds=2."
)
@click.option("--json", "as_json", is_flag=True, help="The same numbers as JSON.")
@_GPU_MEMORY
@_STORE
def plan(preset: Path, overrides: tuple[str, ...], as_json: bool, gpu_memory: float, store: str) -> None:
    """Say what a study will take before anything is spent: requests, tokens, dollars, GPU hours, storage.

    The store is only read, and only for inputs of the preset that lie in it. Works without a network.
    """
    from prefprobe.config import load_config
    from prefprobe.plan.assumptions import remarks
    from prefprobe.plan.needs import plan as plan_of
    from prefprobe.plan.needs import read_study
    from prefprobe.plan.shifts import shows
    from prefprobe.plan.table import plan_json, show_plan
    from prefprobe.store.objects import ObjectStore

    study = read_study(load_config(preset, overrides), ObjectStore.open(store), gpu_memory * 1e9)
    lines = plan_of(study)
    if as_json:
        click.echo(plan_json(study.config.name, lines, remarks(study, lines), shows(study.experiments)), nl=False)
    else:
        show_plan(study.config.name, lines, remarks(study, lines))


@main.command()
@click.argument("preset", type=click.Path(path_type=Path))
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting, such as train.max_rounds=2."
)
@click.option("--json", "as_json", is_flag=True, help="The same numbers as JSON.")
@_STORE
def tasks(preset: Path, overrides: tuple[str, ...], as_json: bool, store: str) -> None:
    """Say what a study's pool holds before anything runs: tasks by origin and set, lengths, duplicates, examples.

    Data sets that are not on this machine are downloaded, at the commit that a run would pin, into the hub's cache.
    Nothing else is saved; of harmful requests no text is shown.
    """
    from prefprobe.config import load_config
    from prefprobe.plan.holds import holds, show
    from prefprobe.store.formats import json_bytes
    from prefprobe.store.objects import ObjectStore

    config = load_config(preset, overrides)
    found = holds(config, ObjectStore.open(store))
    if as_json:
        click.echo(json_bytes(found).decode(), nl=False)
    else:
        show(config.name, found)


@main.command()
@click.argument("preset", type=click.Path(path_type=Path))
@click.option("--n", type=click.IntRange(min=2), default=6, show_default=True, help="Pairs, each asked in both orders.")
@click.option("--weights/--no-weights", default=True, help="Ask own weights too, if they are on this machine.")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting, such as train.max_rounds=2."
)
@_STORE
def ask(preset: Path, n: int, weights: bool, overrides: tuple[str, ...], store: str) -> None:
    """Ask a study's endpoint for a few of its pairs, and say how it answers, before anything else is paid for.

    What the endpoint understands, the P(A) it gives in both orders beside that of own weights, at what speed and price.
    Nothing is saved; the store is only read, for inputs of the preset that lie in it.
    """
    from prefprobe.ask import ask as ask_of
    from prefprobe.config import load_config
    from prefprobe.store.objects import ObjectStore

    ask_of(load_config(preset, overrides), ObjectStore.open(store), n, weights)


@main.command()
@click.argument("preset", type=click.Path(path_type=Path))
@click.option("--sample", type=click.IntRange(min=20), default=200, show_default=True, help="Tasks that are looked at.")
@click.option("--labels", type=click.IntRange(min=2, max=40), default=12, show_default=True, help="Topics at most.")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting, such as train.max_rounds=2."
)
@_STORE
def taxonomy(preset: Path, sample: int, labels: int, overrides: tuple[str, ...], store: str) -> None:
    """Print a draft of a taxonomy for the tasks of a study, as YAML, by the endpoint of `topics.judge`.

    Read it, correct it, and name its file in `topics.taxonomy`. Nothing is saved; what it cost stands on the last line of
    stderr.
    """
    from prefprobe.config import load_config
    from prefprobe.store.objects import ObjectStore
    from prefprobe.taxonomy import taxonomy as taxonomy_of

    drafted, spent = taxonomy_of(load_config(preset, overrides), ObjectStore.open(store), sample, labels)
    click.echo(drafted, nl=False)
    click.echo(spent, err=True)


@main.command()
@click.argument("preset", type=click.Path(path_type=Path))
@click.option("--text", default="", help="The preset itself, as YAML, in place of the file.")
@click.option(
    "--set", "lines", multiple=True, metavar="KEY=VALUE", help="As with `run`; a text may hold several, one a line."
)
@click.option("--run", "run_id", default="", help="Name the run; by default the id follows from the configuration.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="A folder for what a workflow needs to know of it."
)
@_GPU_MEMORY
@_STORE
def start(
    preset: Path, text: str, lines: tuple[str, ...], run_id: str, out: Path | None, gpu_memory: float, store: str
) -> None:
    """Pin every source and put the run into the store, for others to run its steps.

    In --out, the file `run` holds the run's id, a file for each Argo template a JSON list of its nodes that are not done,
    which a workflow fans out over, and `model-memory` and the like what its pods ask for.
    """
    from prefprobe.cluster.pod import require_models
    from prefprobe.config import load_config
    from prefprobe.plan.pods import pod_gpus, pod_requests
    from prefprobe.store.keys import canonical_json
    from prefprobe.study.graph import fan_out
    from prefprobe.study.run import Run

    overrides = [line.strip() for text_ in lines for line in text_.split("\n") if line.strip()]
    config = load_config(preset, overrides, text or None)
    if _TERMINATION_LOG in os.environ:
        require_models(config)
    study = Run.create(store, config, run_id or None)
    requests, gpus = pod_requests(config), pod_gpus(config, gpu_memory * 1e9)
    study.save()
    left = study.left()
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "run").write_text(study.id)
        # the report in any case: its pod hands the page to Argo
        for name, nodes in fan_out(left or [study.nodes["report"]]).items():
            (out / name).write_bytes(canonical_json(nodes))
        for holds, request in requests.items():
            (out / f"{holds}-cpu").write_text(str(request.cpu))
            (out / f"{holds}-memory").write_text(f"{request.memory}Gi")
        (out / "model-gpus").write_text(str(gpus))
    done = len(study.nodes) - len(left)
    click.echo(f"run {study.id} in {study.objects.url}: {len(study.nodes)} nodes, of which {done} are done")


@main.command()
@click.argument("name")
@click.option("--shard", type=int, help="Only this shard.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="A folder for a copy of the step's outputs."
)
@_RUN
@_STORE
def step(name: str, shard: int | None, out: Path | None, run_id: str, store: str) -> None:
    """Run one step of a run alone: `extract`, or one node of it, such as `extract.model.3`."""
    from prefprobe.progress import Progress
    from prefprobe.study.run import Run, run_nodes

    study = Run.open(store, run_id)
    nodes = study.select(name, shard)
    run_nodes(study, nodes, Progress())
    if out is not None:
        from prefprobe.study.export import copy_outputs

        copy_outputs(study, nodes, out)


@main.command("check-store")
@_STORE
def check_store(store: str) -> None:
    """Write, read, conditionally write and delete a small object, as the steps do; say what a store lacks."""
    from prefprobe.store.check import check_store as check
    from prefprobe.store.objects import ObjectStore

    for line in check(ObjectStore.open(store)):
        click.echo(line)


@main.command()
@click.argument("workflow")
@click.option("--status", required=True, help="How the workflow ended, as Argo says it.")
@click.option("--failures", default="", help="Argo's list of failed nodes and attempts, JSON.")
@click.option("--run", "run_id", default="", help="The run; empty if it was never started.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the page here too.")
@_STORE
def outcome(workflow: str, status: str, failures: str, run_id: str, out: Path | None, store: str) -> None:
    """Write what became of a workflow to workflows/<WORKFLOW>.html and .json in the store."""
    from prefprobe.cluster.outcome import outcome as outcome_of
    from prefprobe.cluster.outcome import write_outcome
    from prefprobe.store.objects import ObjectStore

    objects = ObjectStore.open(store)
    about = outcome_of(objects, workflow, status, run_id, failures)
    page = write_outcome(objects, about)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page, "utf-8")
    for failure in about["failures"]:
        click.echo(f"{failure['node']}: {failure['message']}")
    for attempt in about["attempts"]:
        click.echo(f"{attempt['node']}, attempt {attempt['attempt']}, was repeated: {attempt['message']}")
    click.echo(f"{workflow} {status}: {objects.describe(f'workflows/{workflow}.html')}")


@main.command()
@click.option("--run", "run_id", envvar="PREFPROBE_RUN", help="The run; without it, the runs in the store are listed.")
@_STORE
def status(run_id: str | None, store: str) -> None:
    """Say what of a run is done."""
    from prefprobe.store.objects import ObjectStore
    from prefprobe.study.run import Run, run_ids
    from prefprobe.study.summary import show_status

    if run_id is None:
        objects = ObjectStore.open(store)
        for known in (runs := run_ids(objects)):
            click.echo(known)
        if not runs:
            click.echo(f"no runs in {objects.url}; name another --store, or start one with `prefprobe run`", err=True)
    else:
        show_status(Run.open(store, run_id))


@main.command()
@click.argument("name")
@click.option("--against", required=True, metavar="RUN", help="The run to compare with.")
@_RUN
@_STORE
def explain(name: str, against: str, run_id: str, store: str) -> None:
    """Say why a step has another key than in another run."""
    from prefprobe.study.run import Run
    from prefprobe.study.summary import differences

    here, there = Run.open(store, run_id), Run.open(store, against)
    for node in here.select(name):
        for line in differences(here, there, node.id):
            click.echo(line)


@main.command()
@click.argument("claim")
@_RUN
@_STORE
def why(claim: str, run_id: str, store: str) -> None:
    """Say where a number of the report comes from: its rows, the keys and parameters behind them, how to see them.

    CLAIM is an id of verdict.json, such as heldout_raw.
    """
    from prefprobe.study.run import Run
    from prefprobe.study.why import why as lines_of

    for line in lines_of(Run.open(store, run_id), claim):
        click.echo(line)


@main.command()
@click.argument("features", default="model")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="A new or empty folder.")
@_RUN
@_STORE
def export(features: str, out: Path, run_id: str, store: str) -> None:
    """Write the activations of a run as one activations.npz and completions.json."""
    from prefprobe.study.export import export_features
    from prefprobe.study.run import Run

    click.echo(export_features(Run.open(store, run_id), features, out))


@main.command()
@click.argument("choices", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A new or empty folder.")
@click.option(
    "--tasks",
    type=click.Path(path_type=Path),
    help="All task ids in the order of the result: a .txt file with one a line, or a table with a column task_id.",
)
@click.option(
    "--compat",
    type=click.Choice(["reference"]),
    help="Fit by the published procedure, in which a refusal counts for task_b.",
)
@click.option(
    "--bootstrap",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Add se_bootstrap, from N resamples of the pairs.",
)
def fit(choices: Path, out: Path, tasks: Path | None, compat: str | None, bootstrap: int) -> None:
    """Fit utilities to choices of your own: a Parquet, JSONL or CSV file.

    Its columns are task_a, task_b, and choice (a, b or refusal) or p_a (0 to 1, 0.5 of a tie), and optionally count. In
    --out: utilities.parquet, utilities.csv and fit.json, with the tasks sorted by id unless --tasks says otherwise.
    """
    from prefprobe.thurstonian.fit_files import fit_choices

    click.echo(fit_choices(choices, out, tasks=tasks, compat=compat is not None, resamples=bootstrap))


for _command in (extract, probe, hoo, score, shift_stats, cluster):
    main.add_command(_command)
