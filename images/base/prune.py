"""Takes out of an environment what no step reads, in the build of the CPU base: `python3 prune.py SITE_PACKAGES`.

The limit is 350 MB an image. Whatever is named here may come back at the price of its size; the unit tests
pass inside the image. The rest of the saving is symbol tables, which only debuggers read.
"""

import shutil
import struct
import sys
from pathlib import Path

UNUSED = (
    # the libraries' own tests, and what only compilers and editors read
    "**/tests",
    "**/*.pyi",
    "**/*.pxd",
    "**/*.pyx",
    "**/*.h",
    "**/*.hpp",
    "**/*.c",
    "**/*.cc",
    "**/*.a",
    # Arrow: copies of one library under three names, remote calls, encryption, and S3 (the store is obstore)
    "pyarrow/libarrow_python*.so",
    "pyarrow/libarrow_python*.so.*.*",
    "pyarrow/*flight*",
    "pyarrow/*encryption*",
    "pyarrow/*_s3*",
    # parts of SciPy that no other part imports
    "scipy/io",
    "scipy/signal",
    "scipy/odr",
    "scipy/cluster",
    "scipy/fftpack",
    # figures are SVG: no other image formats, no text drawn by Pillow, no fonts embedded in PDF or PostScript
    "PIL/_avif*",
    "PIL/_imagingft*",
    "pillow.libs/libavif*",
    "pillow.libs/libharfbuzz*",
    "pillow.libs/libfreetype*",
    "fontTools/[c-l]*",
    "fontTools/[n-z]*",
    "matplotlib/mpl-data/fonts/afm",
    "matplotlib/mpl-data/fonts/pdfcorefonts",
    "matplotlib/mpl-data/fonts/ttf/STIX*",
    "matplotlib/mpl-data/fonts/ttf/cm*",
    # colours of source code on a terminal; and the hub's faster protocol, in whose place it has plain HTTP
    "pygments",
    "pygments-*",
    "hf_xet",
    "hf_xet-*",
)


def prune(site: Path) -> int:
    """Remove everything UNUSED; returns bytes."""
    freed = 0
    for pattern in UNUSED:
        for path in sorted(site.glob(pattern)):
            if path.is_dir():
                freed += sum(f.lstat().st_size for f in path.rglob("*"))
                shutil.rmtree(path)
            elif path.is_file():
                freed += path.lstat().st_size
                path.unlink()
    return freed


def strip(site: Path) -> int:
    """Cut every 64-bit shared library behind the last byte that is loaded; returns bytes.

    What is loaded is in the program headers (ELF specification, part 2); symbol tables for debuggers and the list of
    sections come after it.
    """
    freed = 0
    for path in sorted(site.rglob("*.so*")):
        with path.open("r+b") as file:
            header = bytearray(file.read(64))
            if header[:6] != b"\x7fELF\x02\x01":  # 64 bits, little-endian
                continue
            (table,) = struct.unpack_from("<Q", header, 32)
            size, count = struct.unpack_from("<HH", header, 54)
            file.seek(table)
            segments = file.read(size * count)
            loaded = [sum(struct.unpack_from("<Q24xQ", segments, at + 8)) for at in range(0, size * count, size)]
            end = max(64, table + size * count, *loaded)
            freed += file.seek(0, 2) - end
            struct.pack_into("<Q", header, 40, 0)  # no sections
            struct.pack_into("<HH", header, 60, 0, 0)
            file.seek(0)
            file.write(header)
            file.truncate(end)
    return freed


if __name__ == "__main__":
    root = Path(sys.argv[1])
    sys.stdout.write(f"{prune(root) >> 20} MiB of files and {strip(root) >> 20} MiB of symbols taken out of {root}\n")
