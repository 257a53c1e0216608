"""own-choices: what own weights choose in some pairs of the train set that an endpoint is asked too."""

from prefprobe.choices.pairs import few_pairs
from prefprobe.jobs._choice_log import own_log
from prefprobe.store.formats import parquet_bytes
from prefprobe.study.job import Job, Outputs
from prefprobe.tasks.sampling import task_set


def run(job: Job) -> Outputs:
    """Writes choices.parquet: exact P(A) of every pair in both orders, however small the label mass is."""
    train = task_set(job.table("tasks", "tasks.parquet"), "train")
    pairs = few_pairs(train, job.config.choices.own_pairs, job.config.seed)
    log = own_log(job, train, {}, min_label_mass=0.0)
    choices = log.measure(log.questions((("", *pair) for pair in pairs), 1), 0)
    return {"choices.parquet": parquet_bytes(choices)}
