"""report: everything a reader needs in one page, and the verdict beside it."""

from typing import Any

from prefprobe.findings.results import Results
from prefprobe.findings.verdict import verdict
from prefprobe.report.figures.gallery import figures
from prefprobe.report.page import render
from prefprobe.report.tables import tables
from prefprobe.settings.tasks import quotable
from prefprobe.store.formats import json_bytes
from prefprobe.study.graph import features_of
from prefprobe.study.job import Job, Outputs
from prefprobe.study.versions import versions


def run(job: Job) -> Outputs:
    """Writes index.html, verdict.json, figures as SVG and the tables behind them as CSV."""
    results = collect(job)
    judged = verdict(results)
    outputs: dict[str, Any] = {f"{name}.svg": svg.encode() for name, svg in figures(results).items()}
    outputs |= {name: text.encode() for name, text in tables(results).items()}
    return {**outputs, "verdict.json": json_bytes(judged), "index.html": render(results, judged).encode()}


def collect(job: Job) -> Results:
    """All results of a run in the form that figures, page and verdict read."""
    roles, sets, config = features_of(job.config), ("train", "eval"), job.config
    tasks, topics = job.table("tasks", "tasks.parquet"), job.table("topics", "topics.parquet")
    origins = dict(zip(topics.column("id").to_pylist(), topics.column("origin").to_pylist(), strict=True))
    about, judging = job.json("extract.model.0", "features.json"), job.json("topics", "topics.json")
    if config.topics.judges:
        judging |= job.json("topics", "judging.json")
    names = {
        "model": config.model.name or config.model.source,
        "untrained": "untrained copy",
        "random": "random features",
        **{name: f"model at {position}" for name, position in config.activations.further.items()},
    }
    if config.base:
        names["base"] = config.base.name or config.base.source
        if job.json("extract.base.0", "features.json")["family"] != about["family"]:
            names["base"] += ", other family"
    card = {"source": config.model.source, "revision": job.pins["model"], "adapter": config.model.adapter}
    card |= {key: about[key] for key in ("n_layers", "d", "prompt")}
    shards = [node for node in job.node.reads if node.startswith("extract.model.")]
    alone = [said for said in (job.json(node, "features.json")["alone"] for node in shards) if said]
    return Results(
        run_id=job.run_id,
        config=config.model_dump(mode="json"),
        versions=versions(),
        model_name=names["model"],
        model_card={**card, "alone": alone[0] if alone else ""},
        steps=[_step(job, node) for node in job.node.reads],
        too_long=job.json("tasks", "tasks.json")["too_long"],
        merged=judging["merged"],
        judging=judging,
        origins=origins,
        topics=dict(zip(topics.column("id").to_pylist(), topics.column("topic").to_pylist(), strict=True)),
        texts={row["id"]: _shown(row["text"], origins[row["id"]]) for row in tasks.to_pylist()},
        measure={s: job.json(f"measure.{s}", "measure.json") for s in sets},
        utilities={s: job.table(f"measure.{s}", "utilities.parquet") for s in sets},
        probe={n: job.json(f"probe.{n}", "probe.json") for n in roles},
        predictions={n: job.table(f"probe.{n}", "predictions.parquet") for n in roles},
        hoo={n: job.json(f"hoo.{n}", "hoo.json") for n in roles},
        hoo_predictions={n: job.table(f"hoo.{n}", "predictions.parquet") for n in roles},
        content=job.json("content", "content.json")["encoders"] if config.encoders else {},
        roles=roles,
        labels={n: names.get(n, n) for n in roles},
        shift=job.json("shift", "shift.json"),
        points=job.table("shift", "points.parquet"),
    )


def _shown(text: str, origin: str | None) -> str:
    """What the report may quote of a task."""
    return text if quotable(origin) else f"(a task of {origin}, which is not shown)"


def _step(job: Job, node: str) -> dict[str, Any]:
    manifest = job.inputs[node]
    sizes = {name: output.size for name, output in manifest.outputs.items()}
    about = {name: manifest.meta.get(name) for name in ("seconds", "versions")}
    return {"node": node, "step": manifest.step, "key": manifest.key, "outputs": sizes, **about}
