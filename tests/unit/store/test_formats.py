"""Keys and files whose bytes depend on content alone."""

import io
import json
import subprocess
import sys
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefprobe.store.formats import json_bytes, npz_bytes, parquet_bytes, read_json, read_npz, read_parquet
from prefprobe.store.keys import canonical_json, input_key, sha256

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
LEAVES = st.none() | st.booleans() | st.integers() | FLOATS | st.text(st.characters())
VALUES = st.recursive(LEAVES, lambda v: st.lists(v) | st.dictionaries(st.text(), v), max_leaves=20)
# A line separator that some readers take for the end of a line, half a pair of surrogates, and a zero byte.
ODD = "a\u2028b\u2029c\x85d\ud800 \x00é"

# Prints the digests of one file of each kind; sets iterate in another order in every process.
PROGRAM = """
import numpy as np, pyarrow as pa
from prefprobe.store.formats import json_bytes, npz_bytes, parquet_bytes
from prefprobe.store.keys import input_key, sha256
names = {"mu", "sigma", "se", "task", "topic", "origin"}
print(sha256(json_bytes({n: [0.1, len(n)] for n in names})))
print(sha256(npz_bytes({n: np.arange(len(n), dtype=np.float32) for n in names})))
print(sha256(parquet_bytes(pa.table({"x": np.arange(5) / 3, "s": pa.array(list("abcab")).dictionary_encode()}))))
print(input_key("probe", 1, {n: n for n in names}, {n: n for n in names}))
"""


def tables() -> pa.Table:
    ids = [f"t{i:04d}" for i in range(3000)]
    mu = np.random.default_rng(1).normal(size=3000)
    return pa.table({"task_id": ids, "mu": mu, "topic": pa.array([None, "math", ODD[:7]] * 1000)})


def test_two_processes_write_the_same_bytes() -> None:
    runs = [subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True) for _ in "12"]
    assert runs[0].stdout == runs[1].stdout
    assert len(set(runs[0].stdout.split())) == 4


@given(VALUES)
def test_canonical_json_is_one_text(value: object) -> None:
    data = canonical_json(value)
    assert canonical_json(json.loads(data)) == data
    assert canonical_json(read_json(json_bytes(value))) == data
    assert json_bytes(read_json(json_bytes(value))) == json_bytes(value)


def test_canonical_json_text() -> None:
    assert canonical_json({"b": [1, 1.0, 0.1, 1e300, True, None], "a": "\u2028é"}) == (
        b'{"a":"\\u2028\\u00e9","b":[1,1.0,0.1,1e+300,true,null]}'
    )
    assert canonical_json({"a": 1, "b": 2}) == canonical_json({"b": 2, "a": 1})
    assert canonical_json((1, 2)) == canonical_json([1, 2])


@pytest.mark.parametrize("write", [canonical_json, json_bytes])
def test_json_refuses_what_it_would_change(write: object) -> None:
    assert callable(write)
    for bad in (float("nan"), float("inf"), {"a": [float("-inf")]}):
        with pytest.raises(ValueError, match="not JSON compliant"):
            write(bad)
    for other in ({3: 1}, {"a": [{None: 1}]}, {"a"}, b"bytes", np.int64(1)):
        with pytest.raises(TypeError):
            write(other)


def test_json_bytes_are_lines_of_ascii() -> None:
    data = json_bytes({"b": ODD, "a": [1, {"c": 0.5}]})
    assert data.isascii()
    assert data.endswith(b"}\n")
    assert len(data.decode().splitlines()) == data.count(b"\n")
    assert read_json(data) == {"b": ODD, "a": [1, {"c": 0.5}]}
    assert list(read_json(data)) == ["a", "b"]


@pytest.mark.parametrize("text", [b"NaN", b'{"a": Infinity}', b"[-Infinity]", b"{", b"", b"{} {}"])
def test_read_json_refuses(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"JSON has no value|Expecting|Extra data"):
        read_json(text)


def test_input_key_depends_on_each_argument() -> None:
    base = input_key("probe", 1, {"alphas": [0.1], "seed": 1}, {"tasks": "d1", "utilities": "d2"})
    assert base == input_key("probe", 1, {"seed": 1, "alphas": (0.1,)}, {"utilities": "d2", "tasks": "d1"})
    others = [
        input_key("hoo", 1, {"alphas": [0.1], "seed": 1}, {"tasks": "d1", "utilities": "d2"}),
        input_key("probe", 2, {"alphas": [0.1], "seed": 1}, {"tasks": "d1", "utilities": "d2"}),
        input_key("probe", "1", {"alphas": [0.1], "seed": 1}, {"tasks": "d1", "utilities": "d2"}),
        input_key("probe", 1, {"alphas": [0.1 + 1e-16], "seed": 2}, {"tasks": "d1", "utilities": "d2"}),
        input_key("probe", 1, {"alphas": [0.1], "seed": 1}, {"tasks": "d2", "utilities": "d1"}),
        input_key("probe", 1, {"alphas": [0.1], "seed": 1}, {"tasks": "d1"}),
    ]
    assert len({base, *others}) == 7
    assert base == sha256(
        b'{"code":1,"inputs":{"tasks":"d1","utilities":"d2"},"params":{"alphas":[0.1],"seed":1},"step":"probe"}'
    )


def test_parquet_does_not_depend_on_chunks_or_metadata() -> None:
    table = tables()
    data = parquet_bytes(table)
    halves = pa.concat_tables([table.slice(0, 1234), table.slice(1234)])
    assert halves.column("mu").num_chunks == 2
    assert parquet_bytes(halves) == data
    assert parquet_bytes(table.replace_schema_metadata({"pandas": "{}"})) == data
    assert parquet_bytes(table.slice(1)) != data
    assert read_parquet(data).equals(table)


def test_parquet_of_many_pages_does_not_depend_on_chunks() -> None:
    table = pa.table({"text": [f"text {i} " * (i % 17) for i in range(100_000)]})
    pieces = pa.concat_tables([table.slice(0, 1), table.slice(1, 1233), table.slice(1234)])
    assert parquet_bytes(pieces) == parquet_bytes(table)
    words = [pa.array(list(text)).dictionary_encode() for text in ("ab", "bc", "abbc")]
    chunked = pa.table({"word": pa.chunked_array(words[:2])})
    assert parquet_bytes(chunked) == parquet_bytes(pa.table({"word": words[2]}))


def test_parquet_file_states_its_columns_alone() -> None:
    data = parquet_bytes(tables().replace_schema_metadata({"pandas": "{}"}))
    file = pq.ParquetFile(io.BytesIO(data))
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    assert b"pandas" not in file.metadata.metadata
    assert (file.num_row_groups, file.metadata.num_rows) == (1, 3000)


@pytest.mark.parametrize("rows", [0, 1])
def test_parquet_keeps_types_of_small_tables(rows: int) -> None:
    schema = pa.schema([("id", pa.string()), ("round", pa.int32()), ("on", pa.bool_()), ("x", pa.float64())])
    table = pa.Table.from_pylist([{"id": "a", "round": 1, "on": True, "x": float("nan")}] * rows, schema=schema)
    assert read_parquet(parquet_bytes(table)).schema == schema


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    return {
        "layer_12": rng.normal(size=(7, 5)).astype(np.float32),
        "layer_3": rng.normal(size=(7, 5)).astype(np.float32),
        "task_ids": np.array([f"t{i}" for i in range(6)] + ["é\u2028"]),
        "scalar": np.float64(0.5) * np.ones(()),
        "none": np.zeros((0, 5), np.float32),
    }


def test_npz_survives_and_opens_in_numpy() -> None:
    data = npz_bytes(arrays())
    for opened in (read_npz(data), dict(np.load(io.BytesIO(data)).items())):
        assert sorted(opened) == sorted(arrays())
        for name, values in arrays().items():
            assert opened[name].dtype == values.dtype
            assert opened[name].shape == values.shape
            np.testing.assert_array_equal(opened[name], values)


def test_npz_does_not_depend_on_order_or_layout() -> None:
    data = npz_bytes(arrays())
    assert npz_bytes(dict(reversed(arrays().items()))) == data
    assert npz_bytes({n: np.asfortranarray(a) if a.ndim == 2 else a for n, a in arrays().items()}) == data
    strided = {n: np.repeat(a, 2, axis=0)[::2] if a.ndim else a for n, a in arrays().items()}
    assert npz_bytes(strided) == data
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert [i.filename for i in archive.infolist()] == sorted(f"{name}.npy" for name in arrays())
        assert {(i.date_time, i.compress_type) for i in archive.infolist()} == {((1980, 1, 1, 0, 0, 0), 0)}


def test_npz_never_pickles() -> None:
    objects = np.array([{"a": 1}, None], dtype=object)
    with pytest.raises(ValueError, match="Object arrays"):
        npz_bytes({"bad": objects})
    pickled = io.BytesIO()
    np.savez(pickled, bad=objects)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        read_npz(pickled.getvalue())
