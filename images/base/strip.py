"""Cuts symbol tables, which only debuggers read, off the libraries below a folder: `python3 strip.py FOLDER`.

No Python image has the usual tool for it, and wheels come with 40 MB of symbols.
"""

import struct
import sys
from pathlib import Path


def strip(root: Path) -> int:
    """Cut every 64-bit shared library behind the last byte that is loaded; returns bytes.

    What is loaded is in the program headers (ELF specification, part 2); symbol tables for debuggers and the list of
    sections come after it.
    """
    freed = 0
    for path in root.rglob("*.so*"):
        if path.is_symlink() or not path.is_file():
            continue
        with path.open("r+b") as file:
            header = bytearray(file.read(64))
            if header[:6] != b"\x7fELF\x02\x01":  # 64 bits, little-endian
                continue
            (table,) = struct.unpack_from("<Q", header, 32)
            size, count = struct.unpack_from("<HH", header, 54)
            file.seek(table)
            segments = file.read(size * count)
            loaded = [sum(struct.unpack_from("<Q16xQ", segments, at + 8)) for at in range(0, size * count, size)]
            end = max(64, table + size * count, *loaded)
            freed += file.seek(0, 2) - end
            struct.pack_into("<Q", header, 40, 0)  # no sections
            struct.pack_into("<HH", header, 60, 0, 0)
            file.seek(0)
            file.write(header)
            file.truncate(end)
    return freed


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    sys.stdout.write(f"{strip(folder) >> 20} MiB of symbols cut off in {folder}\n")
