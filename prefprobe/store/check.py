"""Whether a store does what the steps need of it."""

from uuid import uuid4

from prefprobe.errors import BadConfig
from prefprobe.store.objects import ObjectStore


def check_store(objects: ObjectStore) -> list[str]:
    """Write, read, write only if absent, list and delete one small object under canary/.

    Returns a line for each thing that was verified. Raises BadConfig where the store answers and does something else,
    such as a server without conditional writes, and what ObjectStore raises where it cannot be used.
    """
    key = f"canary/{uuid4().hex}"
    where = objects.describe(key)
    verified = []

    def require(holds: bool, line: str, otherwise: str) -> None:
        if not holds:
            raise BadConfig(f"{otherwise} at {where}: use another object store, or another version of this one.")
        verified.append(line)

    try:
        objects.create(key, b"first")
        require(
            objects.get(key) == b"first", f"wrote and read {where}", "The store gives other bytes than were written"
        )
        second = objects.create(key, b"second")
        require(
            not second and objects.get(key) == b"first",
            "it refused to write what is there already",
            "The store does not honour a conditional write (If-None-Match: *), on which results depend,",
        )
        require(key in objects.list("canary"), "it lists what is there", "The store does not list an object")
    finally:
        objects.delete(key)
    require(objects.size(key) is None, "it deleted what it was told to", "The store keeps a deleted object")
    return verified
