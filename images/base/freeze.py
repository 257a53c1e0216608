"""Makes a folder the same bytes in every build: `python3 freeze.py FOLDER [--root ROOT] [--without-sources]`.

Python files get byte code that is valid by declaration, not by the time of its source; then every time of change is
SOURCE_DATE_EPOCH, or 1980 where a layer shall be the same from commit to commit.
"""

import argparse
import compileall
import os
from pathlib import Path
from py_compile import PycInvalidationMode


def compile_all(folder: Path, root: Path | None, sources: bool) -> None:
    """Byte code for each .py file below `folder`, whose paths begin behind `root`; in place of the file if not `sources`."""
    compileall.compile_dir(
        folder,
        quiet=2,  # some packages ship templates and examples that are not Python
        force=True,
        legacy=not sources,
        stripdir=root,
        prependdir="/" if root else None,
        invalidation_mode=PycInvalidationMode.UNCHECKED_HASH,
    )
    if not sources:
        for compiled in folder.rglob("*.pyc"):
            compiled.with_suffix(".py").unlink(missing_ok=True)


def set_times(folder: Path, epoch: int) -> None:
    """Of everything in it, and its own."""
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (epoch, epoch), follow_symlinks=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--without-sources", action="store_true")
    args = parser.parse_args()
    compile_all(args.folder, args.root, not args.without_sources)
    set_times(args.folder, int(os.environ.get("SOURCE_DATE_EPOCH", 315532800)))
