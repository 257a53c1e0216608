"""shift-measure: choices of every shifted task against the comparison tasks, under one shard of the system prompts."""

from prefprobe.errors import BadConfig
from prefprobe.jobs._choice_log import open_log
from prefprobe.shift.behaviour import comparison_tasks
from prefprobe.shift.prompted import check_disjoint, prompted_tasks
from prefprobe.store.formats import json_bytes, parquet_bytes
from prefprobe.study.job import Job, Outputs


def run(job: Job) -> Outputs:
    """Writes choices.parquet (prompt_id names the system prompt), answers.parquet, comparisons.json and account.json.

    Raises BadConfig if the budget does not cover all choices: a shift needs every cell.
    """
    settings = job.config.shift
    tasks = job.table("tasks", "tasks.parquet")
    texts = dict(zip(tasks.column("id").to_pylist(), tasks.column("text").to_pylist(), strict=True))
    rows = prompted_tasks(settings, job.objects)
    check_disjoint(rows, texts)
    utilities, topics = job.table("measure.train", "utilities.parquet"), job.table("topics", "topics.parquet")
    comparisons = comparison_tasks(
        dict(zip(utilities.column("task_id").to_pylist(), utilities.column("mu").to_pylist(), strict=True)),
        dict(zip(topics.column("id").to_pylist(), topics.column("topic").to_pylist(), strict=True)),
        settings.comparisons,
        job.config.seed,
    )
    mine = sorted({r.prompt_id for r in rows})[job.args["shard"] :: settings.shards]
    rows = [r for r in rows if r.prompt_id in mine]
    log = open_log(job, texts | {r.task_id: r.text for r in rows}, {r.prompt_id: r.prompt for r in rows})
    questions = log.questions(((r.prompt_id, r.task_id, c) for r in rows for c in comparisons), settings.samples)
    choices = log.measure(questions, 0)
    if choices.num_rows < len(questions):
        raise BadConfig(
            f"{job.node.id}: the budget covers {choices.num_rows} of {len(questions)} choices, which are saved; raise "
            "choices.api.budget_usd or budget_tokens, and run the step again."
        )
    return {
        "choices.parquet": parquet_bytes(choices),
        "answers.parquet": parquet_bytes(log.raw_answers()),
        "comparisons.json": json_bytes(comparisons),
        "account.json": json_bytes({"n_choices": choices.num_rows, **log.account(choices)}),
    }
