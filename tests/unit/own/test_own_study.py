"""Commands for files of one's own against the steps: out of a run's files come the run's numbers."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
import pytest

from prefprobe.cli import main
from prefprobe.probes.metrics import pearson
from prefprobe.store.formats import csv_bytes, read_npz, read_parquet
from prefprobe.study.export import copy_outputs, export_features
from prefprobe.study.run import Run
from tests.planted_study import execute, planted_study, prefers

SEED = 3


def call(*args: object) -> int:
    try:
        main([str(a) for a in args])
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, bytes]]]:
    """A folder with a run's files as `export` and `step --out` write them, and the bytes of all its outputs."""
    folder = tmp_path_factory.mktemp("planted")
    with pytest.MonkeyPatch.context() as patch:
        run = planted_study(folder / "run", patch, prefers, blocks={"seed": SEED})
        found = execute(run)
        write(run, folder)
    return folder, found


def write(run: Run, folder: Path) -> None:
    for features in ("model", "words"):
        export_features(run, features, folder / features)
    for node in ("measure.train", "measure.eval", "topics", "shift", "probe.model"):
        copy_outputs(run, [run.nodes[node]], folder / node)


def given(folder: Path, features: str = "model", *, choices: bool = True) -> list[object]:
    options: list[object] = ["--features", folder / features / "activations.npz", "--seed", SEED]
    options += ["--utilities", folder / "measure.train" / "utilities.parquet"]
    options += ["--eval-utilities", folder / "measure.eval" / "utilities.parquet"]
    options += ["--topics", folder / "topics" / "topics.parquet"]
    return options + (["--choices", folder / "measure.eval" / "choices.parquet"] if choices else [])


def rows(table: pa.Table) -> list[list[Any]]:
    return [[str(value) for value in row.values()] for row in table.to_pylist()]


def read_csv(path: Path) -> list[list[str]]:
    header, *found = csv.reader(io.StringIO(path.read_text("utf-8"), newline=""))
    return [
        [str(float(c)) if h in ("observed", "predicted") else c for h, c in zip(header, row, strict=True)]
        for row in found
    ]


@pytest.mark.parametrize("features", ["model", "words"])
def test_probe_gives_the_numbers_of_the_step(features: str, study: Any, tmp_path: Path) -> None:
    folder, found = study
    assert call("probe", *given(folder, features), "--out", tmp_path / "p") == 0
    step = found[f"probe.{features}"]
    mine, theirs = json.loads((tmp_path / "p" / "probe.json").read_text()), json.loads(step["probe.json"])
    of_features = {"features", "kind", "layers", "n_layers", "d", "family"}
    if features != "model":  # labels are permuted for the model alone in a study
        for found_ in (mine, theirs):
            assert (found_.pop("shuffled")["raw"]["mean"] is None) == (found_ is theirs)
            assert [(target.pop("p") is None) for target in found_["targets"].values()] == 2 * [found_ is theirs]
    for key in theirs.keys() - of_features:
        assert mine[key] == theirs[key], key
    assert mine["not_estimable"] == {}
    assert mine["targets"]["raw"]["accuracy"]["value"] > 0.5
    assert (tmp_path / "p" / "probes.npz").read_bytes() == step["probes.npz"]
    assert json.loads((tmp_path / "p" / "card.json").read_text())["best"] == json.loads(step["card.json"])["best"]
    assert read_csv(tmp_path / "p" / "predictions.csv") == rows(read_parquet(step["predictions.parquet"]))


def numbers(value: Any) -> Iterator[Any]:
    """Every leaf of JSON: permuted labels beside the true ones change the last bits of what is solved together."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from numbers(inner)
    elif not isinstance(value, str):
        yield value


@pytest.mark.parametrize("features", ["model", "words"])
def test_hoo_gives_the_numbers_of_the_step(features: str, study: Any, tmp_path: Path) -> None:
    folder, found = study
    assert call("hoo", *given(folder, features), "--out", tmp_path / "h") == 0
    mine, theirs = (
        json.loads((tmp_path / "h" / "hoo.json").read_text()),
        json.loads(found[f"hoo.{features}"]["hoo.json"]),
    )
    # a study permutes for its model alone
    same = theirs.keys() - ({"features"} if features == "model" else {"features", "p"})
    for key in same:
        assert list(numbers(mine[key])) == pytest.approx(list(numbers(theirs[key])), rel=1e-9), key
    assert theirs["p"] is None or mine["p"]["permutations"] == 199
    predictions = read_parquet(found[f"hoo.{features}"]["predictions.parquet"])
    if features == "model":
        assert read_csv(tmp_path / "h" / "predictions.csv") == rows(predictions)
    assert call("hoo", *given(folder, features, choices=False), "--out", tmp_path / "without") == 0
    without = json.loads((tmp_path / "without" / "hoo.json").read_text())
    assert "choices" not in without
    assert {**without, "choices": 0, "inputs": 0} == {**mine, "choices": 0, "inputs": 0}


def test_accuracy_over_folds_counts_choices_within_held_out_topics(study: Any, tmp_path: Path) -> None:
    folder, found = study
    assert call("hoo", *given(folder), "--holdout", 2, "--out", tmp_path / "h") == 0
    mine = json.loads((tmp_path / "h" / "hoo.json").read_text())
    assert (mine["holdout"], mine["n_folds"]) == (2, 6)
    logit: dict[tuple[str, str], float] = {}
    for row in read_parquet(found["measure.eval"]["choices.parquet"]).to_pylist():
        a, b, sign = (
            (row["task_a"], row["task_b"], 1) if row["task_a"] < row["task_b"] else (row["task_b"], row["task_a"], -1)
        )
        logit[a, b] = logit.get((a, b), 0.0) + sign * row["logit"]
    right, n = 0, 0
    with (tmp_path / "h" / "predictions.csv").open(newline="") as handle:
        table = [row for row in csv.DictReader(handle) if row["set"] == "eval"]
    for fold in range(6):
        score = {row["task_id"]: float(row["predicted"]) for row in table if row["fold"] == str(fold)}
        for (a, b), preferred in logit.items():
            if a in score and b in score:
                n += 1
                right += (score[a] > score[b]) == (preferred > 0)
    assert n > 20
    assert mine["choices"] == {"accuracy": right / n, "n_choices": n}


def test_tables_of_every_kind_give_the_same_numbers(study: Any, tmp_path: Path) -> None:
    folder, _ = study
    tables = {
        "--utilities": pq.read_table(folder / "measure.train" / "utilities.parquet").select(["task_id", "mu"]),
        "--eval-utilities": pq.read_table(folder / "measure.eval" / "utilities.parquet"),
        "--topics": pq.read_table(folder / "topics" / "topics.parquet").rename_columns(["task_id", "topic", "origin"]),
        "--choices": pq.read_table(folder / "measure.eval" / "choices.parquet"),
    }
    for suffix in ("csv", "jsonl"):
        options: list[object] = ["--features", folder / "model" / "activations.npz"]
        for option, table in tables.items():
            path = tmp_path / f"{option.strip('-')}.{suffix}"
            backwards = table.take(list(range(table.num_rows))[::-1])
            lines = "".join(json.dumps(row) + "\n" for row in backwards.to_pylist()).encode()
            path.write_bytes(csv_bytes(backwards) if suffix == "csv" else lines)
            options += [option, path]
        for command in ("probe", "hoo"):
            assert call(command, *options, "--seed", SEED, "--out", tmp_path / f"{command} {suffix}") == 0
    for command in ("probe", "hoo"):
        assert call(command, *given(folder), "--out", tmp_path / f"{command} parquet") == 0
        for name in (
            ("probe.json", "probes.npz", "predictions.csv") if command == "probe" else ("hoo.json", "predictions.csv")
        ):
            first, *others = ((tmp_path / f"{command} {s}" / name).read_bytes() for s in ("parquet", "csv", "jsonl"))
            if name == "hoo.json":
                first, *others = ({**json.loads(data), "inputs": 0} for data in (first, *others))  # type: ignore[assignment]
            assert others == [first, first]


def test_choices_as_fit_reads_them_count_as_those_of_a_run(study: Any, tmp_path: Path) -> None:
    folder, found = study
    exact = read_parquet(found["measure.eval"]["choices.parquet"])
    pq.write_table(exact.select(["task_a", "task_b", "p_a"]), tmp_path / "c.parquet")
    options = [*given(folder, choices=False), "--choices", tmp_path / "c.parquet"]
    assert call("probe", *options, "--out", tmp_path / "p") == 0
    mine = json.loads((tmp_path / "p" / "probe.json").read_text())
    theirs = json.loads(found["probe.model"]["probe.json"])
    assert mine["targets"]["raw"]["accuracy"] == theirs["targets"]["raw"]["accuracy"]
    assert mine["ceiling"]["n_choices"] == theirs["ceiling"]["n_choices"] > 20


def test_the_published_procedure_and_other_folds_are_those_of_the_library(study: Any, tmp_path: Path) -> None:
    folder, _ = study
    for command in ("probe", "hoo"):
        for name, extra in (("as it is", ()), ("published", ("--compat", "reference"))):
            assert call(command, *given(folder), *extra, "--out", tmp_path / command / name) == 0
    demeaned, published = (
        json.loads((tmp_path / "probe" / name / "probe.json").read_text())["targets"]["demeaned"]["r"]
        for name in ("as it is", "published")
    )
    assert demeaned != published
    folds = json.loads((tmp_path / "hoo" / "published" / "hoo.json").read_text())["folds"]
    assert len({fold["alpha"] for fold in folds}) == 1


def test_scores_are_those_of_the_probe_by_hand(study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, found = study
    features = read_npz((folder / "model" / "activations.npz").read_bytes())
    weights = read_npz(found["probe.model"]["probes.npz"])
    card = json.loads(found["probe.model"]["card.json"])
    for target in ("raw", "demeaned"):
        layer = card["best"][target]["best_layer"]
        by_hand = (
            features[f"layer_{layer}"].astype(np.float64) @ weights[f"{target}_{layer}_w"]
            + weights[f"{target}_{layer}_b"]
        )
        args = ("score", folder / "probe.model", "--features", folder / "model" / "activations.npz", "--target", target)
        capsys.readouterr()
        assert call(*args) == 0
        printed = capsys.readouterr().out
        assert call(*args, "--layer", layer, "--out", tmp_path / f"{target}.csv") == 0
        assert (tmp_path / f"{target}.csv").read_text() == printed
        header, *scored = csv.reader(io.StringIO(printed, newline=""))
        assert header == ["task_id", "score"]
        assert [row[0] for row in scored] == features["task_ids"].tolist()
        np.testing.assert_allclose([float(row[1]) for row in scored], by_hand, rtol=1e-12)


def test_shift_stats_gives_the_numbers_of_the_step(study: Any, tmp_path: Path) -> None:
    folder, found = study
    assert call("shift-stats", folder / "shift" / "points.parquet", "--seed", SEED, "--out", tmp_path / "s.json") == 0
    written = json.loads((tmp_path / "s.json").read_text())
    theirs = json.loads(found["shift"]["shift.json"])["experiments"]["category"]
    mine = written["experiments"]["category"]
    theirs["encoder"]["name"] = mine["statistics"]["encoder"]["name"]
    assert theirs.pop("part") == "all 8 prompts, all 8 tasks"
    assert mine["statistics"] == theirs
    points = read_parquet(found["shift"]["points.parquet"])
    assert written["points"] == points.num_rows
    points = points.filter(pa.compute.invert(points.column("neutral")))
    assert mine["n"] == points.num_rows == written["points"] - 3 * theirs["n_tasks"]
    parts = {"on_target": mine["on_target"], "corrected": mine["corrected"], "pooled": mine}
    for part, correlation in ((part, theirs[name]) for name, part in parts.items()):
        assert [part[k] for k in ("pearson", "low", "high")] == [
            correlation["pearson"][k] for k in ("value", "low", "high")
        ]
        assert [part[k] for k in ("n", "p", "spearman")] == [correlation[k] for k in ("n", "p", "spearman")]
    assert mine["advantage"] == {key: theirs["advantage"][key] for key in ("value", "low", "high")}
    assert (mine["noise"], mine["noise_from"]) == (theirs["effect"]["noise"], "neutral prompts")
    assert mine["on_target"]["sign_agreement"] == theirs["sign_agreement"]["value"]
    moved = [row for row in points.to_pylist() if abs(row["dp"]) >= 0.02]
    assert mine["n_signs"] == len(moved)
    assert mine["sign_agreement"] == np.mean([(row["dp"] > 0) == (row["ds"] > 0) for row in moved])
    for prompt, about in mine["prompts"].items():
        of = [row for row in points.to_pylist() if row["prompt_id"] == prompt]
        assert about == {"n": len(of), "pearson": pearson(*(np.array([row[k] for row in of]) for k in ("dp", "ds")))}
    assert mine["not_estimable"] == {}


def test_points_of_every_kind_and_name_give_the_same_numbers(study: Any, tmp_path: Path) -> None:
    folder, _ = study
    names = {"prompt_id": "prompt", "task_id": "task", "intended": "sign"}
    table = pq.read_table(folder / "shift" / "points.parquet")
    table = table.rename_columns([names.get(name, name) for name in table.column_names])
    without = table.drop_columns(["p_baseline", "p_prompt", "n"])
    (tmp_path / "p.csv").write_bytes(csv_bytes(without.take(list(range(table.num_rows))[::-1])))
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in without.to_pylist()))
    pq.write_table(table.drop_columns(["on_target"]), tmp_path / "p.parquet")  # a sign says as much
    for path in (folder / "shift" / "points.parquet", *(tmp_path / f"p.{s}" for s in ("csv", "jsonl", "parquet"))):
        assert call("shift-stats", path, "--out", tmp_path / f"{path.suffix}{path.stem}.json") == 0
    first, *others = [path.read_bytes() for path in sorted(tmp_path.glob("*.json"), key=lambda path: -len(path.name))]
    assert others == [first] * 3
