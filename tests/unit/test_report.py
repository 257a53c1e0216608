import numpy as np
import pyarrow as pa

from prefprobe.config import Config
from prefprobe.probes.crosstopic import cross_topic
from prefprobe.probes.heldout import heldout_probe
from prefprobe.probes.metrics import pearson, pearson_interval, spearman
from prefprobe.probes.ridge import ALPHAS
from prefprobe.report.results import Results

TOPICS = ("math", "coding", "fiction", "travel", "clerical", "science")
STRENGTH = {"model": 1.4, "base": 1.0, "minilm": 0.7, "untrained": 0.35, "random": 0.0}
HOSTILE = "<script>alert(1)</script> {{ braces }} & {fill}"
LAYERS = {"model": (3, 6, 9, 12), "base": (2, 4), "minilm": (0,), "untrained": (3, 6), "random": (0,)}
ROLES = {"model": "model", "base": "base", "minilm": "encoder", "untrained": "untrained", "random": "random"}
MOVES = {"category": 0.2, "targeted": 0.12, "crossed": 0.08, "competing": 0.1, "persona": 0.01}
ESTIMABLE = 0.05


def study(
    base=True, n_train=96, n_eval=60, permutations=5, topics=TOPICS, layers=LAYERS, model="Planted-1B-Instruct"
) -> Results:
    """A whole run whose probes read planted utilities, the model's best; personas move nothing."""
    rng = np.random.default_rng(3)
    n, d = n_train + n_eval, 16
    ids = [f"t-{i:04d}" for i in range(n)]
    topic = rng.permutation(np.arange(n) % len(topics))
    topic_of = {i: topics[t] for i, t in zip(ids, topic, strict=True)}
    mu = 0.6 * rng.normal(size=len(topics))[topic] + rng.normal(size=n)
    utility = dict(zip(ids, mu.tolist(), strict=True))
    sets = {"train": ids[:n_train], "eval": ids[n_train:]}
    names = [name for name in ROLES if base or name != "base"]
    a, b = rng.choice(sets["eval"], size=(2, 400))
    gap = np.array([utility[x] - utility[y] for x, y in zip(a, b, strict=True)])
    choices = (a, b, 1 / (1 + np.exp(-gap)))
    probe, predictions, hoo, hoo_predictions = {}, {}, {}, {}
    for name in names:
        features = {}
        for depth, layer in enumerate(layers[name]):
            bend = np.sin(np.pi * (depth + 1.2) / (len(layers[name]) + 1.2)) if len(layers[name]) > 1 else 1.0
            signal = STRENGTH[name] * bend * mu[:, None] * np.linspace(1, 0.2, d)
            features[layer] = (signal + 2.4 * rng.normal(size=(n, d))).astype(np.float32)
        truth = ({i: utility[i] for i in sets["train"]}, {i: utility[i] for i in sets["eval"]}, topic_of)
        held_out = heldout_probe(features, np.array(ids), *truth, choices, permutations=permutations)
        folds = cross_topic(features, np.array(ids), *truth)
        about = {"features": name, "kind": "activations", "d": d, "n_layers": 14, "alphas": ALPHAS.tolist()}
        about |= {"layers": list(layers[name]), **held_out.split, "ceiling": held_out.ceiling}
        probe[name] = {**about, "targets": held_out.targets, "shuffled": held_out.shuffled if name == "model" else None}
        predictions[name], hoo_predictions[name] = held_out.predictions, folds.predictions
        hoo[name] = {"features": name, **folds.summary}
    points = pa.Table.from_pylist([row for name in MOVES for row in moved(name, topics, rng)])
    config = {
        "name": "planted", "model": {"source": "models/planted", "name": model},
        "base": {"source": "models/planted-base", "name": "Planted-1B", "chat": False} if base else None,
        "encoders": {"minilm": "models/minilm"}, "tasks": {"n_train": n_train, "n_eval": n_eval},
        "train": {"batch": 80, "max_rounds": 3}, "eval": {"batch": 50, "max_rounds": 3}, "shift": {"comparisons": 4},
        "probes": {"permutations": permutations},
    }  # fmt: skip
    steps = (
        [f"measure.{s}" for s in sets] + [f"extract.{name}.0" for name in names] + [f"probe.{name}" for name in names]
    )
    labels = {"model": model, "base": "Planted-1B", "untrained": "untrained copy", "random": "random features"}
    versions = {"prefprobe": "0.1.0", "python": "3.11.9", "numpy": "2.2.0"}
    return Results(
        run_id="planted-0a1b2c3d",
        config=Config(**config).model_dump(mode="json"),
        versions=versions,
        model_name=model,
        model_card={"source": "models/planted", "revision": "ab" * 32, "n_layers": 14, "d": d, "adapter": None},
        steps=[
            {"node": node, "step": node.split(".")[0], "key": f"{k:02d}c4" * 16, "seconds": 1.5 * k, "versions": versions,
             "outputs": {"measure.json": 2048, "utilities.parquet": 123456 * k}}
            for k, node in enumerate(["tasks", "topics", *steps, "shift"])
        ],
        topics=topic_of,
        texts={i: f"Do the {topic_of[i]} task number {i} carefully, and explain every step you take." for i in ids},
        measure={name: measured(name, len(of)) for name, of in sets.items()},
        utilities={
            name: pa.table({"task_id": of, "mu": [utility[i] for i in of], "sigma": rng.uniform(0.8, 1.2, len(of)),
                            "se": rng.uniform(0.2, 0.4, len(of)), "comparisons": rng.integers(5, 15, len(of))})
            for name, of in sets.items()
        },
        probe=probe,
        predictions=predictions,
        hoo=hoo,
        hoo_predictions=hoo_predictions,
        roles={name: ROLES[name] for name in names},
        labels={name: labels.get(name, name) for name in names},
        shift={"baseline": "You are a helpful assistant.", "n_comparisons": 4,
               "experiments": {name: experiment(points, name) for name in MOVES}},
        points=points,
    )  # fmt: skip


def moved(name, topics, rng):
    """Every (prompt, task) of one experiment: intended tasks move, and the probe's score follows what moved."""
    rows = []
    for p in range(6):
        intended = 1 if p % 2 else -1
        for t in range(10):
            on_target = t % len(topics) == p % len(topics)
            dp = float(
                np.clip(MOVES[name] * (intended if on_target else 0.25 * rng.normal()) + 0.012 * rng.normal(), -1, 1)
            )
            row = {"experiment": name, "prompt_id": f"{name}-{p}", "task_id": f"{name}-t{t}", "on_target": on_target}
            row |= {"intended": intended if on_target else 0, "n": 8, "p_baseline": 0.5, "p_prompt": 0.5 + dp, "dp": dp}
            row |= {
                "dp_se": 0.012,
                "ds": 3 * dp + 0.1 * float(rng.normal()),
                "ds_encoder": dp + 0.1 * float(rng.normal()),
            }
            rows.append(row)
    return rows


def experiment(points, name):
    rows = [row for row in points.to_pylist() if row["experiment"] == name]
    on = [row for row in rows if row["on_target"]]
    rms = [
        float(np.sqrt(np.mean([row["dp"] ** 2 for row in rows if row["on_target"] is is_on])))
        for is_on in (True, False)
    ]
    estimable = rms[0] > ESTIMABLE

    def related(some, column):
        x, y = (np.array([row[c] for row in some]) for c in ("dp", column))
        if not estimable:
            return {"pearson": None, "spearman": None, "p": None, "n": len(some)}
        return {"pearson": pearson_interval(x, y, seed=0), "spearman": spearman(x, y), "p": 0.001, "n": len(some)}

    signs = [np.sign(row["dp"]) == np.sign(row["ds"]) for row in rows if abs(row["dp"]) >= 0.02]
    share = float(np.mean(signs)) if estimable else None
    of = {
        c: {"on_target": related(on, c), "pooled": related(rows, c), "centred": related(rows, c)}
        for c in ("ds", "ds_encoder")
    }
    assert not estimable or pearson(np.arange(3.0), np.arange(3.0)) == 1
    return {
        "n_prompts": 6, "n_tasks": 10, "n_points": len(rows), "n_on_target": len(on),
        "effect": {"rms_on_target": rms[0], "rms_off_target": rms[1], "max": max(abs(row["dp"]) for row in rows), "noise": 0.012,
                   "signal_to_noise": rms[0] / 0.012},
        "estimable": estimable,
        "why": "The prompts move choices by more than their noise." if estimable
        else f"On target, choices moved by {rms[0]:.3f}, against noise of 0.012 in one measurement.",
        **of["ds"],
        "sign_agreement": {"value": share, "n": len(signs), "threshold": 0.02},
        "intended_behaviour": {"value": share and 0.94, "n": len(on)},
        "intended_probe": {"value": share and 0.9, "n": len(on)},
        "fit": {"slope": 3.0 if estimable else None, "intercept": 0.0 if estimable else None},
        "encoder": {"name": "minilm", **of["ds_encoder"]},
    }  # fmt: skip


def measured(name, n):
    rounds = [
        {"round": k, "new_pairs": 3 * n if k == 0 else n, "new_choices": 6 * n if k == 0 else 2 * n, "median_se": 0.4 - 0.05 * k,
         "rank_correlation": None if k == 0 else 0.9 + 0.03 * k, "split_half": 0.7 + 0.06 * k, "p_first": 0.73 - 0.01 * k,
         "label_mass": 0.86 + 0.01 * k}
        for k in range(3)
    ]  # fmt: skip
    return {
        "set": name, "engine": "exact-local", "n_tasks": n, "n_pairs": 5 * n, "n_choices": 10 * n, "refusals": 0, "unparsed": 0,
        "temperature": 1.0, "rounds": rounds, "stopped": "max_rounds", "converged": False,
        "reliability": {"split_half_r": 0.695, "spearman_brown": 0.82, "splits": 10},
        "fit": {"objective": 812.5, "max_gradient": 1e-6, "iterations": 9, "converged": True, "components": 1,
                "always_win": ["t-0001"], "always_lose": [], "agreement": 0.81},
        "position_bias": {"p_first": 0.71, "mean_logit": 1.12, "sd_logit": 0.8},
        "label_mass": {"mean": 0.88, "min": 0.41, "p05": 0.66}, "additive_r2": 0.47,
    }  # fmt: skip
