"""The rehearsal's parts: its tasks are what origins are like, and its endpoint answers as it was planted."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from math import exp, log
from pathlib import Path

import numpy as np
import pytest
import yaml

from prefprobe.choices.api.engine import ApiEngine
from prefprobe.choices.log import choose
from prefprobe.choices.stimulus import STIMULUS
from prefprobe.config import load_config
from prefprobe.probes.crosstopic import MIN_TOPIC_TASKS
from prefprobe.settings.api import ApiSettings
from prefprobe.shift.experiments import builtin_paths, intended, load_experiments
from prefprobe.tasks.sampling import sample_sets, task_set
from tests.rehearsal.__main__ import preset
from tests.rehearsal.endpoint import BIAS, MODEL, SLOPE, World, answer
from tests.rehearsal.tasks import ORIGINS, TOPICS, made

TASKS = made(2000)
WORLD = World.of(200)


def test_tasks_are_distinct_and_the_same_each_time() -> None:
    assert len({task.text for task in TASKS}) == len({task.id for task in TASKS}) == 2000
    assert made(50) == TASKS[:50]
    assert made(50, seed=1) != TASKS[:50]
    assert {task.topic for task in TASKS} == set(TOPICS)
    assert not {task.text for task in TASKS} & {t.text for e in load_experiments(builtin_paths()) for t in e.tasks}


@pytest.mark.parametrize("name", ORIGINS)
def test_an_origin_has_its_share_its_topics_and_its_lengths(name: str) -> None:
    origin, mine = ORIGINS[name], [task for task in TASKS if task.origin == name]
    expected = 2000 * origin.share / sum(each.share for each in ORIGINS.values())
    assert abs(len(mine) - expected) < 5 * expected**0.5
    assert set(Counter(task.topic for task in mine)) == set(origin.topics)
    lengths = [len(task.text) for task in mine]
    assert min(lengths) >= 8
    assert max(lengths) <= origin.most
    assert log(np.median(lengths) / origin.characters) == pytest.approx(0, abs=0.35)


def test_every_topic_can_be_held_out_at_the_smallest_scale() -> None:
    topics = {task.id: task.topic for task in made(130)}
    drawn = task_set(sample_sets({task.id: task.text for task in made(130)}, 100, 30, seed=0), "train")
    assert min(Counter(topics[id_] for id_ in drawn).values()) >= MIN_TOPIC_TASKS
    assert {topics[id_] for id_ in drawn} == set(TOPICS)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    command = [sys.executable, "-m", "tests.rehearsal.endpoint", "200"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as server:
        assert server.stdout is not None
        yield server.stdout.readline().strip()
        server.kill()


@pytest.mark.parametrize("length", [3, 16])
def test_the_studys_client_reads_what_was_planted(url: str, length: int) -> None:
    settings = ApiSettings(base_url=url, model=MODEL, key="", mode="exact", max_tokens=length, compare=0)
    texts = {task.id: task.text for task in TASKS[:8]}
    pairs = list(combinations(texts, 2))
    engine = ApiEngine(settings, STIMULUS, 1.0, samples=[(texts[a], texts[b]) for a, b in pairs[:4]])
    prompt = next(iter(WORLD.targets))
    table = choose(engine, texts, pairs, prompts={"it": prompt})
    assert table.num_rows == 2 * len(pairs)
    for a, b, logit in zip(*(table.column(c).to_pylist() for c in ("task_a", "task_b", "logit")), strict=True):
        planted = WORLD.logit(texts[a], texts[b], prompt)
        assert logit == pytest.approx(max(-8.0, min(8.0, planted)), abs=0.011)


def test_preferences_are_those_of_the_tasks_and_prompts_move_what_they_target() -> None:
    a, b = TASKS[0], TASKS[1]
    both = (WORLD.logit(a.text, b.text, "") - WORLD.logit(b.text, a.text, "")) / 2
    assert both == pytest.approx(SLOPE * (a.worth - b.worth), abs=0.51)
    assert (WORLD.logit(a.text, b.text, "") + WORLD.logit(b.text, a.text, "")) / 2 == pytest.approx(BIAS)
    for experiment in load_experiments(builtin_paths()):
        for prompt in experiment.prompts[:4]:
            for task in experiment.tasks:
                moved = WORLD.logit(task.text, a.text, prompt.text) - WORLD.logit(task.text, a.text, "")
                towards = intended(prompt, task)
                there = {key for key in prompt.targets if key == a.topic}
                assert there or np.sign(round(moved, 6)) == towards


def test_an_answer_is_a_completion_as_vllm_writes_one() -> None:
    user = {"role": "user", "content": STIMULUS.message(TASKS[0].text, TASKS[1].text)}
    raw = answer(WORLD, {"messages": [user], "max_tokens": 16, "top_logprobs": 20})
    head, _, data = raw.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert f"Content-Length: {len(data)}".encode() in head
    body = json.loads(data)
    listed = body["choices"][0]["logprobs"]["content"]
    assert len(listed) == body["usage"]["completion_tokens"] == 16
    for entry in listed:
        assert len(entry["top_logprobs"]) == 20
        assert sum(exp(other["logprob"]) for other in entry["top_logprobs"]) <= 1.0
    assert "".join(entry["token"] for entry in listed) == body["choices"][0]["message"]["content"]
    unknown = answer(WORLD, {"messages": [{"role": "user", "content": "Name a colour."}]})
    assert b'"logprobs"' not in unknown


@pytest.mark.parametrize("scale", [0.01, 0.1, 1.0])
def test_the_rehearsals_preset_is_the_published_study_but_for_what_it_says(scale: float, tmp_path: Path) -> None:
    (tmp_path / "rehearsal.yaml").write_text(yaml.safe_dump(preset(tmp_path, scale, 1)))
    config = load_config(tmp_path / "rehearsal.yaml")
    assert (config.tasks.n_train, config.train.batch) == (round(10_000 * scale), round(5_000 * scale))
    assert (config.train.max_rounds, config.train.rank_threshold, config.choices.part) == (10, 0.995, 4096)
    assert (config.shift.subset is None) == (scale == 1.0)
