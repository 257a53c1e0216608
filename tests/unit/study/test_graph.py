"""The graph, and what a changed setting makes new."""

from pathlib import Path

import pytest

from prefprobe.config import load_config
from prefprobe.errors import InputMissing
from prefprobe.progress import Progress
from prefprobe.store.keys import canonical_json, sha256
from prefprobe.store.objects import ObjectStore
from prefprobe.study.graph import STEPS, Node, graph
from prefprobe.study.pins import pin_sources
from prefprobe.study.run import Run

PRESETS = Path(__file__).parents[3] / "presets"
API = ("choices.engine=api", "choices.api.base_url=http://127.0.0.1/v1", "choices.api.model=m")
JOBS = Path(__file__).parents[3] / "jobs"


class Pins(dict[str, str]):
    """Any source pinned to its own name."""

    def __missing__(self, key: str) -> str:
        return key


def nodes(*overrides: str, pins: dict[str, str] | None = None) -> dict[str, Node]:
    return graph(load_config(PRESETS / "demo.yaml", overrides), Pins(pins or {}), "r")


MADE_OF = {"tasks": {"sources", "n_train", "n_eval", "seed"}, "topics": {"sources", "min_tasks"}}
"""What the outputs of these follow from; the rest of their params is what the outputs are held against."""


def keys(graph_: dict[str, Node]) -> dict[str, str]:
    """Keys as the store would give them if every step's output followed from its key, or from what it is made of."""
    found: dict[str, str] = {}
    outputs: dict[str, str] = {}
    for name, node in graph_.items():
        params = node.params
        for of, kept in ((found, params.keys()), (outputs, MADE_OF.get(name, params.keys()))):
            some = {key: params[key] for key in kept}
            of[name] = sha256(
                canonical_json([node.step.name, node.step.code, some, {r: outputs[r] for r in node.reads}])
            )
    return found


def changed(*overrides: str, pins: dict[str, str] | None = None) -> set[str]:
    before, after = keys(nodes()), keys(nodes(*overrides, pins=pins))
    return {name for name in after if before.get(name) != after[name]}


def test_every_step_has_one_job_and_every_job_a_step() -> None:
    assert {p.stem.replace("_", "-") for p in JOBS.glob("[!_]*.py")} == set(STEPS)


@pytest.mark.parametrize(
    "overrides", [(), ("base.source=b", "activations.shards=3", "shift.shards=2", "untrained=false")]
)
def test_inputs_come_before_their_readers(overrides: tuple[str, ...]) -> None:
    seen: set[str] = set()
    for name, node in nodes(*overrides).items():
        assert {*node.reads, *node.after} <= seen, name
        seen.add(name)
    assert list(nodes(*overrides))[-1] == "report"


def test_a_new_reader_reads_the_answers_of_an_endpoint_anew_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    before = [keys(nodes(*engine)) for engine in ((), API)]
    monkeypatch.setattr("prefprobe.study.graph.READING", 99)
    local, api = (
        {name for name in old if old[name] != new[name]}
        for old, new in zip(before, (keys(nodes(*engine)) for engine in ((), API)), strict=True)
    )
    assert local == set()
    assert {"measure.train", "measure.eval", "shift-measure.0"} <= api
    assert not any(name.startswith(("tasks", "topics", "extract", "embed")) for name in api)


@pytest.mark.parametrize("engine", [(), API])
def test_nothing_is_spent_before_the_topics_are_known_and_no_choice_before_the_activations(
    engine: tuple[str, ...],
) -> None:
    of = nodes("base.source=b", "activations.shards=3", "shift.shards=2", *engine)
    before: dict[str, set[str]] = {}
    for name, node in of.items():
        before[name] = {b for n in (*node.reads, *node.after) for b in (n, *before[n])}
    assert {name for name in of if "topics" not in before[name]} == {"tasks", "topics"}
    order = [node.step.name for node in of.values()]
    assert order.index("measure") > max(i for i, step in enumerate(order) if step == "extract")


def test_what_only_comes_before_is_in_no_key() -> None:
    assert {n for n, node in nodes().items() if node.after} >= {"measure.train", "extract.model.0", "embed.minilm"}
    assert changed("topics.min_tasks=5") == {
        name for name in nodes() if name.startswith(("topics", "probe", "hoo", "content", "shift", "report"))
    }


def test_a_step_that_comes_after_another_is_refused_until_that_is_done(tmp_path: Path) -> None:
    run = Run(ObjectStore.open(str(tmp_path)), "r", load_config(PRESETS / "demo.yaml"), Pins())
    with pytest.raises(InputMissing, match=r"^embed\.minilm\.shift comes after topics, which is not in the store; run"):
        run.execute(run.nodes["embed.minilm.shift"], Progress())
    with pytest.raises(InputMissing, match=r"^measure\.train reads tasks, which is not in the store"):
        run.execute(run.nodes["measure.train"], Progress())


def test_shards_and_base_appear_in_the_graph() -> None:
    names = set(nodes("base.source=b", "activations.shards=2"))
    assert {"extract.model.0", "extract.model.1", "extract.base.0", "extract.base.1", "probe.base", "hoo.base"} <= names
    assert nodes("activations.shards=2")["probe.model"].reads[-2:] == ("extract.model.0", "extract.model.1")


def test_a_changed_setting_makes_new_only_what_depends_on_it() -> None:
    assert changed("probes.holdout=2") == {n for n in nodes() if n.startswith("hoo")} | {"topics", "report"}
    assert changed("shift.comparisons=9") == {"topics", "shift-measure.0", "shift", "report"}
    shifted = {"shift-measure.0", "shift-score.0", "embed.minilm.shift", "shift"}
    assert changed("shift.neutral=[]") == {"tasks", "report"} | shifted  # `tasks` holds prompts against the context
    fractions = changed("activations.fractions=[0.5]")
    assert "measure.train" not in fractions
    assert "probe.minilm" not in fractions
    assert {"extract.model.0", "probe.model", "hoo.model", "shift-score.0", "shift", "report"} <= fractions
    assert "extract.model.0" not in changed("choices.temperature=0.5")
    assert changed("name=other") == {"report"}


def test_further_positions_come_out_of_the_same_nodes_and_defaults_are_in_no_key() -> None:
    plain = nodes("activations.positions=[last]", "activations.dtype=float32")
    assert keys(plain) == keys(nodes())
    of = nodes("activations.positions=[last, task-last, turn:-5]", "base.source=b")
    assert {n for n in of if n.startswith("extract.")} == {f"extract.{n}.0" for n in ("model", "base", "untrained")}
    assert of["probe.model-turn-5"].reads[-1] == of["probe.model"].reads[-1] == "extract.model.0"
    assert "hoo.model-task-last" in of
    further = changed("activations.positions=[last, mean]")
    assert {"extract.model.0", "probe.model-mean", "hoo.model-mean", "report"} <= further
    assert not {"extract.untrained.0", "measure.train", "embed.minilm"} & further
    params = nodes("activations.positions=[last, mean]")["shift-score.0"].params
    assert params == nodes()["shift-score.0"].params  # a probe of the first position scores, as before
    other = changed("activations.positions=[mean]")
    assert {"extract.model.0", "extract.untrained.0", "shift-score.0"} <= other
    assert {"extract.untrained.0", "shift-score.0"} <= changed("activations.dtype=float16")


def test_another_part_of_the_experiments_is_another_key_and_none_is_that_of_before() -> None:
    """The demo runs a part; a preset without the setting has the keys that it had before there was one."""
    new = changed("shift.subset={prompts: 6, tasks: 6}")
    assert new >= {"tasks", "shift-measure.0", "shift-score.0", "embed.minilm.shift", "shift", "report"}
    assert "subset" not in nodes("shift.subset=null")["shift-measure.0"].params
    assert nodes()["shift-score.0"].params["subset"] == {"prompts": 8, "tasks": 10}


def test_new_weights_new_tasks_and_new_seed_make_everything_new_that_saw_them() -> None:
    assert not changed(pins={"model": "other"}) & {"topics", "embed.minilm", "embed.minilm.shift"}
    assert "tasks" in changed(pins={"model": "other"})  # prompts are held against the context of another model
    assert {"measure.train", "extract.model.0", "extract.untrained.0"} <= changed(pins={"model": "other"})
    assert changed(pins={"tasks.0": "other"}) == set(nodes()) - {"embed.minilm.shift"}
    assert "tasks" in changed("seed=1")


@pytest.mark.parametrize(
    "override", ["model.date=2026-02-03", "model.template={enable_thinking: false}", "model.quantisation=4bit"]
)
def test_another_prompt_is_another_key_wherever_the_model_reads_one(override: str) -> None:
    new = changed(override)
    assert {"measure.train", "extract.model.0", "extract.untrained.0", "shift-measure.0", "shift-score.0"} <= new
    assert "embed.minilm.shift" not in new
    assert "tasks" in new  # other tokens are held against the context; the tasks that come out of it may be the same
    of_base = changed("base.source=b", override.replace("model.", "base.", 1))
    assert "extract.model.0" not in of_base
    plain, dated = (keys(nodes("base.source=b", *more)) for more in ((), (override.replace("model.", "base.", 1),)))
    assert plain["extract.base.0"] != dated["extract.base.0"]


def test_how_many_gpus_a_model_is_on_is_in_no_key_but_the_reports() -> None:
    assert changed("model.devices=2") == {"report"}
    assert changed("model.devices=null", "model.quantisation=null") == set()


def test_paths_of_a_machine_are_in_no_key_but_the_reports() -> None:
    moved = changed("model.source=/elsewhere/model", "tasks.sources=[demo]")
    assert moved == {"report"}


@pytest.mark.parametrize("key", ["tastes.yaml", "in/my.tastes.yaml"])
def test_an_experiment_in_the_store_is_pinned_under_the_name_that_keys_know_it_by(tmp_path: Path, key: str) -> None:
    store = ObjectStore.open(str(tmp_path))
    store.put(key, b"any: bytes\n")
    (tmp_path / "weights.safetensors").write_bytes(b"")
    overrides = [f"model.source={tmp_path}", f"shift.experiments=[category, 'store:{key}']"]
    config = load_config(PRESETS / "demo.yaml", overrides).model_copy(update={"encoders": {}})
    nodes_ = graph(config, pin_sources(config, store), "r")
    assert nodes_["shift"].params["experiments"][Path(key).stem] == sha256(b"any: bytes\n")


def test_a_whole_id_is_that_node_alone_and_a_part_of_it_all_nodes_below(tmp_path: Path) -> None:
    config = load_config(PRESETS / "demo.yaml", ["activations.shards=2", "base.source=b"])
    run = Run(ObjectStore.open(str(tmp_path)), "r", config, Pins())
    assert [n.id for n in run.select("embed.minilm")] == ["embed.minilm"]
    assert [n.id for n in run.select("embed")] == ["embed.minilm", "embed.random", "embed.minilm.shift"]
    assert [n.id for n in run.select("extract.model")] == ["extract.model.0", "extract.model.1"]
    assert [n.id for n in run.select("extract", 1)] == ["extract.model.1", "extract.base.1", "extract.untrained.1"]


def test_an_encoder_that_takes_torch_has_keys_and_a_template_of_its_own() -> None:
    with_torch = Pins({"encoder.minilm.torch": "sentence-transformers"})
    assert changed(pins=with_torch) == {name for name in keys(nodes()) if "minilm" in name} | {
        "content",
        "shift",
        "report",
    }
    of = nodes(pins=with_torch)
    assert {name for name, node in of.items() if node.template == "embed-torch"} == {
        "embed.minilm",
        "embed.minilm.shift",
    }
