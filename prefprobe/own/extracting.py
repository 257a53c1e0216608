"""`prefprobe extract`: activations of a model at one position of prompts in a file, as `prefprobe probe` reads them."""

import datetime
import fcntl
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from prefprobe import __version__
from prefprobe.errors import BadConfig, TemporaryFailure
from prefprobe.progress import Progress
from prefprobe.records import Columns, Record, read_records
from prefprobe.settings.activations import POSITION, Dtype
from prefprobe.settings.model import DATE, NOT_MERGED, Device, Quantisation, templates_own
from prefprobe.sources import local_path, source_revision
from prefprobe.store.formats import write_npz
from prefprobe.store.keys import canonical_json, input_key, sha256
from prefprobe.store.new_files import require_new_file
from prefprobe.store.objects import ObjectStore
from prefprobe.store.steps import StepStore, cas_key
from prefprobe.tasks.pool import task_text, text_id

_PROMPTS = Columns("prompts", ("id", "task_id", "text"), "every prompt `id` (or `task_id`) and `text`", lines="text")
_JOINED = "joined.npz"


@dataclass(frozen=True)
class Asked:
    """What of a model is asked for."""

    model: str
    """Hub id, local folder, GGUF file, or package:NAME/PATH."""
    revision: str | None = None
    dtype: Dtype = "float32"
    """Of weights and passes."""
    adapter: str | None = None
    """A LoRA adapter that is merged at load: hub id or local folder."""
    adapter_revision: str | None = None
    quantisation: Quantisation | None = None
    device: Device = "auto"
    devices: int | None = None
    """GPUs over which the blocks are divided."""
    chat: bool = True
    template: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the chat template."""
    date: datetime.date | None = None
    """What the chat template prints as today's; a study's if None."""
    layers: Sequence[int] | None = None
    position: str = "last"
    system: str | None = None
    save_as: Dtype = "float32"
    """Of the vectors that are kept."""
    part: int = 512
    """Prompts between two saves."""


def extract_prompts(asked: Asked, tasks: Path, out: Path) -> str:
    """Write the new file `out`: `task_ids` (n,), `layer_<L>` (n, d), rows as in the file `tasks`, and how they were made.

    Parts are kept in a folder beside it until all is there, and the same call goes on from them. Returns a sentence. Raises
    BadConfig for bad input and for a file that is there, and what loading and extraction raise.
    """
    require_new_file(out, ".npz")
    _require_possible(asked)
    prompts = read_prompts(tasks)
    folder = out.resolve().with_name(f".{out.name}.parts")
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    with _held(folder, out):
        try:
            require_new_file(out, ".npz")  # which another process may have written by now
            about = _extracted(asked, prompts, folder)
            (folder / _JOINED).rename(out)
        except BaseException:
            with suppress(OSError):  # parts are kept, and nothing is left of a command that saved none
                for each in [folder, *made[1:]]:
                    each.rmdir()
            raise
        shutil.rmtree(folder)
    layers = ", ".join(map(str, about["layers"]))
    said = "1 prompt" if len(prompts) == 1 else f"{len(prompts)} prompts"
    return f"{said}, layers {layers} of {about['n_layers']}, width {about['d']}: {out}"


@contextmanager
def _held(folder: Path, out: Path) -> Iterator[None]:
    """The folder of parts, made if need be, for this process alone; the lock ends with the process, however it ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        opened = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise BadConfig(f"{out}: cannot be written ({error.strerror}); name a new file elsewhere.") from error
    try:
        with suppress(OSError):  # some file systems know no locks
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise TemporaryFailure(
                    f"{out}: another process is extracting into it; wait for that, or write into another file."
                ) from None
        yield
    finally:
        os.close(opened)


def read_prompts(path: Path) -> dict[str, str]:
    """{id: text} in the order of the file; in a text file every line is a prompt, whose id is made of its text."""
    found: dict[str, str] = {}
    seen: dict[str, Record] = {}
    for record in read_records(path, _PROMPTS):
        text = task_text(record, "text")
        id_ = text_id(text) if path.suffix == ".txt" else record.task_id("task_id" if "task_id" in record else "id")
        if id_ in seen:
            raise BadConfig(
                f"{record.where}: {'this prompt' if path.suffix == '.txt' else f'the id {id_!r}'} stands already in "
                f"{seen[id_].where}; remove one."
            )
        found[id_], seen[id_] = text, record
    return found


def _require_possible(asked: Asked) -> None:
    """Before anything is read: no position that there is not, and no options that exclude each other."""
    if not re.fullmatch(POSITION, asked.position):
        raise BadConfig(
            f"--position {asked.position}: expected last, task-last, mean or turn:-3 and the like; correct it."
        )
    if asked.revision is not None and local_path(asked.model) is not None:
        raise BadConfig(
            f"--revision {asked.revision}: {asked.model} is on this machine, and no model of the hub; leave it out."
        )
    for option, value in (("template", asked.template), ("date", asked.date)):
        if value and not asked.chat:
            raise BadConfig(f"--{option}: is for the chat template, and --no-chat uses none; leave one of them out.")
    try:
        templates_own(dict(asked.template))
    except ValueError as error:
        raise BadConfig(f"--template: {error}; leave it out.") from error
    if asked.adapter is not None and asked.quantisation is not None:
        raise BadConfig(f"--quantisation {asked.quantisation} with --adapter: {NOT_MERGED}.")
    if asked.adapter is None and asked.adapter_revision is not None:
        raise BadConfig(f"--adapter-revision {asked.adapter_revision}: there is no adapter; name it with --adapter.")
    if asked.devices is not None and asked.device == "cpu":
        raise BadConfig(
            f"--devices {asked.devices}: is a number of GPUs, and --device cpu uses none; leave one of them out."
        )


def _extracted(asked: Asked, prompts: dict[str, str], folder: Path) -> dict[str, Any]:
    """Write all parts and the joined file into the folder. Returns what is said of it."""
    # sources that are not there are refused before torch comes in
    revision = source_revision(asked.model, asked.revision)
    merged = None if asked.adapter is None else source_revision(asked.adapter, asked.adapter_revision)
    from prefprobe.activations.extraction import ALONE, extract, known_layers
    from prefprobe.activations.loading import load_model

    progress = Progress()
    with progress.catching_signals(), progress.step("extract"):
        model = load_model(
            asked.model,
            revision=revision,
            adapter=asked.adapter,
            adapter_revision=merged,
            dtype=asked.dtype,
            device=asked.device,
            devices=asked.devices,
            quantisation=asked.quantisation,
            chat=asked.chat,
            template=asked.template,
            date=asked.date or DATE,
        )
        layers = known_layers(model, asked.layers)
        about: dict[str, Any] = {
            "model": asked.model,
            "revision": revision,
            "dtype": asked.dtype,
            "layers": layers,
            "n_layers": model.n_layers,
            "d": model.width,
            "family": model.family,
            "position": asked.position,
            "system": asked.system,
            "prompt": model.prompts.describe(),
            "version": __version__,
        }
        given = {"adapter": asked.adapter, "adapter_revision": merged, "quantisation": asked.quantisation}
        about |= {name: value for name, value in given.items() if value is not None}
        named: dict[str, Any] = {"model": None} | (
            {} if merged is None else {"adapter": None}
        )  # their revisions say it
        named |= {"template": asked.template} if asked.template else {}
        named |= {"date": asked.date.isoformat()} if asked.date else {}
        params = {"asked": about | {"prompt": asked.chat} | named, "save_as": asked.save_as, "part": asked.part}
        key = input_key("extract", __version__, params, {"prompts": sha256(canonical_json(list(prompts.items())))})
        store = StepStore(ObjectStore.open(str(folder)), "extract", key, {})
        rows = [(id_, text, asked.system) for id_, text in prompts.items()]
        parts = extract(
            model, rows, layers, store, asked.part, progress, positions=[asked.position], dtype=asked.save_as
        )
    about["alone"] = ALONE in store.parts()
    files = [folder / cas_key(part.digest) for part in parts.values()]
    try:
        with (folder / _JOINED).open("wb") as file:
            write_npz(file, _joined(files, list(prompts), {"about": np.array(canonical_json(about).decode())}))
    except OSError as error:
        raise TemporaryFailure(
            f"{folder / _JOINED}: cannot be written ({error.strerror}); all parts are saved, and the same command goes on "
            "from there."
        ) from error
    return about


def _joined(files: Sequence[Path], ids: Sequence[str], more: dict[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of all parts, by name, with rows as `ids`; one is in memory at a time."""
    place = {id_: row for row, id_ in enumerate(ids)}
    opened = [np.load(file, allow_pickle=False) for file in files]
    rows = [np.array([place[str(id_)] for id_ in part["task_ids"]]) for part in opened]
    arrays = sorted(set(opened[0].files) - {"task_ids"})
    for name in sorted({*arrays, *more, "task_ids"}):
        if name in more:
            yield name, more[name]
        elif name == "task_ids":
            yield name, np.array(ids)
        else:
            first = opened[0][name]
            whole = np.empty((len(ids), *first.shape[1:]), first.dtype)
            for part, at in zip(opened, rows, strict=True):
                whole[at] = part[name]
            yield name, whole
