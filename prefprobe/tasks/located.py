"""Where the files of a source are: on this machine, in the store, or in a data set repository of the hub at its commit."""

import hashlib
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from prefprobe.errors import BadConfig, InputMissing
from prefprobe.settings import TaskSource
from prefprobe.sources import cached, download, file_digest, hub_commit
from prefprobe.store.objects import ObjectStore
from prefprobe.tasks.files import SUFFIXES
from prefprobe.tasks.pool import source_path


def pin(source: TaskSource, objects: ObjectStore) -> str:
    """What identifies the content of a source: the commit of its repository, or a digest of its files.

    Raises as `local_files` does.
    """
    if source.hub is not None:
        return hub_commit(source.hub, source.revision, "dataset")
    digests = [file_digest(path) for path in local_files(source, objects)]
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()


def fetched(source: TaskSource, pinned: str, objects: ObjectStore) -> list[Path]:
    """The files of a source at its pin; what of them is not in the hub's cache is downloaded, and a cut one goes on.

    Raises what `download` raises, InputMissing if there are none, and BadConfig for local files that are other ones by now.
    """
    if source.hub is None:
        if pin(source, objects) != pinned:
            raise BadConfig(f"{source.path} has changed since the run was started; start a new run.")
        return local_files(source, objects)
    folder = download(source.hub, pinned, _patterns(source), "dataset")
    return _of_folder(folder, source, f"{source.hub}@{pinned[:12]}")


def local_files(source: TaskSource, objects: ObjectStore) -> list[Path]:
    """The files of a source that is a `path`. Raises BadConfig if there is none, InputMissing for a folder without any."""
    path = Path(source.path or "").expanduser()
    if not source.strict and path.is_dir():
        return _of_folder(path, source, str(source.path))
    file = source_path(source.path or "", objects)
    if not source.strict and file.suffix not in SUFFIXES:
        raise BadConfig(f"{source.path}: files of tasks end in {', '.join(SUFFIXES)}; unpack or convert the file.")
    return [file]


def files_here(source: TaskSource, objects: ObjectStore) -> list[Path] | None:
    """The files of a source as far as they are on this machine; None if they are not. The hub is not asked."""
    if source.hub is None:
        return local_files(source, objects)
    folder = cached(source.hub, source.revision, _patterns(source), "dataset")
    return None if folder is None else _of_folder(folder, source, source.hub)


def _patterns(source: TaskSource) -> list[str]:
    return [source.files] if source.files else [f"*{suffix}" for suffix in SUFFIXES]


def _of_folder(folder: Path, source: TaskSource, what: str) -> list[Path]:
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    found = [path for name, path in files.items() if path.suffix in SUFFIXES and _asked(name, source.files)]
    if not found:
        there = ", ".join(list(files)[:6]) or "none"
        raise InputMissing(
            f"{what}: no file matches `{source.files or '*'}` and ends in {', '.join(SUFFIXES)} (files there: {there}); set "
            "`files` of the source."
        )
    kinds = sorted({path.suffix for path in found})
    if len(kinds) > 1 and source.files is None:
        raise BadConfig(
            f"{what}: it holds {' and '.join(kinds)} files; set `files` of the source to those that are meant."
        )
    return found


def _asked(name: str, pattern: str | None) -> bool:
    return pattern is None or fnmatch(name, pattern)


def all_files(sources: Sequence[TaskSource], pins: Sequence[str], objects: ObjectStore) -> list[list[Path]]:
    """`fetched` of every source."""
    return [fetched(source, pinned, objects) for source, pinned in zip(sources, pins, strict=True)]
