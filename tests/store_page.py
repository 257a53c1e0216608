"""docs/store.md against a store: every file, column, array and key that is in the one must be in the other."""

import csv
import html
import io
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from prefprobe.store.steps import cas_key

PAGE = (Path(__file__).parents[1] / "docs" / "store.md").read_text("utf-8")
_HEADING = re.compile(r"^(##+) (.+)$", re.MULTILINE)
_ROW = re.compile(r"^\| `([^`]+)`([^|]*)\|", re.MULTILINE)
_AS = re.compile(r"^As `([^`]+)`", re.MULTILINE)
_ANYTHING = re.compile(r"<\w+>|\*")
_TYPES = {"double": "float64", "list<element: string>": "list of string"}
_SHAPES = {0: "()", 1: "(d)", 2: "(n, d)", 3: "(a, b, c)", 5: "(a, b, c, d, e)"}

Names = dict[str, str]
"""Column, array or key → its type, "" where the page states none."""


def described(page: str = PAGE) -> dict[str, Names]:
    """What the page says of each file, as "step/file"."""
    parts = _HEADING.split(html.unescape(page))
    files: dict[str, Names] = {}
    alike: dict[str, str] = {}
    step = ""
    for level, title, body in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        if level == "##":
            step = title
            continue
        assert f"{step}/{title}" not in files, f"{step}/{title} stands twice"
        files[f"{step}/{title}"] = {name: kind.strip() for name, kind in _ROW.findall(body)}
        alike |= {f"{step}/{title}": found[1] for found in [_AS.search(body)] if found}
    return {name: files[alike.get(name, name)] | files[name] for name in files}


def differences(files: Iterable[tuple[str, bytes]], page: str = PAGE) -> tuple[list[str], list[str]]:
    """What is in the files and not in the page, and what is in the page and in none of the files."""
    known = described(page)
    missing = {(file, name) for file, names in known.items() for name in ["", *names]}
    unknown = set()
    for path, data in files:
        file = next((f for f in known if _matches(f, path)), None)
        if file is None:
            unknown.add(path)
            continue
        missing.discard((file, ""))
        for name, kind in contents(path, data):
            found = {(file, n) for n, k in known[file].items() if _matches(n, name) and kind in ("", k)}
            missing -= found
            if not found and not (path.endswith(".json") and _within(name, known[file])):
                unknown.add(f"{file}: {name} {kind}".strip())
    return sorted(unknown), sorted(": ".join(filter(None, pair)) for pair in missing)


def contents(path: str, data: bytes) -> Iterator[tuple[str, str]]:
    """Columns, arrays or keys of a file with their types. A key below another is `a.b`, one of a list's objects `a[].b`."""
    if path.endswith(".parquet"):
        yield from ((f.name, _TYPES.get(str(f.type), str(f.type))) for f in pq.read_schema(io.BytesIO(data)))
    elif path.endswith(".npz"):
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            for name in arrays.files:
                array = arrays[name]
                shape = "(n)" if array.dtype.kind == "U" and array.ndim else _SHAPES[array.ndim]
                yield name, f"{'text' if array.dtype.kind == 'U' else array.dtype} {shape}"
    elif path.endswith(".csv"):
        yield from ((column, "") for column in next(csv.reader(io.StringIO(data.decode()))))
    elif path.endswith(".json"):
        yield from ((name, "") for name in _keys(json.loads(data), ""))


def stored(store: Path) -> Iterator[tuple[str, bytes]]:
    """Every file in a store, as the page names it."""

    def read(output: dict[str, Any]) -> bytes:
        return (store / cas_key(output["digest"])).read_bytes()

    for path in sorted(store.glob("steps/*/*/manifest.json")):
        manifest = json.loads(path.read_text())
        yield "Records/manifest.json", path.read_bytes()
        yield from ((f"{manifest['step']}/{name}", read(output)) for name, output in manifest["outputs"].items())
    for path in sorted(store.glob("steps/*/*/parts/*.json")):
        yield f"Parts/{path.stem}", read(json.loads(path.read_text()))
    yield from ((f"Notes/{path.name}", path.read_bytes()) for path in sorted(store.glob("steps/*/*/notes/*")))
    yield from (("Records/run.json", path.read_bytes()) for path in sorted(store.glob("runs/*/run.json")))


def _keys(value: Any, above: str) -> Iterator[str]:
    """Every key at every depth."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield f"{above}.{key}".lstrip(".")
            yield from _keys(inner, f"{above}.{key}".lstrip("."))
    elif isinstance(value, list):
        for inner in value:
            yield from _keys(inner, f"{above}[]")


def _within(name: str, known: Names) -> bool:
    """Whether a key is below one that the page describes as a whole, or above one that it lists."""
    listed = {n[: cut.start()] for n in known for cut in re.finditer(r"\.|\[\]|$", n)}
    above = [name[: cut.start()] for cut in re.finditer(r"\.|\[\]|$", name)]
    nearest = max((n for a in above for n in listed if _matches(n, a)), key=len, default=None)
    if nearest is None:
        return False
    leads_on = any(n.startswith((f"{nearest}.", f"{nearest}[]")) for n in known)
    return _matches(nearest, name) or not leads_on


def _matches(pattern: str, name: str) -> bool:
    """Whether a name of the page, in which `<k>` and `*` stand for anything, is that of a file or key."""
    return re.fullmatch(r"[^/.]+".join(map(re.escape, _ANYTHING.split(pattern))), name) is not None
