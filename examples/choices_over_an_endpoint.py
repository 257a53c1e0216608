"""What does a model behind an API prefer? The same measurement over any OpenAI-compatible endpoint.

OPENAI_API_KEY=… python examples/choices_over_an_endpoint.py --base-url http://127.0.0.1:8000/v1 --model NAME [--tasks 12]

`--source` names a file of your own, JSONL, CSV or Parquet with `id` and `text`.
"""

import argparse
import itertools

import prefprobe as pp
from prefprobe.settings.api import ApiSettings


def main() -> None:
    """Ask for every pair of some tasks in both orders, and rank them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--source", default="demo")
    parser.add_argument("--tasks", type=int, default=12)
    options = parser.parse_args()

    tasks = pp.read_tasks([options.source])
    texts = {task.id: task.text for task in tasks[:: max(1, len(tasks) // options.tasks)][: options.tasks]}
    # a few calls find out what the endpoint understands: log-probabilities, else sampled answers
    engine = pp.ApiEngine(ApiSettings(base_url=options.base_url, model=options.model))
    print(engine.about["why"])
    choices = pp.choose(engine, texts, list(itertools.combinations(texts, 2)))
    utilities = pp.fit_utilities(pp.comparisons(choices, list(texts)))
    ranked = sorted(zip(utilities.mu, utilities.se, utilities.task_ids, strict=True), reverse=True)
    for mu, se, task_id in ranked:
        print(f"{mu:+.2f} ± {se:.2f}  {texts[task_id][:70]}")


if __name__ == "__main__":
    main()
