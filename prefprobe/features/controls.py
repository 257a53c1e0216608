"""Features that know nothing of the tasks: what a probe finds in them, it would find anywhere."""

from hashlib import sha256

import numpy as np
import numpy.typing as npt


def random_features(task_ids: npt.NDArray[np.str_], d: int, seed: int) -> npt.NDArray[np.float32]:
    """(n, d) float32, standard normal. A row depends on its task's id and the seed alone, not on its neighbours."""
    out = np.empty((len(task_ids), d), dtype=np.float32)
    for row, task_id in zip(out, task_ids, strict=True):
        digest = sha256(f"{seed}\n{task_id}".encode()).digest()
        np.random.default_rng(np.frombuffer(digest, dtype="<u4")).standard_normal(dtype=np.float32, out=row)
    return out
