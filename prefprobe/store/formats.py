"""Files whose bytes depend on their content alone: JSON, CSV, Parquet and NPZ, without timestamps and without pickle."""

import io
import json
import zipfile
from collections.abc import Iterable, Mapping
from typing import IO, TYPE_CHECKING, Any, NoReturn

from prefprobe.store.keys import require_string_keys

if TYPE_CHECKING:  # each is imported where it is used: what is stored already is found by JSON alone
    import numpy as np
    import pyarrow as pa

ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)
ZIP_UNIX = 3
ROWS_PER_GROUP = 1 << 16


def json_bytes(obj: object) -> bytes:
    """Indented ASCII JSON with sorted keys and a final newline. Raises ValueError for NaN and infinities."""
    require_string_keys(obj)
    return (json.dumps(obj, sort_keys=True, indent=2, allow_nan=False) + "\n").encode("ascii")


def read_json(data: bytes) -> Any:
    """The value of UTF-8 JSON bytes. Raises ValueError for malformed JSON, NaN and infinities."""
    return json.loads(data, parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"JSON has no value {name}")


def parquet_bytes(table: "pa.Table") -> bytes:
    """Parquet (zstd) with fixed writer settings; schema metadata such as pandas' is dropped.

    The bytes do not depend on how the table is chunked. They do name the version of the writer, so that another
    release of pyarrow may give other bytes.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(
        table.replace_schema_metadata(None).combine_chunks(),
        sink,
        version="2.6",
        data_page_version="1.0",
        compression="zstd",
        compression_level=3,
        use_dictionary=True,
        write_statistics=True,
        row_group_size=ROWS_PER_GROUP,
    )
    data: bytes = sink.getvalue().to_pybytes()
    return data


def read_parquet(data: bytes) -> "pa.Table":
    """The table of Parquet bytes. Raises pyarrow.ArrowInvalid for bytes that are not Parquet.

    No thread of Arrow's takes part: one that still held `data` while the interpreter ends would abort the process, and
    its exit code would be lost.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    return pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)


def csv_bytes(table: "pa.Table") -> bytes:
    """CSV with a header; floats with as many digits as bring them back exactly."""
    import pyarrow as pa
    import pyarrow.csv as pc

    sink = pa.BufferOutputStream()
    pc.write_csv(table, sink, pc.WriteOptions(quoting_style="needed"))
    data: bytes = sink.getvalue().to_pybytes()
    return data


def npz_bytes(arrays: "Mapping[str, np.ndarray[Any, Any]]") -> bytes:
    """Uncompressed NPZ with its members in the order of their names, in C order.

    Raises ValueError for arrays of Python objects, which would need pickle.
    """
    buffer = io.BytesIO()
    write_npz(buffer, ((name, arrays[name]) for name in sorted(arrays)))
    return buffer.getvalue()


def write_npz(file: IO[bytes], arrays: "Iterable[tuple[str, np.ndarray[Any, Any]]]") -> None:
    """The same into a file, with its members in the order that they come in."""
    import numpy as np

    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays:
            member = zipfile.ZipInfo(f"{name}.npy", date_time=ZIP_EPOCH)
            member.create_system = ZIP_UNIX
            member.external_attr = 0o644 << 16
            with archive.open(member, "w", force_zip64=True) as handle:
                np.lib.format.write_array(handle, np.asarray(array, order="C"), allow_pickle=False)


def read_npz(data: bytes) -> "dict[str, np.ndarray[Any, Any]]":
    """All arrays of NPZ bytes. Raises ValueError for members that need pickle."""
    import numpy as np

    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}
