"""The plan: its numbers against hand counts and against what the study would ask for, and what it says of the unknown."""

import hashlib
import json
import math
import os
import random
import struct
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from prefprobe.choices.answers import AnswerLog, answers_table
from prefprobe.choices.api.dialect import PLAIN_TOKENS
from prefprobe.choices.engine import Answer, Question, Reading
from prefprobe.choices.log import ChoiceLog
from prefprobe.choices.loop import measure_utilities
from prefprobe.choices.pairs import initial_pairs, select_pairs
from prefprobe.choices.stimulus import Stimulus
from prefprobe.cli import main
from prefprobe.config import load_config
from prefprobe.errors import BadConfig
from prefprobe.numbers import rough
from prefprobe.plan.gguf import read_header
from prefprobe.plan.model import encoder_facts, model_facts
from prefprobe.plan.needs import ANSWER_TOKENS, CHOICE_BYTES, rounds
from prefprobe.plan.table import WIDTH
from prefprobe.settings import ActiveLearningSettings, ModelSettings
from prefprobe.shift.prompted import prompted_tasks
from prefprobe.store.formats import npz_bytes, parquet_bytes
from prefprobe.store.objects import ObjectStore
from prefprobe.store.steps import StepStore
from prefprobe.study.graph import graph
from prefprobe.tasks.pool import DEMO
from tests.encoders import SENTENCE_T5, TWO_POOLINGS, D, bert_files, write_files
from tests.unit.study.test_graph import Pins

PRESETS = Path(__file__).parents[3] / "presets"
ROLE = "{{ 'model' if m.role == 'assistant' else m.role }}"
TEMPLATE = "{% for m in messages %}<turn> " + ROLE + " {{ m.content }} {% endfor %}<turn> model"
N_TRAIN, N_EVAL, LONG = 24, 12, 40


@pytest.fixture(autouse=True)
def _nothing_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFPROBE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def write_tasks(path: Path, texts: Sequence[str], topics: bool = True) -> Path:
    rows = (
        {"id": f"t{i:05}", "text": text} | ({"topic": f"topic{i % 3}"} if topics else {})
        for i, text in enumerate(texts)
    )
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def preset(tmp_path: Path, **values: Any) -> Path:
    """24 and 12 tasks of 40 characters each, one experiment of one prompt and two tasks, and no files of the model."""
    tasks = write_tasks(tmp_path / "tasks.jsonl", [f"{i:0{LONG}}" for i in range(40)])
    shift = {
        "experiment": "x",
        "prompts": [{"id": "p", "text": "s" * 20, "targets": {"l": 1}}],
        "task_sets": {"x": [{"id": f"s{i}", "text": "qr"[i] * LONG, "topic": "t", "labels": ["l"]} for i in range(2)]},
    }
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(shift))
    given = {
        "name": "small",
        "model": {"source": "lab/model-2b", "dtype": "bfloat16"},
        "tasks": {"sources": [str(tasks)], "n_train": N_TRAIN, "n_eval": N_EVAL},
        "train": {"initial_degree": 5, "batch": 10, "max_rounds": 3, "samples": 4},
        "eval": {"initial_degree": 5, "batch": 100, "max_rounds": 9, "samples": 2},
        "shift": {"comparisons": 3, "experiments": [str(tmp_path / "x.yaml")], "baseline": "b" * 20, "samples": 2}
        | {"neutral": []},
    }
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(given | values))
    return path


def api(**values: Any) -> dict[str, Any]:
    """Not compared with own weights, unless it is asked for."""
    given = {"base_url": "http://127.0.0.1:1/v1", "model": "m", "compare": 0, **values}
    return {"engine": "api", "api": given}


def call(*args: object) -> int:
    try:
        main([str(a) for a in args])
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def planned(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """({step: numbers}, the whole plan)."""
    capsys.readouterr()
    assert call("plan", *args, "--json") == 0
    whole = json.loads(capsys.readouterr().out)
    return {step["step"]: step for step in whole["steps"]}, whole


def folder(path: Path, words: Sequence[str] = ("<turn>", "user", "model", "system")) -> Path:
    """A model's folder as far as a plan reads it: one word is one token, and 1,000 parameters in two files."""
    path.mkdir()
    vocabulary = {word: i for i, word in enumerate(["?", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.enable_truncation(5)
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps({"bos_token": {"content": "<s>"}}))
    (path / "chat_template.jinja").write_text(TEMPLATE)
    (path / "config.json").write_text(json.dumps({"text_config": {"num_hidden_layers": 10, "hidden_size": 16}}))
    for k in range(2):
        write_weights(path / f"model-{k}.safetensors", "BF16", {f"w{k}": [50, 10]}, 1000)
    return path


def write_weights(path: Path, kind: str, shapes: dict[str, list[int]], size: int) -> None:
    """A safetensors file of tensors that are all 0, `size` bytes of them."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    each, end = size // sum(map(math.prod, shapes.values())), 0
    for name, shape in shapes.items():
        begin, end = end, end + each * math.prod(shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
    data = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(data)) + data + bytes(size))


def text_of(data: bytes | str) -> bytes:
    raw = data.encode() if isinstance(data, str) else data
    return struct.pack("<Q", len(raw)) + raw


def gguf(path: Path, kind: str = "gpt2") -> Path:
    """Two tensors, and a vocabulary of bytes and two words as a GGUF file has them."""
    tokens = ["<turn>", *"abuser", "us", "use", "user"]
    merges = ["u s", "us e", "use r"]

    def strings(values: Sequence[str]) -> bytes:
        return struct.pack("<IIQ", 9, 8, len(values)) + b"".join(map(text_of, values))

    values = {
        "general.architecture": struct.pack("<I", 8) + text_of("toy"),
        "toy.block_count": struct.pack("<II", 4, 7),
        "toy.embedding_length": struct.pack("<II", 4, 32),
        "tokenizer.ggml.model": struct.pack("<I", 8) + text_of(kind),
        "tokenizer.ggml.tokens": strings(tokens),
        "tokenizer.ggml.merges": strings(merges),
        "tokenizer.ggml.token_type": struct.pack(f"<IIQ{len(tokens)}i", 9, 5, len(tokens), 3, *[1] * (len(tokens) - 1)),
        "tokenizer.ggml.bos_token_id": struct.pack("<II", 4, 0),
        "tokenizer.chat_template": struct.pack("<I", 8) + text_of("{{ bos_token }}{{ messages[0].content }}"),
    }
    tensors = [struct.pack("<I2QIQ", 2, 30, 10, 2, 0), struct.pack("<I1QIQ", 1, 7, 0, 64)]
    body = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(values))
    body += b"".join(text_of(name) + value for name, value in values.items())
    path.write_bytes(body + b"".join(text_of(f"w{i}") + t for i, t in enumerate(tensors)))
    return path


@pytest.mark.parametrize(
    ("n", "degree", "batch", "most"),
    [
        (10, 5, 7, 3),
        (11, 5, 30, 9),
        (6, 5, 4, 3),
        (7, 5, 4, 4),
        (9, 7, 4, 4),
        (25, 3, 20, 1),
        (60, 4, 33, 5),
        (13, 9, 1, 10),
    ],
)
def test_rounds_have_the_sizes_that_active_learning_gives(n: int, degree: int, batch: int, most: int) -> None:
    settings = ActiveLearningSettings(initial_degree=degree, batch=batch, max_rounds=most)
    rng = np.random.default_rng(0)
    seen = [initial_pairs(n, degree, rng)]
    while len(seen) < most:  # as choices/loop.py goes on while nothing converges
        new = select_pairs(rng.normal(size=n), np.concatenate(seen), batch, rng)
        if not len(new):
            break
        seen.append(new)
    assert rounds(n, settings) == [len(pairs) for pairs in seen]


class Counting:
    """Prefers the longer of two texts, and counts what it is asked."""

    name = "counting"

    def __init__(self, exact: bool) -> None:
        self.exact = exact
        self.identity: dict[str, Any] = {}
        self.about: dict[str, Any] = {}
        self.asked = 0

    def answer(self, questions: Sequence[Question], save: Callable[[Sequence[Answer]], None]) -> None:
        self.asked += len(questions)
        save([Answer(q.id, str(len(q.first) - len(q.second))) for q in questions])

    def read(self, answer: Answer) -> Reading:
        logit = float(answer.raw) / 8
        return Reading("exact", logit, 1.0) if self.exact else Reading("a" if logit > 0 else "b")


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("threshold", [0.01, 0.9999999])
def test_the_loop_asks_for_what_is_planned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], exact: bool, threshold: float
) -> None:
    path = preset(tmp_path, choices=api(mode="exact" if exact else "sampled"))
    thresholds = [f"{name}_threshold={threshold}" for name in ("rank", "reliability")]
    overrides = [f"train.{value}" for value in thresholds]
    config = load_config(path, overrides)
    planned_, _ = planned(capsys, path, *(arg for o in overrides for arg in ("--set", o)))
    texts = {f"t{i:02}": "x" * (i + 1) for i in range(N_TRAIN)}
    engine, objects = Counting(exact), ObjectStore.open(str(tmp_path / "store"))
    answered = AnswerLog(StepStore(objects, "answers", "k" * 64, {}), "me")
    log = ChoiceLog(engine, texts, answers=answered)
    measured = measure_utilities(log, config.train)
    train = planned_["measure.train"]
    pairs = train["pairs_least" if threshold < 0.5 else "pairs"]
    assert measured.summary["stopped"] == ("converged" if threshold < 0.5 else "max_rounds")
    assert measured.summary["n_pairs"] == pairs
    assert engine.asked == train["requests"] * pairs / train["pairs"]


def test_numbers_against_a_count_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps, whole = planned(capsys, preset(tmp_path))
    message = len(Stimulus().message("x" * LONG, "x" * LONG)) / 4 + 16
    train = steps["measure.train"]
    assert (train["pairs_least"], train["pairs"], train["requests"]) == (60 + 10, 60 + 10 + 10, 160)
    assert train["prompt_tokens"] == round(160 * message)
    assert train["gpu_hours"] == pytest.approx((160 * message / 18858 * 2 / 27 + 4) / 3600, rel=1e-3)
    assert (train["completion_tokens"], train["dollars"], train["bytes"]) == (0, 0, 160 * 150)
    of_eval = steps["measure.eval"]  # 12 tasks have 66 pairs
    assert (of_eval["pairs_least"], of_eval["pairs"], of_eval["requests"]) == (66, 66, 132)
    shifts = steps["shift-measure"]  # two tasks under a prompt and the baseline, 20 characters each
    assert (shifts["tasks"], shifts["pairs"], shifts["requests"]) == (4, 12, 24)
    assert shifts["prompt_tokens"] == round(24 * (message + 20 / 4))
    assert steps["extract.model"]["prompt_tokens"] == 36 * (LONG // 4 + 16)
    assert steps["extract.model"]["bytes"] is None
    assert steps["shift-score"]["prompt_tokens"] == 4 * ((LONG + 20) // 4 + 16)
    assert steps["probe"]["nodes"] == 3
    total = whole["total"]
    for name in ("pairs", "requests", "prompt_tokens", "gpu_hours"):
        assert total[name] == pytest.approx(sum(step[name] for step in whole["steps"]))
    assert total["bytes"] is None
    assert any("Storage of the activations of lab/model-2b: ?" in r for r in whole["remarks"])


def test_paraphrases_of_the_baseline_are_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps, _ = planned(capsys, preset(tmp_path), "--set", f"shift.neutral=[{'n' * 20}, {'m' * 20}]")
    assert [steps["shift-measure"][key] for key in ("tasks", "pairs", "requests")] == [8, 24, 48]
    assert steps["shift-score"]["tasks"] == 8


def test_shifts_are_as_long_as_all_train_tasks_are_on_average(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = preset(tmp_path)
    write_tasks(tmp_path / "tasks.jsonl", [f"{i:0{400 if i % 9 == 0 else 4}}" for i in range(N_TRAIN + N_EVAL)])
    steps, _ = planned(capsys, path)
    train = steps["measure.train"]["prompt_tokens"] / steps["measure.train"]["requests"]
    message = len(Stimulus().message("", "")) / 4 + 16
    mean = (train - message) / 2  # of a train task
    assert mean > 2
    assert steps["shift-measure"]["prompt_tokens"] == round(24 * (message + LONG / 4 + mean + 20 / 4))


def test_nodes_are_those_of_the_graph_and_shards_ask_for_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = preset(tmp_path)
    one, _ = planned(capsys, path)
    sharded = ["--set", "shift.shards=2", "--set", "activations.shards=5", "--set", "base.source=lab/base-1b"]
    more, whole = planned(capsys, path, *sharded)
    nodes = graph(load_config(path, sharded[1::2]), Pins(), "r")
    assert whole["total"]["nodes"] == len(nodes)
    assert (more["extract.base"]["nodes"], more["shift-score"]["nodes"], more["shift-measure"]["nodes"]) == (5, 2, 2)
    for step in ("shift-measure", "shift-score", "extract.model"):
        for name in ("tasks", "requests", "prompt_tokens"):
            assert more[step][name] == one[step][name]
        assert more[step]["gpu_hours"] > one[step]["gpu_hours"]  # every pod loads the weights
    assert planned(capsys, path, "--set", "shift.shards=9")[0]["shift-measure"]["requests"] == 24  # some have no prompt


def test_lengths_are_those_of_the_models_own_tokenizer_and_template(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = folder(tmp_path / "m")
    texts = [" ".join(["word"] * (2 + i % 7) + [str(i)]) for i in range(36)]
    write_tasks(tmp_path / "own.jsonl", texts)
    path = preset(tmp_path, model={"source": str(model)})
    given = ["--set", f"tasks.sources=[{tmp_path / 'own.jsonl'}]"]
    steps, whole = planned(capsys, path, *given)
    words = sum(len(text.split()) for text in texts)
    assert steps["extract.model"]["prompt_tokens"] == words + 36 * 4
    assert steps["extract.model"]["bytes"] == 36 * 9 * 16 * 4
    assert steps["embed.random"]["bytes"] == 36 * 16 * 4
    assert steps["shift-score"]["bytes"] == 4 * 16 * 4
    halves = ["--set", "activations.dtype=float16", "--set", "activations.positions=[last, mean, turn:-2]"]
    kept, _ = planned(capsys, path, *given, *halves)
    found = [kept[name]["bytes"] for name in ("extract.model", "extract.untrained", "shift-score")]
    assert found == [3 * 36 * 9 * 16 * 2, 36 * 9 * 16 * 2, 4 * 16 * 2]
    rows = {f"layer_{k}": np.zeros((36, 16), np.float32) for k in range(9)}
    assert steps["extract.model"]["bytes"] <= len(npz_bytes(rows)) < 1.2 * steps["extract.model"]["bytes"]
    assert steps["shift-score"]["prompt_tokens"] == 4 * (1 + 1 + 6)  # a task, a prompt, and three turns
    assert any("by its tokenizer and chat template" in r for r in whole["remarks"])
    facts = model_facts(ModelSettings(source=str(model), chat=False))
    assert (facts.parameters, facts.by_name, facts.d, facts.n_layers) == (1000, False, 16, 10)
    assert facts.weights == sum(f.stat().st_size for f in model.glob("*.safetensors"))
    assert facts.lengths.mean([("one two", "be kind")]) == 5  # with a beginning, which a template brings itself
    (model / "model.safetensors.index.json").write_text('{"weight_map": {"w": "model-9.safetensors"}}')
    assert model_facts(ModelSettings(source=str(model))).parameters is None  # not all of its weights are here


@pytest.mark.parametrize("kind", ["F32", "BF16", "F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL", "I64"])
def test_weights_of_every_type_are_counted(tmp_path: Path, kind: str) -> None:
    size = {"F32": 4, "BF16": 2, "I64": 8}.get(kind, 1)
    write_weights(tmp_path / "a.safetensors", kind, {"w": [3, 4], "scalar": [], "none": [0, 7]}, 13 * size)
    assert model_facts(ModelSettings(source=str(tmp_path))).parameters == 13


def test_weights_that_are_cut_are_unknown(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_weights(path, "F32", {"w": [3, 4]}, 48)
    whole = path.read_bytes()
    for broken in (
        b"",
        whole[:7],
        whole[:20],
        whole[:-1],
        whole + b"x",
        b"\xff" * 8 + whole[8:],
        whole[:8] + b"[" + whole[9:],
    ):
        path.write_bytes(broken)
        facts = model_facts(ModelSettings(source=str(tmp_path)))
        assert (facts.parameters, facts.weights) == (None, None)
    path.unlink()
    path.mkdir()
    assert model_facts(ModelSettings(source=str(tmp_path))).parameters is None


def test_a_template_that_refuses_system_turns_gets_them_in_the_users(tmp_path: Path) -> None:
    model = folder(tmp_path / "m")
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + TEMPLATE
    (model / "chat_template.jinja").write_text(refusing)
    lengths = model_facts(ModelSettings(source=str(model))).lengths
    assert lengths.mean([("one two", "be kind")]) == 4 + 4
    (model / "chat_template.jinja").write_text("{% generation %}")
    with pytest.raises(BadConfig, match="m: the chat template is not valid"):
        model_facts(ModelSettings(source=str(model)))
    (model / "chat_template.jinja").unlink()
    without = model_facts(ModelSettings(source=str(model))).lengths
    assert without.mean([("one two", "be kind")]) == 4 + 16


def test_a_gguf_file_is_read_without_its_weights(tmp_path: Path) -> None:
    facts = model_facts(ModelSettings(source=str(gguf(tmp_path / "m.gguf"))))
    assert (facts.parameters, facts.weights, facts.n_layers, facts.d) == (307, 1228, 7, 32)
    assert facts.lengths.mean([("userba", None)]) == 4  # <turn>, user, b, a
    assert model_facts(ModelSettings(source=str(gguf(tmp_path / "s.gguf", "llama")))).lengths.tokenizer is None
    converted = tmp_path / "cache" / "models" / hashlib.sha256((tmp_path / "m.gguf").read_bytes()).hexdigest()
    converted.parent.mkdir(parents=True)
    folder(converted)
    for file in converted.glob("*.safetensors"):
        file.unlink()
    write_weights(converted / "model.safetensors", "F32", {"w": [5]}, 20)
    assert model_facts(ModelSettings(source=str(tmp_path / "m.gguf"))).parameters == 5


def test_a_broken_gguf_file_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = gguf(tmp_path / "m.gguf").read_bytes()
    for cut in (whole[:30], whole[:200], b"GGML" + whole[4:]):
        (tmp_path / "cut.gguf").write_bytes(cut)
        assert call("plan", preset(tmp_path, model={"source": str(tmp_path / "cut.gguf")})) == 78
        assert "cut.gguf: not a GGUF file" in capsys.readouterr().err
    assert read_header(tmp_path / "m.gguf").parameters == 307


def test_an_api_costs_dollars_and_no_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = preset(tmp_path, choices=api(prices={"prompt": 2, "completion": 10}))
    steps, whole = planned(capsys, path)
    train = steps["measure.train"]
    assert (train["node"], train["requests"], train["completion_tokens"]) == ("cpu", 80 * 2 * 4, 640 * 16)
    assert train["dollars"] == pytest.approx((train["prompt_tokens"] * 2 + 640 * 16 * 10) / 1e6)
    assert (train["gpu_hours"], train["bytes"]) == (0, 640 * 150)
    assert steps["shift-measure"]["requests"] == 24 * 2
    assert any("or once if the endpoint turns out to list log-probabilities" in r for r in whole["remarks"])
    longer, _ = planned(capsys, path, "--set", "choices.api.max_tokens=100")
    assert longer["measure.train"]["completion_tokens"] == 64000
    assert longer["measure.train"]["bytes"] == 640 * (150 + 4 * 84)
    exact, _ = planned(capsys, path, "--set", "choices.api.mode=exact")
    assert (exact["measure.train"]["requests"], exact["measure.train"]["bytes"]) == (160, 160 * 1150)
    sampled, whole = planned(capsys, path, "--set", "choices.api.mode=sampled")
    assert sampled["measure.train"]["requests"] == 640
    assert not any("log-probabilities" in r for r in whole["remarks"])


def test_what_is_asked_of_own_weights_too_is_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = preset(tmp_path, choices=api(prices={"prompt": 2, "completion": 10}, budget_tokens=10**9))
    alone, _ = planned(capsys, path)
    both, whole = planned(capsys, path, "--set", "choices.api.compare=10")
    assert "own-choices" not in alone
    own, message = both["own-choices"], len(Stimulus().message("x" * LONG, "x" * LONG)) / 4 + 16
    assert (own["node"], own["pairs"], own["requests"], own["dollars"]) == ("gpu", 10, 20, 0)
    assert own["prompt_tokens"] == round(20 * message)
    assert own["gpu_hours"] == pytest.approx((20 * message / 18858 * 2 / 27 + 4) / 3600, rel=1e-3)
    assert own["bytes"] == 20 * 150
    for name in ("measure.train", "measure.eval"):
        more = {key: both[name][key] - alone[name][key] for key in ("pairs", "requests", "prompt_tokens")}
        assert more == {"pairs": 0, "requests": 10 * 2 * 12, "prompt_tokens": pytest.approx(240 * message, abs=1)}
    assert both["shift-measure"] == alone["shift-measure"]
    assert any(r.startswith("Compared: 10 pairs") and "each order 12 times" in r for r in whole["remarks"])
    assert any("tokens a second for choices" in r for r in whole["remarks"])
    exact, _ = planned(capsys, path, "--set", "choices.api.compare=10", "--set", "choices.api.mode=exact")
    assert exact["measure.train"]["requests"] == 160 + 20
    _, short = planned(capsys, path, "--set", "choices.api.compare=10", "--set", "choices.api.budget_tokens=1")
    over = [r.split(":")[0] for r in short["remarks"] if r.startswith(("own", "measure", "shift"))]
    assert over == ["measure.train", "measure.eval", "shift-measure"]  # own weights have no budget


def test_unknown_prices_are_said_with_the_setting_that_makes_them_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = preset(tmp_path, choices=api())
    steps, whole = planned(capsys, path)
    assert steps["measure.train"]["dollars"] is None
    assert whole["total"]["dollars"] is None
    said = "\n".join(whole["remarks"])
    assert "choices.api.prices.prompt" in said
    assert "Budgets: none" in said
    assert call("plan", path) == 0
    shown = capsys.readouterr().out
    assert next(line for line in shown.splitlines() if line.startswith("measure.train")).split().count("?") == 1


def test_a_budget_that_will_not_do_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = preset(tmp_path, choices=api(prices={"prompt": 2, "completion": 10}), eval={"batch": 5, "max_rounds": 1})
    steps, _ = planned(capsys, path)
    train = steps["measure.train"]
    most = train["prompt_tokens"] + train["completion_tokens"]
    least = most * 70 / 80

    def said(**budget: float) -> list[str]:
        sets = [arg for name, value in budget.items() for arg in ("--set", f"choices.api.{name}={value}")]
        _, whole = planned(capsys, path, *sets)
        return [r for r in whole["remarks"] if r.startswith(("measure", "shift"))]

    assert said(budget_usd=train["dollars"]) == []
    assert said(budget_tokens=most) == []
    (late,) = said(budget_tokens=most - 1)
    assert late.startswith("measure.train")
    assert "at most, and ends at its budget" in late
    (early,) = said(budget_tokens=int(least) - 1)
    assert "at least, and ends at its budget" in early
    (usd,) = said(budget_usd=train["dollars"] * 0.99)
    assert "$" in usd
    all_ = said(budget_usd=1e-6)
    assert [r.split(":")[0] for r in all_] == ["measure.train", "measure.eval", "shift-measure"]
    assert all_[2].endswith("raise it first.")


@pytest.mark.parametrize(
    ("overrides", "code", "sentence"),
    [
        (["sed=3"], 78, "did you mean `seed`"),
        (["tasks.sources=[nowhere.jsonl]"], 78, "no such task file"),
        (["tasks.sources=[store:inputs/t.jsonl]"], 78, "has no such object"),
        (
            ["tasks.sources=[{path: demo, text: question}]"],
            78,
            "row 1: no `question`, found id, text, origin, topic; give",
        ),
        (["tasks.n_train=1000"], 78, "distinct texts"),
        (["probes.holdout=2"], 78, "too few to hold out 2"),
        (["model.source={folder}"], 78, "task t00039: a choice between it and t00038 takes 36 tokens, and the context"),
        (["model.source=./nowhere"], 78, "no such file or folder"),
        (["encoders={e: package:no_such_package/m}"], 78, "is not installed"),
        (["shift.experiments=[nowhere.yaml]"], 78, "neither a file nor one of"),
    ],
)
def test_bad_input_gives_the_sentence_and_the_code_that_a_run_gives(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], overrides: list[str], code: int, sentence: str
) -> None:
    path = preset(tmp_path, model={"source": str(folder(tmp_path / "m"))})
    short = folder(tmp_path / "short")
    (short / "config.json").write_text(json.dumps({"max_position_embeddings": 30}))
    overrides = [o.replace("{folder}", str(short)) for o in overrides]
    args = [path, *(arg for o in overrides for arg in ("--set", o)), "--store", tmp_path / "store"]
    assert call("run", *args) == code
    by_run = capsys.readouterr().err.splitlines()[-1]
    assert call("plan", *args) == code
    assert capsys.readouterr().err.splitlines() == [by_run]
    assert sentence in by_run


def test_what_a_run_would_find_out_late_is_said_early(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = preset(tmp_path)
    assert call("plan", path, "--set", "shift.comparisons=21") == 78
    assert "21 comparison tasks were asked for" in capsys.readouterr().err
    shifted = json.dumps({"id": "s0", "text": "other", "topic": "t"})
    with (tmp_path / "tasks.jsonl").open("a") as file:
        file.write("\n" + shifted)
    assert call("plan", path, "--set", "tasks.n_train=29") == 78  # all 41 tasks: s0 is drawn
    assert "shift task s0: the same id" in capsys.readouterr().err
    write_tasks(tmp_path / "tasks.jsonl", [f"{i:0{LONG}}" for i in range(40)], topics=False)
    _, whole = planned(capsys, path)
    assert whole["remarks"][0].startswith("36 tasks have no topic")


def test_a_source_with_columns_of_its_own_and_a_dropped_task(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"question": f"{i:0{LONG}}", "kind": "abc"[i % 3]} for i in range(40)] + [
        {"question": "w " * 99, "kind": "a"}
    ]
    (tmp_path / "asked.jsonl").write_text("\n".join(map(json.dumps, rows)))
    model = folder(tmp_path / "m")
    (model / "config.json").write_text(json.dumps({"n_positions": 60}))
    source = json.dumps([{"path": str(tmp_path / "asked.jsonl"), "id": None, "text": "question", "topic": "kind"}])
    path = preset(tmp_path, model={"source": str(model)})
    args = [path, "--set", f"tasks.sources={source}"]
    assert call("plan", *args) == 78
    assert "(1 such tasks)" in capsys.readouterr().err
    steps, whole = planned(capsys, *args, "--set", "tasks.too_long=drop")
    assert steps["measure.train"]["tasks"] == N_TRAIN
    assert "1 tasks are beyond a model's context and are dropped (tasks.too_long)." in whole["remarks"]


def test_unknown_sizes_are_question_marks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = preset(tmp_path, model={"source": "lab/model"}, encoders={"e": "lab/encoder"})
    steps, whole = planned(capsys, path)
    assert steps["measure.train"]["gpu_hours"] is None
    assert steps["measure.train"]["prompt_tokens"] > 0
    assert steps["embed.e"]["bytes"] is None
    assert any("its name does not say them" in r for r in whole["remarks"])
    assert encoder_facts("lab/encoder") is None
    assert [model_facts(ModelSettings(source=f"a/{name}")).parameters for name in
            ("Qwen3-30B-A3B", "SmolLM2-135M-Instruct", "gemma-3-27b-it", "gpt-5", "Qwen2.5-0.5B", "phi-4b2")
    ] == [30e9, 135e6, 27e9, None, 5e8, None]  # fmt: skip


def test_encoders_are_as_wide_as_their_last_module_and_are_read_by_who_reads_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoders = {name: str(tmp_path / name) for name in ("mean", "both", "dense")}
    for name, files in (("mean", {}), ("both", TWO_POOLINGS), ("dense", SENTENCE_T5)):
        write_files(tmp_path / name, bert_files() | files)
    given: dict[str, str] = {}
    monkeypatch.setattr(
        "prefprobe.plan.needs.graph", lambda config, pins, run: given.update(pins) or graph(config, pins, run)
    )
    steps, _ = planned(capsys, preset(tmp_path, encoders=encoders))
    rows = N_TRAIN + N_EVAL
    assert [steps[f"embed.{name}"]["bytes"] for name in encoders] == [rows * d * 4 for d in (D, 2 * D, 512)]
    assert given.keys() >= {"encoder.both.torch", "encoder.dense.torch"}
    assert "encoder.mean.torch" not in given
    (tmp_path / "mean" / "modules.json").unlink()
    assert call("plan", preset(tmp_path, encoders=encoders)) == 78
    assert "no readable modules.json" in capsys.readouterr().err


def test_the_table_fits_and_shows_the_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = api(prices={"prompt": 90, "completion": 500}, budget_usd=1, budget_tokens=10**6)
    encoders = {"e": "lab/encoder", "an-encoder-with-a-long-name": "lab/encoder"}
    source = {"source": str(folder(tmp_path / "m"))}
    path = preset(tmp_path, choices=asked, encoders=encoders, model=source)
    large = {"initial_degree": 5, "batch": 5000, "max_rounds": 20, "samples": 5}
    write_tasks(tmp_path / "tasks.jsonl", [f"{i:0{LONG}}" for i in range(13000)])
    path.write_text(path.read_text().replace("n_train: 24", "n_train: 10000").replace("n_eval: 12", "n_eval: 3000"))
    sets = [arg for name, value in large.items() for arg in ("--set", f"train.{name}={value}")]
    sets += ["--set", "shift.shards=3"]
    steps, _ = planned(capsys, path, *sets)
    assert call("plan", path, *sets) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= WIDTH
    assert "…" not in shown
    row = next(line.split() for line in shown.splitlines() if line.startswith("shift-measure"))
    assert row[:6] == ["shift-measure", "3", "cpu", "4", "12", "12"]
    assert row[6] == str(steps["shift-measure"]["requests"]) == "48"
    row = next(line.split() for line in shown.splitlines() if line.startswith("measure.train"))
    assert row[:7] == ["measure.train", "1", "cpu", "10,000", "30,000", "120,000", "1,200,000"]


def test_the_published_study_is_planned_without_torch_and_without_a_network(tmp_path: Path) -> None:
    code = """
        import importlib.abc, socket, sys
        class Block(importlib.abc.MetaPathFinder):
            def find_spec(self, name, path=None, target=None):
                assert name.split('.')[0] not in ('torch', 'transformers', 'peft', 'gguf'), name
        sys.meta_path.insert(0, Block())
        asked = []
        def refuse(*args, **kwargs):
            asked.append(args)  # whoever asks may swallow the error
            raise OSError('no network')
        socket.getaddrinfo = socket.socket.connect = socket.create_connection = refuse
        from prefprobe.cli import main
        try:
            main(sys.argv[1:])
        finally:
            assert not asked, asked
    """
    args = [PRESETS / "gemma3.yaml", "--json"]
    before = sorted(tmp_path.rglob("*"))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), "plan", *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=os.environ
        | {"HF_HOME": str(tmp_path / "hf"), "PREFPROBE_CACHE": str(tmp_path / "cache"), "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert sorted(tmp_path.rglob("*")) == before
    steps = {step["step"]: step for step in json.loads(done.stdout)["steps"]}
    assert (steps["measure.train"]["pairs_least"], steps["measure.train"]["pairs"]) == (30_000, 70_000)
    assert (steps["measure.eval"]["pairs_least"], steps["measure.eval"]["pairs"]) == (9_500, 25_500)
    rows = prompted_tasks(load_config(PRESETS / "gemma3.yaml").shift, ObjectStore.open(str(tmp_path)))
    assert steps["shift-measure"]["requests"] == len(rows) * 40 * 2
    assert steps["extract.untrained"]["nodes"] == 1
    assert (steps["tasks"]["tasks"], steps["extract.model.pool"]["tasks"]) == (30_000, 17_000)
    assert (steps["classify.first"]["tasks"], steps["classify.second"]["tasks"]) == (30_000, 400)
    unknown = {name for name, step in steps.items() if None in step.values()}
    extracted = {f"extract.{f}" for f in ("model", "base", "untrained", "model.pool", "base.pool")}
    embedded = {f"embed.{f}" for f in ("minilm", "random", "minilm.shift", "minilm.pool")}
    assert unknown == {*extracted, *embedded, "shift-score"}


PLANNED = {  # parameters, train tasks, tasks in all, requests of measure.train, whether it has a base model and a GPU asks
    "gemma3": (27e9, 10_000, 30_000, 140_000, True, True),
    "gemma2-27b": (27e9, 10_000, 30_000, 140_000, True, True),
    "qwen3-32b": (32e9, 10_000, 30_000, 140_000, False, True),
    "llama3-70b": (70e9, 10_000, 30_000, 140_000, True, True),
    "gpt-oss-20b": (20e9, 10_000, 30_000, 140_000, False, False),
    "small": (1.7e9, 1_500, 2_000, 21_000, True, True),
}


def test_every_preset_but_the_demo_is_planned_here() -> None:
    assert {path.stem for path in PRESETS.glob("*.yaml")} == {*PLANNED, "demo"}


@pytest.mark.parametrize("name", PLANNED)
def test_the_presets_of_larger_models_are_planned(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for variable in ("HF_HOME", "HF_HUB_CACHE", "PREFPROBE_CACHE"):  # whatever this machine has of the models
        monkeypatch.setenv(variable, str(tmp_path))
    parameters, n, drawn, requests, based, own = PLANNED[name]
    assert "Not run here." in (PRESETS / f"{name}.yaml").read_text("utf-8")
    steps, whole = planned(capsys, PRESETS / f"{name}.yaml")
    assert steps["measure.train"]["tasks"] == n
    assert steps["tasks"]["tasks"] == steps["classify.first"]["tasks"] == drawn
    assert steps["classify.first"]["node"] == ("gpu" if own else "cpu")
    assert steps["measure.train"]["requests"] == requests
    assert steps["measure.train"]["node"] == ("gpu" if own else "cpu")
    assert ("extract.base" in steps) == based
    said = " ".join(whole["remarks"])
    assert f"{rough(parameters)}, as its name says" in said
    assert said.count("divides its blocks over 2 GPUs of 80.0 GB") == (2 if name == "llama3-70b" else 0)
    assert {step["gpus"] for step in steps.values() if step["node"] == "gpu"} == {2 if name == "llama3-70b" else 1}
    assert {step["gpus"] for step in steps.values() if step["node"] == "cpu"} == {0}
    load = load_config(PRESETS / f"{name}.yaml")
    assert load.encoders.keys() == {"minilm"}
    assert load.shift.stems == ["category", "targeted", "competing", "persona"]


@pytest.mark.parametrize(
    ("options", "expected", "gpus"),
    [
        ([], "divides its blocks over 2 GPUs of 80.0 GB", 2),
        (
            ["--gpu-memory", "16"],
            "which 10 GPUs of 16.0 GB (--gpu-memory) hold, and most nodes have 8 at most: the steps",
            10,
        ),
        (
            ["--set", "model.devices=1"],
            "which 2 GPUs of 80.0 GB (--gpu-memory) hold, and model.devices says 1: the steps",
            1,
        ),
        (
            ["--set", "model.devices=99"],
            "lab/chat-70b: its `devices` are 99 GPUs, and this machine has none: here its steps stop.",
            99,
        ),
        (
            ["--set", "model.device=cpu"],
            "lab/chat-70b: its `device` is cpu, on any node: no GPU is used, and its steps",
            2,
        ),
        (["--set", "model.quantisation=8bit"], "8bit ones are slower, and prompts go through one at a time.", 1),
        (["--set", "model.quantisation=4bit"], "as its name says; weights 140 GB, quantised ", 1),
        (
            ["--set", "model.dtype=float32"],
            "extract.untrained: its weights are drawn in memory, 280 GB, and pods may",
            4,
        ),
    ],
)
def test_what_does_not_fit_is_said(
    options: list[str], expected: str, gpus: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for variable in ("HF_HOME", "HF_HUB_CACHE", "PREFPROBE_CACHE"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setattr("prefprobe.plan.assumptions.DEVICES", tmp_path)  # a machine without a GPU
    chat = ["--set", "model={source: lab/chat-70b, dtype: bfloat16}", "--set", "encoders={}"]
    steps, whole = planned(capsys, PRESETS / "demo.yaml", *chat, *options)
    assert expected in " ".join(whole["remarks"])
    assert steps["extract.model"]["gpus"] == steps["measure.train"]["gpus"] == gpus


def test_an_answer_is_as_long_as_the_engine_asks_for() -> None:
    assert ANSWER_TOKENS == PLAIN_TOKENS


@pytest.mark.parametrize("kind", sorted(CHOICE_BYTES))
def test_a_choice_takes_about_the_bytes_that_are_planned(kind: str) -> None:
    draw = random.Random(0)
    words = " ".join(json.loads(line)["text"] for line in DEMO.read_text("utf-8").splitlines()).split()
    n = 8000

    def raw() -> str:
        if kind == "local":
            return json.dumps([draw.gauss(0, 1), draw.random()])
        said = f"Task A: {' '.join(draw.choices(words, k=11))}"
        top = [[t, round(draw.gauss(-1, 1), 6), [[w, round(draw.gauss(-8, 4), 6)] for w in draw.choices(words, k=20)]]
               for t in ("Task", " A", ":")]  # fmt: skip
        return json.dumps({"text": said, "top": top}) if kind == "exact" else said

    ids = [hashlib.sha256(str(i).encode()).hexdigest()[:32] for i in range(n)]
    shown = [tuple(f"task-{i:05}" for i in draw.sample(range(3000), 2)) for _ in range(n // 2)]
    shown = sorted(order for a, b in shown for order in ((a, b), (b, a)))
    sampled = kind == "sampled"
    choices = pa.table(
        {
            "choice_id": ids,
            "task_a": [a for a, _ in shown],
            "task_b": [b for _, b in shown],
            "p_a": [float(draw.random() < 0.5) if sampled else draw.random() for _ in ids],
            "logit": [None if sampled else draw.gauss(0, 1) for _ in ids],
            "label_mass": [None if sampled else draw.random() for _ in ids],
        }
    )
    answers = [Answer(i, raw(), prompt_tokens=draw.randint(60, 400), cost=draw.random() * sampled) for i in ids]
    measured = (
        len(parquet_bytes(choices)) + 2 * len(parquet_bytes(answers_table(sorted(answers, key=lambda a: a.id))))
    ) / n
    assert 0.75 < measured / CHOICE_BYTES[kind] < 1.25
    assert {f.name for f in fields(Answer)} < set(answers_table([]).column_names)


@pytest.mark.model
def test_lengths_are_the_loaded_models(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefprobe.activations.loading import load_model

    settings = load_config(PRESETS / "demo.yaml").model
    texts = [json.loads(line)["text"] for line in DEMO.read_text("utf-8").splitlines()[::6]]
    prompts = [(text, system) for text in texts for system in (None, "You hate math.")]
    from_file = model_facts(settings)  # the cache is empty
    monkeypatch.delenv("PREFPROBE_CACHE")
    model = load_model(settings.source)
    from_cache = model_facts(settings)
    counted = float(np.mean([len(model.prompt_tokens(*prompt)) for prompt in prompts]))
    assert from_file.lengths.mean(prompts) == from_cache.lengths.mean(prompts) == counted
    assert (from_file.d, from_file.n_layers) == (from_cache.d, from_cache.n_layers) == (model.width, model.n_layers)
    assert from_file.parameters == from_cache.parameters
