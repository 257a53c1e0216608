"""Input files that lie in the store beside the results, where a laptop and a cluster find them alike: `store:KEY`."""

import hashlib
from pathlib import Path

from prefprobe.activations.sources import cache_root
from prefprobe.errors import BadConfig, InputMissing
from prefprobe.store.objects import ObjectStore


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
