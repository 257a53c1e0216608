"""Results of a command as files that were not there before: all of them, or none."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from prefprobe.errors import BadConfig


def require_new_folder(out: Path) -> None:
    """Raises BadConfig for a folder that is not new or empty: before the work, so that none of it is lost."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadConfig(f"{out} exists and is not an empty folder; write into a new folder.")


def require_new_file(out: Path, suffix: str) -> None:
    """Raises BadConfig for a file that exists, or that does not end in `suffix`."""
    if out.suffix != suffix:
        raise BadConfig(f"{out}: what is written is {suffix}, expected a name that ends so; name the file {suffix}.")
    if out.exists():
        raise BadConfig(f"{out} exists; write into a new file.")


def write_folder(files: Mapping[str, bytes], out: Path) -> None:
    """Write the files into a folder beside `out` and give it that name when all are there. Raises BadConfig."""
    target = out.resolve()
    beside = _beside(target)
    try:
        beside.mkdir(parents=True)
        for name, data in files.items():
            (beside / name).write_bytes(data)
        beside.rename(target)
    except OSError as error:
        shutil.rmtree(beside, ignore_errors=True)
        raise BadConfig(f"{out}: cannot be written ({error.strerror}); name a new folder elsewhere.") from error


def write_file(data: bytes, out: Path) -> None:
    """The same for a single file."""
    target = out.resolve()
    beside = _beside(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(data)
        beside.rename(target)
    except OSError as error:
        if beside.is_file():
            beside.unlink()
        raise BadConfig(f"{out}: cannot be written ({error.strerror}); name a new file elsewhere.") from error


def _beside(target: Path) -> Path:
    return target.with_name(f".{target.name}.{os.getpid()}")
