"""Where weights, encoders and input files come from: a hub id, a local path, a file inside an installed package, the store.

Nothing here imports torch: the revision of a source is needed to compute keys, on nodes that never load the model.
"""

import hashlib
import importlib.util
import json
import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from prefprobe.errors import BadConfig, InputMissing, PrefprobeError, TemporaryFailure
from prefprobe.store.objects import ObjectStore

_COMMIT = re.compile(r"[0-9a-f]{40}")
_READ_FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")
SMALL_FILES = ("*.json", "*.jinja")
"""What says of a model or an encoder how it is read: its settings, tokenizer and chat template, not its weights."""
_REMEMBER_ABOVE = 16 << 20  # bytes; the digest of a larger file is remembered by path, size and time of change


def cache_root() -> Path:
    """The folder for what can be made again: converted weights and remembered digests."""
    return Path(os.environ.get("PREFPROBE_CACHE") or Path.home() / ".cache" / "prefprobe")


def local_path(source: str) -> Path | None:
    """The file or folder that `source` names on this machine; None if it is a hub id.

    `package:NAME/PATH` is a path inside an installed Python package, found without importing it.
    """
    if source.startswith("package:"):
        name, _, rest = source.removeprefix("package:").partition("/")
        spec = importlib.util.find_spec(name) if name.isidentifier() else None
        if spec is None or not spec.submodule_search_locations:
            raise BadConfig(
                f"{source}: the Python package {name} is not installed; install it, or name another source."
            )
        path = Path(next(iter(spec.submodule_search_locations))) / rest
        if not path.exists():
            raise BadConfig(f"{source}: the package {name} holds no {rest}; check its version.")
        return path
    path = Path(source).expanduser()
    if path.exists():
        return path
    if source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise BadConfig(
            f"{source}: no such file or folder, and not a hub id (owner/name) or package:NAME/PATH; correct the source."
        )
    return None


def source_revision(source: str, revision: str | None = None) -> str:
    """What identifies the content of `source`: a digest of the bytes that are read, or the hub commit."""
    path = local_path(source)
    if path is None:
        return hub_commit(source, revision)
    if path.is_file():
        return file_digest(path)
    files = sorted({f for pattern in _READ_FILES for f in path.rglob(pattern)})
    _require_safetensors(source, (f.name for f in files))
    listing = "\n".join(f"{f.relative_to(path).as_posix()} {file_digest(f)}" for f in files)
    return hashlib.sha256(listing.encode()).hexdigest()


def revision_now(source: str) -> str:
    """The revision under which `fetch` gives what `source` holds now; "" for a local folder, which is read as it is."""
    path = local_path(source)
    return "" if path is not None and path.is_dir() else source_revision(source)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, remembered for large files as long as path, size and time of change stay the same."""
    stat = path.stat()
    identity = f"{path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}"
    memory = cache_root() / "digests" / f"{hashlib.sha256(identity.encode()).hexdigest()}.json"
    if stat.st_size > _REMEMBER_ABOVE and memory.exists():
        return str(json.loads(memory.read_bytes())["sha256"])
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if stat.st_size > _REMEMBER_ABOVE:
        memory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=memory.parent, delete=False) as new:
            json.dump({"file": identity, "sha256": digest}, new)
        Path(new.name).replace(memory)
    return digest


def fetch(source: str, revision: str, patterns: Iterable[str] = _READ_FILES) -> Path:
    """The local file or folder of `source`; a hub id is downloaded at that commit (safetensors and text files only)."""
    path = local_path(source)
    return download(source, revision, patterns) if path is None else path


def download(
    repository: str, revision: str, patterns: Iterable[str], kind: Literal["model", "dataset"] = "model"
) -> Path:
    """The folder of a hub repository at a commit, with the files that match; what the cache has in full is not fetched again.

    Raises BadConfig where the hub will not give them, TemporaryFailure where it does not, InputMissing where a data set is
    not there.
    """
    import httpx2
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    asked: dict[str, Any] = {} if kind == "model" else {"repo_type": kind}
    what, instead = (
        f"{repository}@{revision[:12]}",
        "a local folder as the source" if kind == "model" else "a local `path`",
    )
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(patterns), **asked))
    except (LocalEntryNotFoundError, HfHubHTTPError, httpx2.HTTPError, OSError) as error:
        answer = error if isinstance(error, HfHubHTTPError) else error.__cause__
        if isinstance(answer, HfHubHTTPError) and _is_final(answer.response.status_code):
            raise _final(answer.response.status_code, kind)(
                f"{what} could not be downloaded: the hub answers {answer.response.status_code}; "
                f"check the id, its terms of use and HF_TOKEN, or name {instead}."
            ) from error
        raise TemporaryFailure(
            f"{what} could not be downloaded ({type(error).__name__}); "
            f"check the network and HF_TOKEN, or name {instead}."
        ) from error


def cached(
    repository: str,
    revision: str | None,
    patterns: Iterable[str] | None = None,
    kind: Literal["model", "dataset"] = "model",
) -> Path | None:
    """The folder of a hub repository with what was downloaded before; None if that is not all that matches. Asks no hub."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    _require_id(repository)
    asked: dict[str, Any] = {} if kind == "model" else {"repo_type": kind}
    asked |= {} if patterns is None else {"allow_patterns": list(patterns)}
    try:
        return Path(snapshot_download(repository, revision=revision, local_files_only=True, **asked))
    except LocalEntryNotFoundError:
        return None


def hub_commit(source: str, revision: str | None, kind: Literal["model", "dataset"] = "model") -> str:
    """The commit of a hub repository now, or the one that `revision` names. Raises as `download` does, and BadConfig for
    what can be no id.
    """
    _require_id(source)
    if revision and _COMMIT.fullmatch(revision):
        return revision
    known = f"{source}: no such local folder, and " if kind == "model" else f"{source}: "
    local = "folder" if kind == "model" else "`path`"
    remedy = f"set `revision` to the full hash of a commit in the cache, or name a local {local}."
    try:
        import httpx2
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    except ImportError as error:
        raise BadConfig(f"{known}{error.name} is not installed to ask the hub; {remedy}") from error
    try:
        info = HfApi().repo_info(source, revision=revision, repo_type=kind, timeout=20)
    except OfflineModeIsEnabled as error:
        raise BadConfig(f"{known}HF_HUB_OFFLINE forbids to ask the hub; {remedy}") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        said = f"{known}the hub answers {status}; check the id and HF_TOKEN, {remedy}"
        raise (_final(status, kind) if _is_final(status) else TemporaryFailure)(said) from error
    except (httpx2.HTTPError, OSError) as error:
        raise TemporaryFailure(f"{known}the hub cannot be reached; {remedy}") from error
    if kind == "model" and info.siblings:
        _require_safetensors(source, (file.rfilename for file in info.siblings))
    return str(info.sha)


def _require_id(repository: str) -> None:
    try:
        from huggingface_hub.utils import HFValidationError, validate_repo_id
    except ImportError:
        return
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise BadConfig(
            f"{repository!r} is no id of the hub, which are owner/name in letters, digits, `-`, `_` and `.`; correct it, or name "
            "what is on this machine."
        ) from error


def _is_final(status: int) -> bool:
    """Whether asking again would bring the same answer."""
    return 400 <= status < 500 and status != 429


def _final(status: int, kind: str) -> type[PrefprobeError]:
    """Tasks that are not there are an input that is missing; what may not be read is for the preset to mend."""
    return InputMissing if kind == "dataset" and status in (404, 410) else BadConfig


def _require_safetensors(source: str, names: Iterable[str]) -> None:
    if not any(name.endswith(".safetensors") for name in names):
        raise BadConfig(
            f"{source}: it holds no *.safetensors weights; "
            "convert them to safetensors (pickled .bin weights are never read), or name another source."
        )


def input_file(source: str, objects: ObjectStore) -> Path:
    """The file that `source` names: a path, or `store:KEY`, of which a copy with the same name is made in the cache.

    A path need not exist. Raises BadConfig for a key that is not in the store.
    """
    if not source.startswith("store:"):
        return Path(source).expanduser()
    key = source.removeprefix("store:")
    try:
        data = objects.get(key)
    except (InputMissing, ValueError) as error:
        raise BadConfig(
            f"{source}: the store {objects.url} has no such object; copy your file there, or name another in the preset."
        ) from error
    path = cache_root() / "inputs" / hashlib.sha256(data).hexdigest() / Path(key).name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path
