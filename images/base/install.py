"""Installs requirements with its own Python's pip into an environment: `python install.py VENV REQUIREMENTS [TORCH_INDEX_URL]`.

Everything has its hash. An index of other torch builds (another CUDA, or none) has other files under the same versions:
then torch comes from there by its version alone, with the libraries that it asks for, and all else still by its hash.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

BUILDS = re.compile(r"(torch|triton|nvidia-\S+|cuda-\S+)==")  # what differs between builds of torch


def split(requirements: str) -> tuple[str, str]:
    """(requirements without torch and its libraries, torch's `name==version`)."""
    entries = re.split(r"^(?=\S)", requirements, flags=re.MULTILINE)
    rest = "".join(entry for entry in entries if not BUILDS.match(entry))
    (torch,) = [entry.split()[0] for entry in entries if entry.startswith("torch==")]
    return rest, torch


def install(venv: str, requirements: Path, index: str) -> None:
    """Without byte code, which is made later."""
    command = [sys.executable, "-m", "pip", "--python", f"{venv}/bin/python", "install", "--no-compile"]
    if not index:
        subprocess.run([*command, "--require-hashes", "--requirement", requirements], check=True)
        return
    rest, torch = split(requirements.read_text())
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(rest)
        file.flush()
        subprocess.run([*command, "--require-hashes", "--no-deps", "--requirement", file.name], check=True)
    subprocess.run([*command, "--index-url", index, torch], check=True)


if __name__ == "__main__":
    venv, requirements, *rest = sys.argv[1:]
    install(venv, Path(requirements), rest[0] if rest else "")
