"""Takes out of an environment what no step reads, in the build of the CPU base: `python3 prune.py SITE_PACKAGES`.

The limit is 350 MB an image. Whatever is named here may come back at the price of its size, and a new name must leave the
unit tests passing inside the image.
"""

import shutil
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


if __name__ == "__main__":
    root = Path(sys.argv[1])
    sys.stdout.write(f"{prune(root) >> 20} MiB taken out of {root}\n")
