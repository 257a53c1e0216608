"""What computes here: recorded with every result, part of no key."""

import importlib.metadata
import platform

from prefprobe import __version__

_REPORTED = (
    "numpy",
    "scipy",
    "pyarrow",
    "torch",
    "transformers",
    "tokenizers",
    "peft",
    "sentence-transformers",
    "bitsandbytes",
)


def versions() -> dict[str, str]:
    """Versions of what computes, as installed here."""
    found = {"prefprobe": __version__, "python": platform.python_version(), "platform": platform.machine()}
    for name in _REPORTED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
