"""What a step is given: its arguments, its inputs out of the store, and a place for its parts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prefprobe.progress import Progress
from prefprobe.settings import Config
from prefprobe.store.formats import read_json, read_parquet
from prefprobe.store.objects import ObjectStore
from prefprobe.store.steps import Manifest, Output, StepStore, read_output
from prefprobe.study.graph import Node

if TYPE_CHECKING:
    import pyarrow as pa

Outputs = Mapping[str, bytes | Output]
"""What a step returns: the bytes of each output, or a part it has already stored."""


@dataclass(frozen=True)
class Job:
    """One node at work."""

    node: Node
    config: Config
    pins: Mapping[str, str]
    """The content of every source, as the run pinned it."""
    run_id: str
    inputs: Mapping[str, Manifest]
    """Manifests of the nodes this one reads, by node id."""
    store: StepStore
    objects: ObjectStore
    progress: Progress

    @property
    def args(self) -> Mapping[str, Any]:
        """The node's arguments, such as set, features, shard."""
        return self.node.args

    def read(self, node: str, name: str) -> bytes:
        """The bytes of an input, verified against their digest."""
        return read_output(self.objects, self.inputs[node], name)

    def table(self, node: str, name: str) -> "pa.Table":
        """A Parquet input."""
        return read_parquet(self.read(node, name))

    def json(self, node: str, name: str) -> Any:
        """A JSON input."""
        return read_json(self.read(node, name))
