"""Results of steps: bytes by their digest, parts to continue from, and a manifest that is written last.

cas/sha256/ab/<digest>                    immutable bytes
steps/<step>/<key>/parts/<name>.json      pointer to the bytes of a part
steps/<step>/<key>/notes/<name>.json      what one process keeps beside, and replaces as it goes
steps/<step>/<key>/manifest.json          record, outputs and meta of a finished step
"""

import logging
import re
from collections.abc import Container, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Annotated, Any, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from prefprobe.errors import InputMissing, TemporaryFailure
from prefprobe.store.formats import json_bytes
from prefprobe.store.keys import canonical_json, sha256
from prefprobe.store.objects import ObjectStore

_T = TypeVar("_T")
_log = logging.getLogger(__name__)
_READERS, _AHEAD = 16, 256
"""Parts that are read at once, and that are in memory at once."""
STEP = re.compile(r"[a-z][a-z0-9-]*")
KEY = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Output:
    """Bytes in the store."""

    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256."""
    size: Annotated[int, Field(ge=0)]
    """Bytes."""
    schema: str
    """Format, content and version, such as `parquet/choices@1`."""


@dataclass(frozen=True)
class Manifest:
    """What a finished step was given and what it made."""

    step: str
    key: str
    record: dict[str, Any]
    """The parameters and input digests behind the key."""
    outputs: dict[str, Output]
    meta: dict[str, Any]
    """What may differ between two runs with equal outputs: durations, versions, the machine."""

    def digest(self, unread: Container[str] = ()) -> str:
        """SHA-256 of the outputs alone, but for those that are `unread`: the input digest of a later step."""
        return sha256(canonical_json({name: asdict(of) for name, of in self.outputs.items() if name not in unread}))


_OUTPUT = TypeAdapter(Output)
_MANIFEST = TypeAdapter(Manifest)


def cas_key(digest: str) -> str:
    """Where bytes with this digest are."""
    return f"cas/sha256/{digest[:2]}/{digest}"


def schema_of(name: str) -> str:
    """The schema of a file that states none: `choices.parquet` and `choices-0003.parquet` are `parquet/choices@1`."""
    stem, dot, suffix = name.rpartition(".")
    content = re.sub(r"[-_./]\d+$", "", stem if dot else name).rpartition("/")[2]
    return f"{suffix if dot else 'bytes'}/{content}@1"


def put_cas(objects: ObjectStore, data: bytes, schema: str = "bytes@1") -> Output:
    """Store bytes under their digest, unless they are there already in full.

    An object of another size lost its end to a disk and is replaced. Writers who race write the same bytes.
    """
    output = Output(sha256(data), len(data), schema)
    if objects.size(cas_key(output.digest)) != output.size:
        objects.put(cas_key(output.digest), data)
    return output


def read_output(objects: ObjectStore, manifest: Manifest, name: str) -> bytes:
    """The bytes of an output, checked against its digest. Raises InputMissing."""
    if name not in manifest.outputs:
        raise InputMissing(
            f"Step {manifest.step} has no output {name} (it has {', '.join(sorted(manifest.outputs)) or 'none'}): "
            f"see steps/{manifest.step}/{manifest.key}/manifest.json."
        )
    pointer = f"steps/{manifest.step}/{manifest.key}/manifest.json"
    return _verified(objects, manifest.outputs[name], f"output {name} of step {manifest.step}", pointer, manifest.step)


class StepStore:
    """The parts and the manifest of one step under one input key.

    Every method raises what the object store raises, and InputMissing for a stored file that is not what it must be.
    """

    def __init__(self, objects: ObjectStore, step: str, key: str, record: Mapping[str, Any]) -> None:
        if not STEP.fullmatch(step) or not KEY.fullmatch(key):
            raise ValueError(f"{step!r} is not a step or {key!r} is not its key")
        self.objects = objects
        self.step = step
        self.key = key
        self.record = dict(record)
        self._base = f"steps/{step}/{key}"
        self._manifest_key = f"{self._base}/manifest.json"

    def manifest(self) -> Manifest | None:
        """The manifest, None while the step is not finished or when an output is absent or not of its size."""
        manifest = self._stored_manifest()
        return manifest if manifest is not None and self._complete(manifest) else None

    def parts(self) -> dict[str, Output]:
        """All parts by their names, sorted."""
        start = len(f"{self._base}/parts/")
        pointers = [key for key in self.objects.list(f"{self._base}/parts") if key.endswith(".json")]
        names = sorted(key[start : -len(".json")] for key in pointers)
        return {name: self._pointer(name) for name in names}

    def write_part(self, name: str, data: bytes) -> Output:
        """Keep a part. The first writer of a name wins: if that was another, its part is returned, not this one."""
        mine = put_cas(self.objects, data, schema_of(name))
        if self.objects.create(self._pointer_key(name), json_bytes(asdict(mine))):
            return mine
        first = self._pointer(name)
        if first.digest != mine.digest:
            _log.warning("Part %s of step %s was already written with other bytes; the first is kept.", name, self.step)
        return first

    def read_part(self, name: str) -> bytes:
        """The bytes of a part, checked against its digest."""
        pointer = self._pointer_key(name)
        return _verified(self.objects, self._pointer(name), f"part {name} of step {self.step}", pointer, self.step)

    def read_parts(self, kind: str) -> Iterator[bytes]:
        """The bytes of the parts whose names begin with `kind`, in the order of their names; many are read at once."""
        start = f"{self._base}/parts/"
        keys = [key for key in self.objects.list(start) if key.endswith(".json")]
        names = [key[len(start) : -len(".json")] for key in keys if key.startswith(f"{start}{kind}")]
        with ThreadPoolExecutor(_READERS) as pool:
            for at in range(0, len(names), _AHEAD):
                yield from pool.map(self.read_part, names[at : at + _AHEAD])

    def note(self, name: str, data: bytes) -> None:
        """Keep a note under a name that no other process writes to; it replaces the one before."""
        self.objects.put(self._note_key(name), data)

    def notes(self) -> dict[str, bytes]:
        """The notes of all processes by their names, sorted."""
        start = f"{self._base}/notes/"
        return {key[len(start) : -len(".json")]: self.objects.get(key) for key in self.objects.list(start)}

    def describe_note(self, name: str) -> str:
        """Where a note is, for messages."""
        return self.objects.describe(self._note_key(name))

    def commit(self, outputs: Mapping[str, bytes | Output], meta: Mapping[str, Any]) -> Manifest:
        """Store the outputs (bytes, or what `write_part` and `put_cas` returned), then the manifest, and return it.

        When another writer was first, its manifest is returned; one whose outputs are lost is replaced.
        """
        stored = {name: self._stored_output(name, value) for name, value in sorted(outputs.items())}
        document = {
            "step": self.step,
            "key": self.key,
            "record": self.record,
            "outputs": {name: asdict(output) for name, output in stored.items()},
            "meta": dict(meta),
        }
        data = json_bytes(document)
        mine = self._parse_manifest(data)
        if self.objects.create(self._manifest_key, data):
            return mine
        first = self._stored_manifest()
        if first is None:
            raise TemporaryFailure(
                f"{self.objects.describe(self._manifest_key)} was deleted while it was read: run again."
            )
        if first.outputs == mine.outputs:
            return first
        if not self._complete(first):
            _log.warning("Step %s %s had lost outputs and has new ones.", self.step, self.key)
            self.objects.put(self._manifest_key, data)
            return mine
        names = sorted(n for n in first.outputs | mine.outputs if first.outputs.get(n) != mine.outputs.get(n))
        _log.warning("Step %s %s was finished with other %s; the first is kept.", self.step, self.key, ", ".join(names))
        return first

    def _complete(self, manifest: Manifest) -> bool:
        outputs = manifest.outputs.values()
        if len(outputs) < _READERS:
            return all(map(self._is_there, outputs))
        # of a large study hundreds of parts, which every later step looks for
        with ThreadPoolExecutor(_READERS) as pool:
            return all(pool.map(self._is_there, outputs))

    def _is_there(self, output: Output) -> bool:
        return self.objects.size(cas_key(output.digest)) == output.size

    def _stored_output(self, name: str, value: bytes | Output) -> Output:
        if isinstance(value, bytes):
            return put_cas(self.objects, value, schema_of(name))
        found = self.objects.size(cas_key(value.digest))
        if found != value.size:
            raise InputMissing(
                f"{self.objects.describe(cas_key(value.digest))} (output {name} of step {self.step}) is "
                f"{'absent' if found is None else f'{found} bytes'}, expected {value.size} bytes: delete it and the "
                f"part in {self.objects.describe(self._base)}/parts that names it, then run the step again."
            )
        return value

    def _stored_manifest(self) -> Manifest | None:
        try:
            data = self.objects.get(self._manifest_key)
        except InputMissing:
            return None
        return self._parse_manifest(data)

    def _parse_manifest(self, data: bytes) -> Manifest:
        manifest = self._parsed(_MANIFEST, self._manifest_key, data)
        if (manifest.step, manifest.key) != (self.step, self.key):
            raise self._malformed(self._manifest_key)
        return manifest

    def _pointer_key(self, name: str) -> str:
        return f"{self._base}/parts/{name}.json"

    def _note_key(self, name: str) -> str:
        return f"{self._base}/notes/{name}.json"

    def _pointer(self, name: str) -> Output:
        return self._parsed(_OUTPUT, self._pointer_key(name), self.objects.get(self._pointer_key(name)))

    def _parsed(self, adapter: TypeAdapter[_T], key: str, data: bytes) -> _T:
        try:
            return adapter.validate_json(data, strict=True)
        except ValidationError:
            raise self._malformed(key) from None

    def _malformed(self, key: str) -> InputMissing:
        return InputMissing(
            f"{self.objects.describe(key)} is not what step {self.step} wrote: "
            f"delete it and run the step {self.step} again."
        )


def _verified(objects: ObjectStore, output: Output, what: str, pointer: str, step: str) -> bytes:
    key = cas_key(output.digest)
    try:
        data = objects.get(key)
    except InputMissing:
        found = "absent"
    else:
        if sha256(data) == output.digest and len(data) == output.size:
            return data
        found = f"{len(data)} bytes" + (" with another digest" if len(data) == output.size else "")
    raise InputMissing(
        f"{objects.describe(key)} ({what}) is {found}, expected {output.size} bytes with that digest: "
        f"delete it and {objects.describe(pointer)}, then run the step {step} again."
    )
