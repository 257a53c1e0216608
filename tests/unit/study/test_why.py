"""`prefprobe why`: from every claim of a real verdict to rows that give its number again."""

import ast
import json
import subprocess

import numpy as np
import pytest
from click.testing import CliRunner

from prefprobe.cli import main
from prefprobe.errors import BadConfig, InputMissing
from prefprobe.study.run import Run
from prefprobe.study.why import command, evidence, why
from tests.planted_study import execute, planted_study, prefers


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        study = planted_study(tmp_path_factory.mktemp("study"), patch, prefers)
        execute(study)
    return study


def test_every_claim_and_check_is_explained(run) -> None:
    verdict = run.json("report", "verdict.json")
    for entry in [*verdict["claims"], *verdict["checks"]]:
        lines = list(why(run, entry["id"]))
        assert lines[0].startswith(f"{entry['id']}: ")
        assert entry["why"] in lines[1]
        text = "\n".join(lines)
        for at in evidence(entry["id"]):
            assert run.finished(at.node).key[:12] in text
        for name in ("tasks", "measure.train"):  # what everything rests on, with its parameters
            assert run.finished(name).key[:12] in text
        assert "n_train: 36" in text


def printed(run, at):
    """What the shell prints for the command that `why` shows."""
    return subprocess.run(command(run, at), shell=True, check=True, capture_output=True, text=True).stdout


def test_the_commands_print_the_rows_that_give_the_number(run) -> None:
    claims = {claim["id"]: claim for claim in run.json("report", "verdict.json")["claims"]}
    number, rows = evidence("heldout_raw")
    assert json.loads(printed(run, number))["value"] == pytest.approx(claims["heldout_raw"]["value"], rel=1e-5)
    found = [ast.literal_eval(line) for line in printed(run, rows).splitlines()]
    assert {row["target"] for row in found} == {"raw"}
    z = []
    for half in (1, 2):
        rows_of = [row for row in found if row["half"] == half]
        r = np.corrcoef([row["observed"] for row in rows_of], [row["predicted"] for row in rows_of])[0, 1]
        z.append(len(rows_of) * np.arctanh(r))
    assert np.tanh(sum(z) / len(found)) == pytest.approx(claims["heldout_raw"]["value"], rel=1e-5)


def test_every_shown_command_runs(run) -> None:
    for claim_id in ("heldout_accuracy", "cross_topic_above_words", "shift_category", "reliability"):
        for at in evidence(claim_id):
            assert printed(run, at).strip(), at


def test_the_command_line_takes_ids_and_the_anchors_of_the_page(run) -> None:
    for name in ("cross_topic", "claim-cross-topic"):
        result = CliRunner().invoke(main, ["why", name, "--run", run.id, "--store", run.objects.url])
        assert result.output.startswith("cross_topic: "), result.output
        assert "To see the numbers and the rows" in result.output


def test_what_cannot_be_explained_is_said(run, tmp_path) -> None:
    with pytest.raises(BadConfig, match=r"there is no claim 'heldout' .* heldout_raw, "):
        list(why(run, "heldout"))
    with pytest.raises(BadConfig, match="shift_persona was not run: The experiment is not in the configuration"):
        list(why(run, "shift_persona"))
    with pytest.MonkeyPatch.context() as patch:
        empty = planted_study(tmp_path, patch, prefers)
    with pytest.raises(InputMissing, match="report is not in the store; run `prefprobe step report"):
        list(why(empty, "heldout_raw"))


def test_the_commands_are_read_easily(run) -> None:
    number, rows = evidence("heldout_raw")
    assert all("'\"'\"'" not in command(run, at) for at in (number, rows))
