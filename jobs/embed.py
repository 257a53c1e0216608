"""embed: features that are not a model's, of the tasks or of the tasks under system prompts."""

import numpy as np

from prefprobe.features.controls import random_features
from prefprobe.jobs._pool import read_rows
from prefprobe.shift.prompted import prompted_tasks
from prefprobe.store.formats import json_bytes, npz_bytes
from prefprobe.study.graph import pin_of
from prefprobe.study.job import Job, Outputs


def run(job: Job) -> Outputs:
    """Writes part-00000.npz (task_ids, layer_0) and features.json.

    For prompted rows the ids are "prompt id<TAB>task id" and the texts the system prompt followed by the task. Of an
    encoder that numpy does not read, features.json says what read it (`reader`) and what it put before every text by its
    own default (`prompt`, null for nothing).
    """
    name = job.args["features"]
    if job.args.get("prompted"):
        prompted = prompted_tasks(job.config.shift, job.objects)
        rows = [(r.row_id, f"{r.prompt}\n\n{r.text}") for r in prompted]
    else:
        rows = read_rows(job)
    ids = [id_ for id_, _ in rows]
    job.progress.start(len(rows), "texts")
    if name in job.config.encoders:
        from prefprobe.features.encoder import READER, describe, embed

        source, revision = job.config.encoders[name], job.pins[pin_of(name, "encoder")]
        encoder = describe(source, revision)
        texts = [text for _, text in rows]
        vectors = embed(source, texts, revision=revision, advance=job.progress.advance)
        about: dict[str, object] = {"kind": "embedding"}
        if encoder.beyond is not None:
            about |= {"reader": READER, "prompt": encoder.prompt}
    else:
        about = {"kind": "random"}
        like = next(n for n in job.inputs if n.startswith("extract."))
        vectors = random_features(np.array(ids), job.json(like, "features.json")["d"], job.config.seed)
    about |= {"layers": [0], "n_layers": 1, "d": vectors.shape[1]}
    part = npz_bytes({"task_ids": np.array(ids), "layer_0": vectors})
    return {"part-00000.npz": part, "features.json": json_bytes(about)}
