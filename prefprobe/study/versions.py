"""What computes here: recorded with every result, part of no key."""

import importlib.metadata
import platform
import sys

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


def gpus() -> int:
    """GPUs on which this process holds memory; 0 as long as no step has brought torch in, which nothing here does."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return 0
    return sum(torch.cuda.memory_reserved(k) > 0 for k in range(torch.cuda.device_count()))
