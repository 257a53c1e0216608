"""The command line. Nothing heavy is imported before a step needs it."""

import logging
import os
import sys
from pathlib import Path
from typing import Any

import click

from prefprobe import __version__
from prefprobe.errors import PrefprobeError

_STORE = click.option(
    "--store", envvar="PREFPROBE_STORE", default="store", show_default=True, help="A folder, or s3://bucket/prefix."
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
            sys.exit(error.exit_code)
        except click.ClickException as error:
            error.show()
            sys.exit(78)
        except (click.Abort, KeyboardInterrupt):
            click.echo(
                "prefprobe: interrupted; what is finished is saved, and the same command goes on from there.", err=True
            )
            sys.exit(75)


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
    from prefprobe.runner import Run, run_nodes
    from prefprobe.summary import show_summary

    study = Run.create(store, load_config(preset, overrides), run_id)
    progress = Progress()
    progress.line(f"run {study.id} in {study.objects.url}")
    seconds = run_nodes(study, study.nodes.values(), progress)
    show_summary(study, seconds)


@main.command()
@click.argument("name")
@click.option("--shard", type=int, help="Only this shard.")
@_RUN
@_STORE
def step(name: str, shard: int | None, run_id: str, store: str) -> None:
    """Run one step of a run alone: `extract`, or one node of it, such as `extract.model.3`."""
    from prefprobe.progress import Progress
    from prefprobe.runner import Run, run_nodes

    study = Run.open(store, run_id)
    run_nodes(study, study.select(name, shard), Progress())


@main.command()
@click.option("--run", "run_id", envvar="PREFPROBE_RUN", help="The run; without it, the runs in the store are listed.")
@_STORE
def status(run_id: str | None, store: str) -> None:
    """Say what of a run is done."""
    from prefprobe.runner import Run, run_ids
    from prefprobe.store.objects import ObjectStore
    from prefprobe.summary import show_status

    if run_id is None:
        for known in run_ids(ObjectStore.open(store)):
            click.echo(known)
    else:
        show_status(Run.open(store, run_id))


@main.command()
@click.argument("name")
@click.option("--against", required=True, metavar="RUN", help="The run to compare with.")
@_RUN
@_STORE
def explain(name: str, against: str, run_id: str, store: str) -> None:
    """Say why a step has another key than in another run."""
    from prefprobe.runner import Run
    from prefprobe.summary import differences

    here, there = Run.open(store, run_id), Run.open(store, against)
    for node in here.select(name):
        for line in differences(here, there, node.id):
            click.echo(line)


@main.command()
@click.argument("features", default="model")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="A new or empty folder.")
@_RUN
@_STORE
def export(features: str, out: Path, run_id: str, store: str) -> None:
    """Write the activations of a run as one activations.npz and completions.json."""
    from prefprobe.export import export_features
    from prefprobe.runner import Run

    click.echo(export_features(Run.open(store, run_id), features, out))
