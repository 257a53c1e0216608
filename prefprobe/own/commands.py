"""The commands for files of one's own: `prefprobe extract`, `probe`, `hoo`, `score` and `shift-stats`."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

_FILE = click.Path(path_type=Path)
_DTYPE = click.Choice(["float32", "bfloat16", "float16"])  # the settings' own would make --help six times as slow
_FEATURES = click.option(
    "--features",
    type=_FILE,
    required=True,
    help="An .npz with task_ids and layer_<L>, as `prefprobe extract` or `export` writes it.",
)
_OUT = click.option("--out", type=_FILE, required=True, help="A new or empty folder.")
_SEED = click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of resamples and permutations."
)
_COMPAT = click.option("--compat", type=click.Choice(["reference"]), help="Follow the published procedure's choices.")


def _utilities(topics_required: bool) -> Callable[[Any], Any]:
    """Where utilities, topics and choices lie."""
    options = (
        click.option(
            "--utilities",
            type=_FILE,
            required=True,
            help="Utilities to train on: task_id and mu, as `prefprobe fit` writes them.",
        ),
        click.option("--eval-utilities", type=_FILE, required=True, help="Utilities of other tasks, to test on."),
        click.option("--topics", type=_FILE, required=topics_required, help="task_id (or id) and topic."),
        click.option(
            "--choices",
            type=_FILE,
            help="Choices between the eval tasks, for accuracy: as for `prefprobe fit`, or of a run.",
        ),
    )

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@click.command()
@click.argument("model")
@click.option(
    "--tasks",
    type=_FILE,
    required=True,
    help="Prompts: a Parquet, JSONL or CSV file with id and text, or a .txt file with one a line.",
)
@click.option("--out", type=_FILE, required=True, help="A new .npz file.")
@click.option(
    "--layers", metavar="L,L,…", help="Blocks, counted from 0, such as 3,15; by default those at tenths of the depth."
)
@click.option(
    "--position",
    default="last",
    show_default=True,
    metavar="POSITION",
    help="last (of the prompt), task-last (of the text), mean (over the text's tokens), or turn:-3, third from the prompt's end.",
)
@click.option("--system", help="A system prompt over every prompt.")
@click.option("--chat/--no-chat", default=True, help="By the model's chat template, or as bare text.")
@click.option(
    "--template",
    multiple=True,
    metavar="KEY=VALUE",
    help="An argument of the chat template, such as enable_thinking=false; as often as there are.",
)
@click.option(
    "--date",
    type=click.DateTime(["%Y-%m-%d"]),
    metavar="YYYY-MM-DD",
    help="What the chat template prints as today's date; by default 2025-01-01, as in a study.",
)
@click.option("--revision", help="Of a model of the hub: a commit or branch; by default the newest commit.")
@click.option("--adapter", help="A LoRA adapter (peft, safetensors) that is merged at load: a hub id or a folder.")
@click.option("--adapter-revision", help="Of an adapter of the hub: a commit or branch; by default the newest commit.")
@click.option("--dtype", type=_DTYPE, default="float32", show_default=True, help="Type of weights and passes.")
@click.option(
    "--quantisation",
    type=click.Choice(["8bit", "4bit"]),
    help="Weights as bitsandbytes quantises them at load, LLM.int8() or NF4; by default as they are.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="auto takes a GPU where there is one.",
)
@click.option(
    "--devices",
    type=click.IntRange(min=1),
    help="GPUs over which the blocks are divided; by default all visible ones where one does not hold the weights.",
)
@click.option("--save-as", type=_DTYPE, default="float32", show_default=True, help="Type of the vectors in --out.")
@click.option("--part", type=click.IntRange(min=1), default=512, show_default=True, help="Prompts between two saves.")
def extract(model: str, tasks: Path, out: Path, layers: str | None, **asked: Any) -> None:
    """Extract activations of a model for prompts of your own: the residual stream after some of its blocks.

    MODEL is a hub id, a folder with safetensors, a GGUF file, or package:NAME/PATH. A command that was stopped or killed goes
    on where it was when it is given again: parts lie in a folder beside --out until all are there. `prefprobe probe` reads
    the file.
    """
    from prefprobe.errors import BadConfig
    from prefprobe.own.extracting import Asked, extract_prompts

    try:
        blocks = None if layers is None else [int(layer) for layer in layers.split(",")]
    except ValueError as error:
        raise BadConfig(f"--layers {layers}: expected numbers of blocks from 0, such as 3,15; correct it.") from error
    asked["template"] = _arguments(asked["template"])
    asked["date"] = asked["date"] and asked["date"].date()
    click.echo(extract_prompts(Asked(model, layers=blocks, **asked), tasks, out))


def _arguments(given: Sequence[str]) -> dict[str, Any]:
    """Of a chat template, by name; values are YAML, as those of `--set` are."""
    from prefprobe.errors import BadConfig
    from prefprobe.yaml_text import parse_yaml

    found: dict[str, Any] = {}
    for each in given:
        key, _, value = each.partition("=")
        if not key or "=" not in each:
            raise BadConfig(f"--template {each}: expected KEY=VALUE, such as enable_thinking=false; correct it.")
        if key in found:
            raise BadConfig(f"--template {each}: {key} was given before; give it once.")
        found[key] = parse_yaml(value, f"--template {each}")
        try:
            json.dumps(found[key], allow_nan=False)
        except (TypeError, ValueError) as error:
            raise BadConfig(
                f"--template {each}: expected text, a number, true, false, null, or a list or mapping of these; put a date in "
                "quotes within the value."
            ) from error
    return found


@click.command()
@_FEATURES
@_utilities(topics_required=False)
@_OUT
@_COMPAT
@click.option("--permutations", type=click.IntRange(min=199), help="Label permutations; by default those of a study.")
@_SEED
def probe(out: Path, compat: str | None, permutations: int | None, seed: int, **files: Path | None) -> None:
    """Train and test probes on features and utilities of your own, as the step `probe` does.

    Tables are Parquet, JSONL or CSV. Penalty and layer are chosen on each half of the eval tasks to predict the other. In
    --out: probe.json (metrics, and why what is missing can't be estimated), predictions.csv, and probes.npz with card.json
    for `prefprobe score`. Without --topics there are no demeaned utilities, without --choices no accuracy.
    """
    from prefprobe.own.inputs import OwnFiles
    from prefprobe.own.probing import probe_files
    from prefprobe.settings import ProbeSettings

    given = {"compat": compat, "permutations": permutations}
    settings = ProbeSettings.model_validate({name: value for name, value in given.items() if value is not None})
    click.echo(probe_files(OwnFiles(**files), out, settings, seed))  # type: ignore[arg-type]


@click.command()
@_FEATURES
@_utilities(topics_required=True)
@_OUT
@_COMPAT
@click.option("--holdout", type=click.IntRange(min=1), help="Topics held out together; by default as in a study.")
@click.option("--permutations", type=click.IntRange(min=199), help="Permutations of labels; by default as in a study.")
@_SEED
def hoo(
    out: Path, compat: str | None, holdout: int | None, permutations: int | None, seed: int, **files: Path | None
) -> None:
    """Test probes on topics held out of their training, as the step `hoo` does, with files of your own.

    Takes the same tables as `prefprobe probe`. In --out: hoo.json (every fold, and three means over them) and
    predictions.csv. With --choices, hoo.json also has the accuracy on choices within held-out topics.
    """
    from prefprobe.own.inputs import OwnFiles
    from prefprobe.own.probing import hoo_files
    from prefprobe.settings import ProbeSettings

    given = {"compat": compat, "holdout": holdout, "permutations": permutations}
    settings = ProbeSettings.model_validate({name: value for name, value in given.items() if value is not None})
    click.echo(hoo_files(OwnFiles(**files), out, settings, seed))  # type: ignore[arg-type]


@click.command()
@click.argument("probe", type=_FILE)
@_FEATURES
@click.option("--out", type=_FILE, help="A new .csv file; without it the scores are printed.")
@click.option("--target", type=click.Choice(["raw", "demeaned"]), default="raw", show_default=True, help="Which probe.")
@click.option("--layer", type=click.IntRange(min=0), help="Its layer; by default the one that was chosen.")
def score(probe: Path, features: Path, out: Path | None, target: str, layer: int | None) -> None:
    """Score features by a probe: CSV with task_id and score, in units of utility.

    PROBE is a folder with probes.npz and card.json, as `prefprobe probe` or `prefprobe step probe.model --out` writes it.
    """
    from prefprobe.own.scoring import score_features

    click.echo(score_features(probe, features, out, "demeaned" if target == "demeaned" else "raw", layer))


@click.command("shift-stats")
@click.argument("points", type=_FILE)
@click.option("--out", type=_FILE, required=True, help="A new .json file.")
@_SEED
def shift_stats(points: Path, out: Path, seed: int) -> None:
    """Say whether probe scores follow choices in points of your own, as the step `shift` does.

    POINTS is a Parquet, JSONL or CSV file with experiment, prompt, task, dp (change of the choice probability) and ds (change
    of the probe's score), and optionally on_target, sign (the intended direction: 1, -1 or 0), neutral (true for a prompt
    that is meant to move nothing), dp_se and ds_encoder; the points.parquet of a run is one.
    """
    from prefprobe.own.shifts import shift_stats as write

    click.echo(write(points, out, seed))
