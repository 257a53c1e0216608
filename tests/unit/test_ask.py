"""`prefprobe ask` at a planted endpoint."""

import json
import re
from math import exp
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from prefprobe.cli import main
from tests.fault_server import Behaviour, FaultServer

WORTHS = [round(-1.5 + 0.25 * i, 2) for i in range(24)]


def preset(folder: Path, **api: Any) -> Path:
    tasks = folder / "tasks.jsonl"
    rows = [{"id": f"t{i:02d}", "text": f"Do {i} u={w:+.2f}", "topic": f"k{i % 3}"} for i, w in enumerate(WORTHS)]
    tasks.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    learning = {"batch": 5}
    values = {
        "name": "small",
        "model": {"source": "no/such-model"},
        "tasks": {"sources": [str(tasks)], "n_train": 12, "n_eval": 12},
        "choices": {"engine": "api", "api": {"model": "planted", "key": "", **api}},
        "train": learning,
        "eval": learning,
        "shift": {"comparisons": 2},
    }
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def ask(path: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["ask", str(path), "--store", str(path.parent / "store"), *options])


def shown(output: str) -> dict[tuple[int, int], str]:
    """P(A) by the numbers of the two tasks, the first as it is shown."""
    rows = re.findall(r"^Do (\d+) u=\S+ +Do (\d+) u=\S+ +(.+?) *$", output, re.MULTILINE)
    return {(int(a), int(b)): said for a, b, said in rows}


@pytest.mark.parametrize("lists", [True, False])
def test_ask_shows_what_an_endpoint_understands_and_what_it_chooses(lists: bool, tmp_path: Path) -> None:
    prices = {"prompt": 1000.0, "completion": 1000.0}
    with FaultServer(Behaviour(lists=lists, rejects=("system",))) as server:
        done = ask(preset(tmp_path, base_url=server.url, prices=prices), "--n", "3")
        tokens = server.tokens
    assert done.exit_code == 0, done.output
    rows = shown(done.output)
    assert len(rows) == 6
    assert {(b, a) for a, b in rows} == set(rows)
    for (a, b), said in rows.items():
        p = 1 / (1 + exp(-(WORTHS[a] - WORTHS[b] + 0.4)))
        if lists:
            assert float(said) == pytest.approx(p, abs=6e-4)
        else:
            share, answers = said.split(" of ")
            assert answers == "12"
            assert abs(float(share) - p) < 4 * (p * (1 - p) / 12) ** 0.5 + 0.005
    words = " ".join(done.output.split())
    assert ("exact: answers begin with a label" if lists else "sampled: the endpoint returned no log-prob") in words
    assert "turned down system: 400: Unsupported value" in words
    assert f"{6 if lists else 72} answers in" in words
    prompt, answer = re.search(r"spent ([\d,]+) prompt and ([\d,]+) answer tokens, \$(\S+),", words).groups()[:2]  # type: ignore[union-attr]
    assert int(prompt.replace(",", "")) + int(answer.replace(",", "")) == tokens
    assert re.search(r"the study [\d,]+ requests at most; at what these took about .* tokens, \$\d", words)
    assert "own weights are not asked: no/such-model is not on this machine" in words
    assert not (tmp_path / "store").exists()


def test_ask_at_an_address_where_nobody_answers_ends_in_75(tmp_path: Path) -> None:
    transport = {"total_timeout": 0.5}
    done = ask(preset(tmp_path, base_url="http://127.0.0.1:9/v1", transport=transport), "--no-weights")
    assert done.exit_code == 75
    assert "has answered nothing" in done.output
    assert "check that it runs and that `base_url` is right" in done.output
    assert "answered before is saved" not in done.output


@pytest.mark.parametrize(
    ("variable", "value", "advice"),
    [
        ("A_KEY", "wrong", "check the variable A_KEY, which holds it"),
        ("A_KEY", None, "the variable A_KEY, which `key` names, is not set"),
        ("", None, "`key` names no variable"),
    ],
)
def test_a_key_that_is_refused_is_named_by_its_variable(
    variable: str, value: str | None, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("A_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("A_KEY", value)
    with FaultServer(Behaviour(lists=True, key="right")) as server:
        done = ask(preset(tmp_path, base_url=server.url, key=variable), "--no-weights", "--n", "2")
    assert done.exit_code == 78
    assert "refuses the key (401: " in done.output
    assert advice in done.output


@pytest.mark.parametrize(
    ("api", "sentence"),
    [
        (
            {"key": None},
            '`choices.api.key`: nothing stands there; give the NAME of the variable that holds the key, or ""',
        ),
        ({"model": None}, "`choices.api.model`: input should be a valid string, and nothing stands there"),
        ({"headers": {"X-Org": "a", "x-org": "b"}}, "`choices.api.headers`: X-Org stands here twice"),
    ],
)
def test_settings_that_are_empty_or_twice_are_named_as_they_stand(
    api: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    done = ask(preset(tmp_path, **{"base_url": "http://127.0.0.1:9/v1", **api}))
    assert done.exit_code == 78
    assert sentence in done.output


def test_ask_keeps_to_the_budget(tmp_path: Path) -> None:
    with FaultServer(Behaviour(lists=True)) as server:
        done = ask(preset(tmp_path, base_url=server.url, budget_tokens=1), "--no-weights", "--n", "2")
    assert done.exit_code == 0, done.output
    words = " ".join(done.output.split())
    assert re.search(
        r"spent [1-9]\d* prompt and \d+ answer tokens to find this out; the budget covers no question", words
    )
    assert "raise choices.api.budget_tokens" in words
    assert set(shown(done.output).values()) == {"–"}
