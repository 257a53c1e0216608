"""What was published for Gemma-3-27B-it; the verdict sets this run beside it."""

MODEL = "Gemma-3-27B-it"
SHORT = "Gemma-3-27B"
BLOCKS = 62
LAYER = 31
"""All published values are of this layer."""
TASKS = {"train": 10_000, "eval": 3_000}
FOLDS = 12

HELD_OUT: dict[str, dict[str, float]] = {
    "model": {"raw": 0.864, "demeaned": 0.761},
    "base": {"raw": 0.770, "demeaned": 0.633},
    "encoder": {"raw": 0.614},
}
"""Pearson r on held-out tasks, by role of the features and target. The encoder is all-MiniLM-L6-v2."""

ACCURACY = {"raw": 0.768, "demeaned": 0.689}
"""Share of held-out choices that the model's probe foretells, by target."""

CROSS_TOPIC: dict[str, dict[str, float]] = {
    "model": {"mean": 0.817, "sd": 0.096},
    "base": {"mean": 0.627, "sd": 0.128},
    "encoder": {"mean": 0.354, "sd": 0.095},
}
"""Unweighted mean and standard deviation of r over 12 held-out topics."""

SHIFT: dict[str, dict[str, float]] = {
    "category": {"on_target": 0.898, "pooled": 0.612},
    "targeted": {"on_target": 0.947, "pooled": 0.649},
    "crossed": {"on_target": 0.859, "pooled": 0.660},
    "competing": {"on_target": 0.881, "pooled": 0.775},
}
"""Pearson r between what a system prompt changes in choices and in probe scores. None was published for personas."""

RELIABILITY = 0.947
"""r between the utilities of tasks that two whole runs share."""
