"""A model whose choices tell no task from another, through every step: a result that the report says in words."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefprobe.choices.engine import Question
from prefprobe.findings.rules import HOLDS
from prefprobe.progress import Progress
from prefprobe.store.formats import read_json, read_npz, read_parquet
from prefprobe.store.steps import read_output
from tests.planted_study import execute, planted_study, prefers

pytestmark = pytest.mark.filterwarnings("error")  # numpy, scipy and matplotlib warn of what is not defined

NEVER = ("refusal", "unparsed", "failed")


def nearly(question: Question) -> float:
    """The last digit of a logit in float32 is what comes and goes with the texts."""
    return float(np.float32(1.7) + np.float32(2e-7) * (len(question.first) % 2))


CONSTANT: dict[str, tuple[Callable[[Question], Any], bool, str]] = {
    "ties": (lambda q: 0.0, True, "either task is chosen with a probability of 0.5, whatever the two are"),
    "the first": (lambda q: 1.7, True, "the task shown first is chosen with a probability of 0.846, whatever the two are"),
    "the second, rounded": (
        lambda q: -nearly(q), True, "the task shown first is chosen with a probability of 0.154, whatever the two are"
    ),
    "always a": (lambda q: "a", False, "the task shown first is always chosen"),
    "refusals": (lambda q: "refusal", False, "every answer is a refusal"),
    "nothing said": (
        lambda q: NEVER[len(q.first) % 3], False, "every answer is a refusal or unparsed or failed"
    ),
    "a bias of its own for each pair": (
        lambda q: 0.5 + (len(q.first) + len(q.second)) % 3, True, "over both orders no task is preferred to another"
    ),
}  # fmt: skip


def finite(outputs: dict[str, dict[str, bytes]]) -> None:
    """No number of any output is NaN or infinite, and no text says so."""
    for node, files in outputs.items():
        for name, data in files.items():
            if name.endswith(".parquet"):
                table = read_parquet(data)
                columns = [c.drop_null().to_numpy() for c in table.columns if str(c.type) in ("double", "float")]
            elif name.endswith(".npz"):
                columns = [a for a in read_npz(data).values() if a.dtype.kind == "f"]
            else:
                assert not re.search(r"\b(nan|inf|infinity)\b", data.decode(), re.IGNORECASE), f"{node} {name}"
                continue
            assert all(np.isfinite(c).all() for c in columns), f"{node} {name}"


def words(page: bytes) -> str:
    return " ".join(re.sub(r"<[^>]*>", "", page.decode()).split())


def verdicts(outputs: dict[str, dict[str, bytes]]) -> dict[str, str]:
    return {c["id"]: c["verdict"] for c in read_json(outputs["report"]["verdict.json"])["claims"]}


def test_a_model_with_preferences_is_not_said_to_be_constant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the same walk finds where there is something to find."""
    outputs = execute(planted_study(tmp_path, monkeypatch, prefers))
    finite(outputs)
    found = verdicts(outputs)
    assert {found[c] for c in ("cross_topic", "heldout_raw", "heldout_accuracy")} <= set(HOLDS)
    assert "not estimable" not in found.values()
    assert "constant" not in outputs["report"]["verdict.json"].decode()
    assert "Most preferred" in words(outputs["report"]["index.html"])


@pytest.mark.parametrize("case", CONSTANT)
def test_constant_choices_are_a_result(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    says, exact, clause = CONSTANT[case]
    outputs = execute(planted_study(tmp_path, monkeypatch, says, exact=exact))
    finite(outputs)
    assert set(verdicts(outputs).values()) == {"not estimable"}
    verdict = read_json(outputs["report"]["verdict.json"])
    sentence = (
        f"The choices are constant: {clause} (train and eval); all utilities are equal, and nothing can be read in"
    )
    assert verdict["summary"]["answer"].startswith(sentence)
    for claim in verdict["claims"]:
        assert claim["value"] is claim["low"] is claim["high"] is None
        assert re.match(r"The choices are constant \(train( and eval)?\): all utilities are equal", claim["why"])
    page = words(outputs["report"]["index.html"])
    limits = page.index("Limits", page.index("Limits") + 1)
    assert sentence in page[:limits]
    assert sentence in page[limits:]
    assert "No topic is preferred to another" in page
    assert "Most preferred" not in page
    measured = read_json(outputs["measure.train"]["measure.json"])
    assert "rounded" in case or [r["rank_correlation"] for r in measured["rounds"]] == [None, None, None]
    assert measured["reliability"]["spearman_brown"] is None
    assert read_json(outputs["shift"]["shift.json"])["experiments"]["category"]["estimable"] is False


@pytest.mark.parametrize("flat", ["train", "eval"])
def test_one_constant_set(flat: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what rests on that set is not estimable: probes are trained on train, and tested across topics on train too."""
    texts: set[str] = set()
    run = planted_study(tmp_path, monkeypatch, lambda q: 0.0 if texts >= {q.first, q.second} else prefers(q))
    tasks, _ = run.execute(run.nodes["tasks"], Progress())
    table = read_parquet(read_output(run.objects, tasks, "tasks.parquet")).to_pylist()
    texts |= {row["text"] for row in table if row["set"] == flat}
    outputs = execute(run)
    finite(outputs)
    found = verdicts(outputs)
    constant = {c for c, verdict in found.items() if verdict == "not estimable"}
    assert constant == (set(found) if flat == "train" else {c for c in found if c.startswith("heldout")})
    assert bool(set(HOLDS) & set(found.values())) == (flat == "eval")
    answer = read_json(outputs["report"]["verdict.json"])["summary"]["answer"]
    assert re.match(rf"The choices are constant: either task is chosen with [^()]* \({flat}\);", answer)


def test_prompts_that_nobody_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks are chosen between, but under no system prompt is there an answer: the experiment is there, without a point."""

    def says(question: Question) -> str:
        return "refusal" if question.system else "a" if prefers(question) > 0 else "b"

    outputs = execute(planted_study(tmp_path, monkeypatch, says, exact=False))
    finite(outputs)
    found = read_json(outputs["shift"]["shift.json"])["experiments"]["category"]
    assert (found["n_points"], found["estimable"], found["on_target"]["pearson"]) == (0, False, None)
    assert found["effect"] == dict.fromkeys(found["effect"])
    assert found["encoder"]["pooled"] == {"pearson": None, "spearman": None, "p": None, "n": 0}
    judged = {c["id"]: c for c in read_json(outputs["report"]["verdict.json"])["claims"]}
    assert judged["shift_category"]["verdict"] == "not estimable"
    assert "the model would not choose" in judged["shift_category"]["why"]
    assert judged["heldout_accuracy"]["verdict"] in HOLDS
    assert "the model would not choose" in words(outputs["report"]["index.html"])


def test_prompts_that_move_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = execute(planted_study(tmp_path, monkeypatch, lambda q: 1.7 if q.system else prefers(q)))
    finite(outputs)
    judged = {c["id"]: c for c in read_json(outputs["report"]["verdict.json"])["claims"]}
    assert judged["shift_category"]["verdict"] == "not estimable"
    assert judged["shift_category"]["why"].startswith("Δp is the same at all 16 on-target points")
    assert judged["cross_topic"]["verdict"] in HOLDS
