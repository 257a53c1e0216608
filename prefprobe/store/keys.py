"""Names that depend on content alone: canonical JSON, its digest, and the input key of a step."""

import hashlib
import json
from collections.abc import Mapping


def require_string_keys(value: object) -> None:
    """Raise TypeError for a mapping with a key that is not a string, at any depth.

    `json` would turn the key into a string but sort it before doing so, so that the same document had other bytes
    after one round trip.
    """
    if isinstance(value, Mapping):
        for key, child in value.items():
            if not isinstance(key, str):
                raise TypeError(f"JSON object key {key!r} is not a string")
            require_string_keys(child)
    elif isinstance(value, list | tuple):
        for child in value:
            require_string_keys(child)


def canonical_json(value: object) -> bytes:
    """The one ASCII JSON text of a plain value: keys sorted, no spaces, floats as their shortest `repr`.

    Raises ValueError for NaN and infinities, TypeError for anything JSON has no form for. 1 and 1.0 differ.
    """
    require_string_keys(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def sha256(data: bytes) -> str:
    """SHA-256 as 64 lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def input_key(step: str, code: int | str, params: Mapping[str, object], inputs: Mapping[str, str]) -> str:
    """The key under which a step keeps its result.

    `code` is the version of the step's code, `params` what changes its result (plain JSON values), `inputs` maps the
    name of each input to its digest. The same arguments give the same key on every machine.
    """
    return sha256(canonical_json({"step": step, "code": code, "params": dict(params), "inputs": dict(inputs)}))
