"""Copies Python and an environment, with every library that they load, into an empty root: `python3 runtime.py VENV ROOT`.

The CPU base is that root and nothing else: no shell, no package manager, and a tenth of what a distribution's image
weighs. Paths stay what they are, symbolic links included.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

# folders and modules of the standard library; the last ones bring libraries with them
UNUSED = {"__pycache__", "site-packages", "dist-packages", "test", "idlelib", "turtledemo", "ensurepip", "lib2to3"}
UNUSED |= {"pydoc_data", "distutils", "tkinter", "_tkinter", "nis", "readline", "curses", "_curses", "_curses_panel"}
UNUSED |= {"dbm", "_dbm", "_gdbm", "sqlite3", "_sqlite3"}
UNUSED |= {"config-3"}  # config-3.12-x86_64-linux-gnu, what only compilers read: with Debian's headers 24 MB
ETC = ("ld.so.cache", "nsswitch.conf", "os-release", "ssl/certs/ca-certificates.crt")
LOADED = re.compile(r"(/\S+) \(0x[0-9a-f]+\)")
MISSING = re.compile(r"(\S+) => not found")


def take(path: Path, root: Path) -> None:
    """Copy a file, a folder or a link with what it leads to, and the links on the way to it."""
    for part in [*reversed(path.parents), path]:
        new = root / part.relative_to("/")
        if part.is_symlink():
            if not new.is_symlink():
                new.parent.mkdir(parents=True, exist_ok=True)
                new.symlink_to(part.readlink())
            # an absolute link leads away from here, whatever is left of the path
            take(Path(os.path.normpath(part.parent / part.readlink())) / path.relative_to(part), root)
            return
    if path.is_dir():
        new.mkdir(parents=True, exist_ok=True)
        for each in path.iterdir():
            if each.name.split(".")[0] not in UNUSED or each.is_relative_to(sys.argv[1]):
                take(each, root)
    elif path.is_file() and not new.exists():
        new.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, new)


def libraries(root: Path) -> set[Path]:
    """What the dynamic linker loads for the programs and libraries in `root`. Raises LookupError if one is missing."""
    paths = [Path("/") / f.relative_to(root) for f in root.rglob("*") if f.is_file() and not f.is_symlink()]
    binaries = [path for path in paths if _is_elf(path)]
    said = subprocess.run(["ldd", *binaries], capture_output=True, text=True, check=False).stdout  # 1: one is static
    # a library of a wheel may lean on its neighbour, which is found by the path of whoever loads both
    missing = set(MISSING.findall(said)) - {path.name for path in binaries}
    if missing:
        raise LookupError(f"libraries are missing: {', '.join(sorted(missing))}")
    return {Path(path) for path in LOADED.findall(said)}


def _is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


if __name__ == "__main__":
    venv, target = map(Path, sys.argv[1:])
    for path in (venv, Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("platstdlib"))):
        take(path, target)
    for library in libraries(target):
        take(library, target)
    for name in ETC:
        take(Path("/etc") / name, target)
