"""Runs the nodes of a study against a store: whatever has a manifest is a cache hit, whatever has parts goes on from them."""

import importlib
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from prefprobe import __version__
from prefprobe.config import parse_config
from prefprobe.errors import BadConfig, InputMissing
from prefprobe.progress import Progress
from prefprobe.settings import Config
from prefprobe.store.formats import json_bytes, read_json, read_parquet
from prefprobe.store.keys import canonical_json, input_key, sha256
from prefprobe.store.objects import ObjectStore
from prefprobe.store.steps import Manifest, StepStore, read_output
from prefprobe.study.graph import TEMPLATES, Node, graph
from prefprobe.study.job import Job
from prefprobe.study.versions import gpus, versions

if TYPE_CHECKING:
    import pyarrow as pa

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class NodeState:
    """How far a node is."""

    state: Literal["done", "part", "open", "waiting"]
    key: str | None
    """None while an input is missing."""
    parts: int = 0
    seconds: float | None = None
    gpu_seconds: float = 0.0
    """Seconds by the number of GPUs that the step held meanwhile."""


class Run:
    """One study in one store: its nodes, how far each is, and what it has written.

    `Run.open("store", run_id)` gives one that is there, and `table("measure.train", "utilities.parquet")` a table of it.
    """

    def __init__(self, objects: ObjectStore, run_id: str, config: Config, pins: dict[str, str]) -> None:
        self.objects, self.id, self.config, self.pins = objects, run_id, config, pins
        self.nodes = graph(config, pins, run_id)
        self._manifests: dict[str, Manifest] = {}
        self._saved = False

    @classmethod
    def create(cls, store: str, config: Config, run_id: str | None = None) -> "Run":
        """A run of `config`. The same config and sources give the same run id, so that a second start goes on.

        Nothing is written yet. Raises BadConfig if `run_id` is taken by another config.
        """
        from prefprobe.study.pins import pin_sources  # reads encoders and task files, which an open run has done

        objects = ObjectStore.open(store)
        pins = pin_sources(config, objects)
        settings = config.model_dump(mode="json")
        if run_id is None:
            run_id = f"{config.name}-{sha256(canonical_json({'config': settings, 'pins': pins}))[:8]}"
        run = cls(objects, run_id, config, pins)
        saved = run._load()
        if saved is not None and (saved["config"] != settings or saved["pins"] != pins):
            raise BadConfig(
                f"run {run_id} is in the store with another configuration; choose another --run, or leave it out."
            )
        run._saved = saved is not None
        return run

    @classmethod
    def open(cls, store: str, run_id: str) -> "Run":
        """A run that is in the store. Raises InputMissing if there is none."""
        objects = ObjectStore.open(store)
        if objects.size(_record(run_id)) is None:
            known = ", ".join(run_ids(objects)) or "none"
            raise InputMissing(
                f"no run {run_id} in {objects.url} (runs there: {known}); name another --store, or start one with "
                "`prefprobe run`."
            )
        saved = read_json(objects.get(_record(run_id)))
        run = cls(objects, run_id, parse_config(saved["config"], objects.describe(_record(run_id))), saved["pins"])
        run._saved = True
        return run

    def select(self, name: str, shard: int | None = None) -> list[Node]:
        """The nodes of a step, or of a part of it: `extract`, `extract.model`, `extract.model.3`, or a step and a shard.

        A node's whole id is that node alone: `embed.minilm` without `embed.minilm.shift`.
        """
        below = [n for n in self.nodes.values() if n.id.startswith(f"{name}.")]
        found = [self.nodes[name]] if name in self.nodes else below
        if shard is not None:
            found = [n for n in found if n.args.get("shard") == shard]
        if not found:
            at = f" with shard {shard}" if shard is not None else ""
            raise BadConfig(f"there is no step {name}{at} in run {self.id}; its steps are {', '.join(self.nodes)}.")
        return found

    def record(self, node: Node) -> dict[str, Any] | None:
        """What the node's key is made of; None while an input is missing."""
        inputs = {}
        for name in node.reads:
            manifest = self.manifest(self.nodes[name])
            if manifest is None:
                return None
            inputs[name] = manifest.digest(node.unread)
        return {"step": node.step.name, "code": node.step.code, "params": node.params, "inputs": inputs}

    def step_store(self, node: Node) -> StepStore | None:
        """Where the node's parts and manifest are; None while an input is missing."""
        record = self.record(node)
        if record is None:
            return None
        return StepStore(self.objects, node.step.name, input_key(**record), record)

    def manifest(self, node: Node) -> Manifest | None:
        """The node's manifest if it is done."""
        if node.id not in self._manifests:
            store = self.step_store(node)
            found = store.manifest() if store else None
            if found is None:
                return None
            self._manifests[node.id] = found
        return self._manifests[node.id]

    def finished(self, node: str) -> Manifest:
        """The manifest of a node by its id, such as `probe.model`; BadConfig for another id, InputMissing if not done."""
        if node not in self.nodes:
            raise BadConfig(f"there is no node {node} in run {self.id}; its nodes are {', '.join(self.nodes)}.")
        manifest = self.manifest(self.nodes[node])
        if manifest is None:
            raise InputMissing(
                f"{node} is not in the store; run `prefprobe step {node} --run {self.id} --store {self.objects.url}` first."
            )
        return manifest

    def read(self, node: str, name: str) -> bytes:
        """The bytes of a node's output, such as `utilities.parquet`, checked against their digest; raises as `finished`."""
        manifest = self.finished(node)
        if name not in manifest.outputs:
            raise BadConfig(f"{node} has no {name}; its outputs are {', '.join(sorted(manifest.outputs))}.")
        return read_output(self.objects, manifest, name)

    def table(self, node: str, name: str) -> "pa.Table":
        """A Parquet output as an Arrow table, which pandas, Polars and DuckDB read as it is; BadConfig for another file."""
        data = self.read(node, name)
        if not name.endswith(".parquet"):
            raise BadConfig(f"{node}: {name} is no table; read its bytes with `read`.")
        return read_parquet(data)

    def json(self, node: str, name: str) -> Any:
        """A JSON output; BadConfig for another file."""
        data = self.read(node, name)
        if not name.endswith(".json"):
            raise BadConfig(f"{node}: {name} is no JSON; read its bytes with `read`.")
        return read_json(data)

    def left(self) -> list[Node]:
        """The nodes that are not done, in their order; what an open one comes before is open too."""
        found: dict[str, Node] = {}
        for node in self.nodes.values():
            if any(name in found for name in node.reads) or self.manifest(node) is None:
                found[node.id] = node
        return list(found.values())

    def state(self, node: Node) -> NodeState:
        """How far the node is, read from the store."""
        store = self.step_store(node)
        if store is None:
            return NodeState("waiting", None)
        manifest = self.manifest(node)
        if manifest is not None:
            meta = manifest.meta
            return NodeState("done", store.key, seconds=meta.get("seconds"), gpu_seconds=meta.get("gpu_seconds", 0.0))
        parts = len(store.parts())
        return NodeState("part" if parts else "open", store.key, parts)

    def execute(self, node: Node, progress: Progress) -> tuple[Manifest, bool]:
        """Do one node. Returns its manifest and whether it was there already.

        Raises InputMissing naming the step to run first.
        """
        manifest = self.manifest(node)
        if manifest is not None:
            self._save(node, manifest)
            return manifest, True
        missing = next((name for name in (*node.reads, *node.after) if self.manifest(self.nodes[name]) is None), None)
        store = self.step_store(node)
        if missing is not None or store is None:
            verb = "reads" if missing in node.reads else "comes after"
            raise InputMissing(
                f"{node.id} {verb} {missing}, which is not in the store; "
                f"run `prefprobe step {missing} --run {self.id} --store {self.objects.url}` first."
            )
        progress.check_stop()
        started = time.monotonic()
        inputs = {name: self._manifests[name] for name in node.reads}
        job = Job(node, self.config, self.pins, self.id, inputs, store, self.objects, progress)
        outputs = _load_job(node).run(job)
        seconds = time.monotonic() - started
        meta = {"node": node.id, "seconds": round(seconds, 2), "versions": versions()}
        if TEMPLATES[node.template].node == "gpu" and (held := gpus()):
            meta["gpu_seconds"] = round(held * seconds, 2)
        self._manifests[node.id] = store.commit(outputs, meta)
        self._save(node, self._manifests[node.id])
        return self._manifests[node.id], False

    def save(self) -> None:
        """Put the run into the store, so that `open` finds it."""
        if not self._saved:
            self.objects.create(_record(self.id), json_bytes(self._about()))
            self._saved = True

    def _about(self) -> dict[str, Any]:
        settings = self.config.model_dump(mode="json")
        return {"run": self.id, "config": settings, "pins": self.pins, "version": __version__}

    def _load(self) -> dict[str, Any] | None:
        if self.objects.size(_record(self.id)) is None:
            return None
        saved: dict[str, Any] = read_json(self.objects.get(_record(self.id)))
        return saved

    def _save(self, node: Node, manifest: Manifest) -> None:
        # run.json appears with the first result, so that a run that fails on its first input leaves nothing behind; with
        # the report it gets the key of every step, the root of lineage, and the report's files come out of the store
        self.save()
        if node.step.name == "report":
            for name in manifest.outputs:
                if self.objects.size(f"runs/{self.id}/report/{name}") != manifest.outputs[name].size:
                    self.objects.put(f"runs/{self.id}/report/{name}", read_output(self.objects, manifest, name))
            steps = {name: m.key for name, m in sorted(self._manifests.items())}
            if self._load() != {**self._about(), "steps": steps}:
                self.objects.put(_record(self.id), json_bytes({**self._about(), "steps": steps}))


def run_ids(objects: ObjectStore) -> list[str]:
    """The runs in a store, sorted."""
    return sorted(key.split("/")[1] for key in objects.list("runs/") if key.endswith("/run.json"))


def run_nodes(run: Run, nodes: Iterable[Node], progress: Progress) -> float:
    """Run nodes in order, one line for each. Returns seconds."""
    nodes = list(nodes)
    began = time.monotonic()
    width = max(len(n.id) for n in nodes)
    with progress.catching_signals():
        for index, node in enumerate(nodes, 1):
            prefix = f"[{index:>{len(str(len(nodes)))}}/{len(nodes)}] {node.id:<{width}}"
            started = time.monotonic()
            with progress.step(prefix):
                _, cached = run.execute(node, progress)
            progress.line(f"{prefix}  cached" if cached else f"{prefix}  done in {time.monotonic() - started:.1f} s")
    return time.monotonic() - began


def _load_job(node: Node) -> ModuleType:
    name = f"prefprobe.jobs.{node.step.name.replace('-', '_')}"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise BadConfig(
            f"{node.id}: this image does not carry the step {node.step.name}; run it in prefprobe-{node.template}."
        ) from error


def _record(run_id: str) -> str:
    if not _RUN_ID.fullmatch(run_id):
        raise BadConfig(
            f"{run_id!r} is no name of a run; use letters, digits, and - . _ after the first, as in demo-2."
        )
    return f"runs/{run_id}/run.json"
