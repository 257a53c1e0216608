"""A draft of a taxonomy from an endpoint that proposes labels by a script."""

import json
from typing import Any

import pytest
from click.testing import CliRunner

from prefprobe.cli import main
from prefprobe.errors import BadConfig
from prefprobe.progress import Progress
from prefprobe.settings.endpoint import EndpointSettings
from prefprobe.topics.discovery import TOGETHER, discover, merged
from prefprobe.topics.taxonomy import Taxonomy
from tests.fault_server import FaultServer

TEXTS = [f"Task {i}: {'add' if i % 2 else 'rhyme'} {{x}}" for i in range(3 * TOGETHER)]


def says(content: str) -> str:
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    return "says " + json.dumps({"object": "chat.completion", "model": "m", "choices": [choice], "usage": usage})


def label(name: str, **more: str) -> dict[str, str]:
    return {"name": name, "description": f"All {name}.", **more}


def proposing(final: list[dict[str, Any]]) -> Any:
    def script(body: dict[str, Any], attempt: int) -> str:
        content = body["messages"][-1]["content"]
        if "were proposed" in content:
            assert "- sums (3): All Sums." in content
            return says(f"```json\n{json.dumps({'labels': final})}\n```")
        return says(json.dumps({"labels": [label("Sums"), label("Verse & rhyme"), {"name": "no description"}]}))

    return script


def settings(server: FaultServer) -> EndpointSettings:
    return EndpointSettings(base_url=server.url, model="m", key="")


def test_labels_of_all_groups_become_one_list_that_is_a_taxonomy() -> None:
    final = [label("sums", boundary="B."), label("verse", boundary="B."), label("other", boundary="B."), label("bare")]
    with FaultServer(script=proposing(final)) as server:
        found, spend = discover(settings(server), TEXTS, labels=12, progress=Progress.silent())
        shown = "".join(body["messages"][-1]["content"] for _, body in server.arrivals)
    assert found.names == ["sums", "verse", "other"]
    assert all(json.dumps(text) in shown for text in TEXTS)
    assert spend.requests >= 4


@pytest.mark.parametrize("said", ["", "Topics: sums, verse.", '{"labels": "sums"}', '{"labels": [1]}'])
def test_a_model_that_proposes_nothing_is_named(said: str) -> None:
    proposes = pytest.raises(BadConfig, match="proposes no topics in the form that is asked for")
    with FaultServer(script=lambda body, attempt: says(said)) as server, proposes:
        discover(settings(server), TEXTS, labels=12, progress=Progress.silent())


def test_proposals_are_counted_once_a_group_and_the_most_frequent_come_first() -> None:
    rows = [[label("b"), label("a"), label("a")], [label("a")], [label("c")]]
    assert [(name, n) for name, n, _ in merged(rows)] == [("a", 2), ("b", 1), ("c", 1)]


def test_the_command_prints_a_taxonomy_and_says_what_it_cost() -> None:
    final = [label("sums", boundary="B."), label("verse", boundary="B.")]
    runner = CliRunner()
    with FaultServer(script=proposing(final)) as server:
        judge = json.dumps({"by": "api", "api": {"base_url": server.url, "model": "m", "key": ""}})
        arguments = ["taxonomy", "presets/demo.yaml", "--sample", str(3 * TOGETHER), "--set", f"topics.judge={judge}"]
        done = runner.invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert Taxonomy.parse(done.stdout, "printed").names == ["sums", "verse", "other"]
    assert "a draft from 60 tasks" in done.stderr
    none = runner.invoke(main, ["taxonomy", "presets/demo.yaml"])
    assert none.exit_code == 78
    assert "set topics.judge.by to api" in none.stderr
