import csv
import dataclasses
import io
import json
import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import jsonschema
import numpy as np
import pyarrow as pa
import pytest
from markupsafe import escape

from prefprobe.config import parse_config
from prefprobe.findings import rules
from prefprobe.findings.results import Results
from prefprobe.findings.verdict import rounded, verdict
from prefprobe.probes.content import content_controls
from prefprobe.probes.crosstopic import cross_topic
from prefprobe.probes.heldout import heldout_probe
from prefprobe.probes.metrics import r_within
from prefprobe.probes.ridge import ALPHAS
from prefprobe.report import choice_tables
from prefprobe.report import rows as rows_of
from prefprobe.report.figures import choices as charts_choices
from prefprobe.report.figures.axes import MOST_DOTS, evenly
from prefprobe.report.figures.gallery import figures
from prefprobe.report.figures.svg import PALETTE, draw, spread
from prefprobe.report.page import render
from prefprobe.report.prose.limits import limits
from prefprobe.report.prose.method import method
from prefprobe.report.tables import tables
from prefprobe.settings import ChoiceSettings
from prefprobe.shift.points import POINTS
from prefprobe.shift.statistics import shift_statistics
from prefprobe.store.formats import json_bytes, read_json
from tests.planted_study import PROMPT

SCHEMA = read_json(Path(rules.__file__).with_name("verdict.schema.json").read_bytes())
TOPICS = ("math", "coding", "fiction", "travel", "clerical", "science")
STRENGTH = {"model": 1.4, "base": 1.0, "minilm": 0.7, "untrained": 0.35, "random": 0.0}
HOSTILE = "<script>alert(1)</script> {{ braces }} & {fill}"
LAYERS = {"model": (3, 6, 9, 12), "base": (2, 4), "minilm": (0,), "untrained": (3, 6), "random": (0,)}
ROLES = {"model": "model", "base": "base", "minilm": "encoder", "untrained": "untrained", "random": "random"}
MOVES = {"category": 0.2, "targeted": 0.12, "crossed": 0.08, "competing": 0.1, "persona": 0.01}


@cache
def study(
    base=True, n_train=96, n_eval=60, permutations=199, topics=TOPICS, layers=LAYERS, model="Planted-1B-Instruct"
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
    probe, predictions, hoo, hoo_predictions, rows = {}, {}, {}, {}, {}
    for name in names:
        features = {}
        for depth, layer in enumerate(layers[name]):
            bend = np.sin(np.pi * (depth + 1.2) / (len(layers[name]) + 1.2)) if len(layers[name]) > 1 else 1.0
            signal = STRENGTH[name] * bend * mu[:, None] * np.linspace(1, 0.2, d)
            features[layer] = (signal + 2.4 * rng.normal(size=(n, d))).astype(np.float32)
        truth = ({i: utility[i] for i in sets["train"]}, {i: utility[i] for i in sets["eval"]}, topic_of)
        held_out = heldout_probe(features, np.array(ids), *truth, choices, permutations=permutations)
        folds = cross_topic(features, np.array(ids), *truth, permutations=permutations)
        about = {"features": name, "kind": "activations", "d": d, "n_layers": 14, "alphas": ALPHAS.tolist()}
        about |= {"layers": list(layers[name]), "ceiling": {"accuracy": 0.81, "n_choices": 180, "in_sample": 0.86}}
        probe[name] = {**about, **held_out.summary}
        if name != "model":
            probe[name]["shuffled"] = None
        rows[name] = (np.array(ids), features[probe[name]["targets"]["raw"]["best_layer"]])
        predictions[name], hoo_predictions[name] = held_out.predictions, folds.predictions
        hoo[name] = {"features": name, **folds.summary}
    points = pa.Table.from_pylist([row for name in MOVES for row in moved(name, topics, rng)], schema=POINTS)
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
        config=parse_config(config, "test").model_dump(mode="json"),
        versions=versions,
        model_name=model,
        model_card={"source": "models/planted", "revision": "ab" * 32, "n_layers": 14, "d": d, "adapter": None}
        | {"prompt": dict(PROMPT), "alone": ""},
        steps=[
            {"node": node, "step": node.split(".")[0], "key": f"{k:02d}c4" * 16, "seconds": 1.5 * k, "versions": versions,
             "outputs": {"measure.json": 2048, "utilities.parquet": 123456 * k}}
            for k, node in enumerate(["tasks", "topics", *steps, "shift"])
        ],
        too_long=0,
        merged={},
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
        content=content_controls(rows["model"], {"minilm": rows["minilm"]}, *truth[:2], permutations=permutations),
        roles={name: ROLES[name] for name in names},
        labels={name: labels.get(name, name) for name in names},
        shift={"baseline": "You are a helpful assistant.", "n_comparisons": 4,
               "experiments": {name: of | {"part": "all 6 prompts, all 10 tasks"} for name, of in
                               shift_statistics(points, encoder="minilm", permutations=199).items()}},
        points=points,
    )  # fmt: skip


def moved(name, topics, rng):
    """Every (prompt, task) of one experiment: intended tasks move, and the probe's score follows what moved."""
    rows = []
    for p in range(6):
        intended = 1 if p % 2 else -1
        for t in range(10):
            on_target = t % len(topics) == p % len(topics)
            pull = 0 if name == "competing" and t >= len(topics) else intended  # such tasks are loved and hated at once
            dp = float(MOVES[name] * (pull if on_target else 0.25 * rng.normal()) + 0.012 * rng.normal())
            row = {"experiment": name, "prompt_id": f"{name}-{p}", "task_id": f"{name}-t{t}", "on_target": on_target}
            row |= {
                "intended": pull if on_target else 0,
                "neutral": False,
                "n": 8,
                "p_baseline": 0.5,
                "p_prompt": 0.5 + dp,
                "dp": dp,
            }
            row |= {
                "dp_se": 0.012,
                "ds": 3 * dp + 0.1 * float(rng.normal()),
                "ds_encoder": dp + 0.1 * float(rng.normal()),
            }
            rows.append(row)
    still = {"prompt_id": "neutral-1", "neutral": True, "on_target": False, "intended": 0, "ds": 0.0, "ds_encoder": 0.0}
    return rows + [{**row, **still, "dp": (-1) ** t * 0.012} for t, row in enumerate(rows[:10])]


def measured(name, n):
    rounds = [
        {"round": k, "new_pairs": 3 * n if k == 0 else n, "new_choices": 6 * n if k == 0 else 2 * n, "median_se": 0.4 - 0.05 * k,
         "rank_correlation": None if k == 0 else 0.9 + 0.03 * k, "split_half": 0.7 + 0.06 * k, "p_first": 0.73 - 0.01 * k,
         "label_mass": 0.86 + 0.01 * k, "refusals": 0, "unparsed": 0, "failed": 0,
         "reliability": {"split_half_r": 0.6, "spearman_brown": 0.7 + 0.06 * k, "splits": 10},
         "spend": {"requests": 2 * n, "prompt_tokens": 400 * n, "completion_tokens": 0, "dollars": 0.0}}
        for k in range(3)
    ]  # fmt: skip
    return {
        "set": name, "engine": "exact-local", "n_tasks": n, "n_pairs": 5 * n, "n_choices": 10 * n, "refusals": 0, "unparsed": 0,
        "failed": 0, "judged": 0, "asked": {"prompt": dict(PROMPT)}, "alone": 0, "losses": {}, "failures": {}, "served": {},
        "spend": {"requests": 10 * n, "prompt_tokens": 2000 * n, "completion_tokens": 0, "dollars": 0.0},
        "temperature": 1.0, "rounds": rounds, "stopped": "max_rounds", "converged": False,
        "reliability": {"split_half_r": 0.695, "spearman_brown": 0.82, "splits": 10},
        "fit": {"objective": 812.5, "max_gradient": 1e-6, "iterations": 9, "converged": True, "components": 1,
                "always_win": ["t-0001"], "always_lose": [], "agreement": 0.81},
        "position_bias": {"p_first": 0.71, "mean_logit": 1.12, "sd_logit": 0.8},
        "label_mass": {"mean": 0.88, "min": 0.41, "p05": 0.66}, "additive_r2": 0.47,
    }  # fmt: skip


ASKED = {
    "model": "planted-1b-0925", "provider": "Alpha", "system": False, "seed": True, "temperature": True, "limit": "max_tokens",
    "max_tokens": 16, "top_logprobs": 0, "label_mass": 0.62,
    "why": "sampled: answers begin with a label with a probability of 0.62, less than 0.9",
}  # fmt: skip
API = {
    "base_url": "https://api.example.org/v1", "model": "planted/planted-1b", "budget_usd": 5.0,
    "judge": {"model": "planted/judge"},
}  # fmt: skip


AGREED = {
    "pairs": 24, "choices": 48, "answers": 576, "refusals": 12, "unparsed": 6, "failed": 0, "labelled": 0.96,
    "label_mass": 0.97, "spread": 0.31, "noise": 0.08, "r": 0.9812, "r_low": 0.96, "r_high": 0.99, "difference": 0.0312,
    "difference_low": 0.0, "difference_high": 0.05, "min_agreement": 0.9, "max_difference": 0.1, "verdict": "same",
}  # fmt: skip


def over_api(results: Results, engine="sampled-api", mode="auto", judge=True) -> Results:
    """The same findings of a model behind an API, whose train set took more than the budget."""
    api = {**API, "mode": mode, "judge": API["judge"] if judge else None}
    samples = {"train": {"samples": 3}, "eval": {"samples": 2}, "shift": {"samples": 2}}
    config = {
        **results.config,
        "choices": ChoiceSettings.model_validate({"engine": "api", "api": api}).model_dump(mode="json"),
    }
    config |= {block: {**results.config[block], **more} for block, more in samples.items()}
    measure = json.loads(json.dumps(results.measure))
    for found in measure.values():
        for k, round_ in enumerate(found["rounds"]):
            n = round_["new_choices"]
            round_ |= {"refusals": n // 10, "unparsed": n // 20 + k, "failed": k}
            round_["spend"] = {
                "requests": n,
                "prompt_tokens": 187 * n,
                "completion_tokens": 5 * n,
                "dollars": 0.00021 * n,
            }
        n = found["n_choices"] = sum(round_["new_choices"] for round_ in found["rounds"])
        total = {kind: sum(round_[kind] for round_ in found["rounds"]) for kind in ("refusals", "unparsed", "failed")}
        found |= {**total, "engine": engine, "asked": ASKED, "judged": n // 30, "agreement": dict(AGREED)}
        found["spend"] = {
            "requests": n + n // 20,
            "prompt_tokens": 200 * n,
            "completion_tokens": 5 * n,
            "dollars": 0.00024 * n,
        }
        if engine == "sampled-api":
            found |= {"label_mass": dict.fromkeys(found["label_mass"]), "additive_r2": None}
            found["position_bias"] |= {"mean_logit": None, "sd_logit": None}
            for round_ in found["rounds"]:
                round_["label_mass"] = None
        found["served"] = {"planted-1b-0925 by Alpha": n - 44, "planted-1b-0925 by Beta": 41}
    measure["train"] |= {
        "stopped": "budget", "losses": {"429": 31, "timeout": 4, "cut body": 2},
        "failures": {"failed: 400 Flagged by the content filter (policy <7>)": 2, "failed: 404 No such route": 1},
    }  # fmt: skip
    measure["eval"]["served"] = {"planted-1b-0925 by Alpha": measure["eval"]["n_choices"] - 3}
    measure["eval"] |= {"losses": {"429": 2}, "failures": {"failed: 404 No such route": 3}}
    shift = results.shift and {**results.shift, "unanswered": 7}
    return dataclasses.replace(results, config=config, measure=measure, shift=shift)


NULLABLE = {
    "r", "r_select", "r_squared", "R2", "accuracy", "mean", "sd", "low", "high", "weighted_mean", "pooled", "r_eval",
    "rank_correlation", "split_half", "split_half_r", "spearman_brown", "additive_r2", "agreement", "label_mass", "min", "p05",
    "pearson", "spearman", "p", "value", "slope", "intercept", "noise", "signal_to_noise", "median_se", "seconds",
    "p_first", "mean_logit", "sd_logit", "refusals", "unparsed", "failed", "judged", "requests", "prompt_tokens",
    "completion_tokens", "dollars",
}  # fmt: skip


def nulled(found):
    """The same results with None wherever an estimate, an interval or a bound may be missing."""
    if isinstance(found, list):
        return [None] * len(found) if found and isinstance(found[0], float) else [nulled(inner) for inner in found]
    if not isinstance(found, dict):
        return found
    empty = {key: not isinstance(value, dict) or "low" in value for key, value in found.items()}
    return {k: None if k in NULLABLE and empty[k] else v if k == "alphas" else nulled(v) for k, v in found.items()}


def hollow(results: Results) -> Results:
    """Nothing could be estimated anywhere."""
    assert results.shift
    found = {name: {**of, "estimable": False, "encoder": None} for name, of in results.shift["experiments"].items()}
    changed = {name: nulled(getattr(results, name)) for name in ("probe", "hoo", "measure", "steps")}
    changed["measure"] = {
        n: {**of, **dict.fromkeys(("asked", "losses", "failures", "served"))} for n, of in changed["measure"].items()
    }
    shift = nulled({**results.shift, "experiments": found, "unanswered": None})
    flat = {name: table.filter([False] * table.num_rows) for name, table in results.predictions.items()}
    return dataclasses.replace(results, **changed, shift=shift, predictions=flat)


def hostile(results: Results) -> Results:
    """Names and texts that are markup, mathematics or a template to whoever does not quote them."""
    assert results.shift
    assert results.points
    first = max(results.utilities["train"].to_pylist(), key=lambda row: row["mu"])["task_id"]
    labels = {**results.labels, "minilm": "<b>m$x$_1</b>"}
    topics = {key: "math & $co" if topic == "math" else topic for key, topic in results.topics.items()}
    experiments = {("My <i>own</i>" if k == "persona" else k): v for k, v in results.shift["experiments"].items()}
    rows = [
        {**r, "experiment": r["experiment"].replace("persona", "My <i>own</i>")} for r in results.points.to_pylist()
    ]
    return dataclasses.replace(
        results, labels=labels, topics=topics, texts={**results.texts, first: HOSTILE}, points=pa.Table.from_pylist(rows),
        shift={**results.shift, "experiments": experiments}, model_name="Planted <M>",
    )  # fmt: skip


def without_options(results: Results) -> Results:
    """As little as the results of a run may hold: no ceiling, no shuffled labels, no counts of answers."""
    probe = {
        n: {**{k: v for k, v in of.items() if k != "ceiling"}, "shuffled": None} for n, of in results.probe.items()
    }
    new = {"refusals", "unparsed", "failed", "judged", "asked", "losses", "failures", "served", "spend"}
    few = {n: {k: v for k, v in of.items() if k not in new} for n, of in results.measure.items()}
    for of in few.values():
        of["rounds"] = [{k: v for k, v in r.items() if k not in {*new, "reliability"}} for r in of["rounds"]]
    return dataclasses.replace(results, probe=probe, measure=few)


@cache
def variant(name: str) -> Results:
    results = study()
    if name == "little":
        return dataclasses.replace(without_options(study(base=False)), shift=None, points=None)
    if name == "hostile":
        return hostile(results)
    asked = over_api(results) if name.startswith("asked") else results
    return hollow(asked) if name.endswith("hollow") else asked


@cache
def made_of(name: str):
    results = variant(name)
    judged = verdict(results)
    return results, judged, render(results, judged)


@cache
def drawn_of(name: str) -> dict[str, str]:
    return figures(variant(name))


@pytest.fixture(params=["whole", "little", "hollow", "hostile", "asked", "asked hollow"])
def made(request):
    return request.param, *made_of(request.param)


@pytest.fixture
def whole():
    return made_of("whole")


class Page(HTMLParser):
    """Ids, links and the numbers of each claim's row; fails on tags that do not nest."""

    VOID = frozenset({"meta", "br", "link", "img", "input"})

    def __init__(self, html):
        super().__init__()
        self.open: list[tuple[str, str]] = []
        self.ids, self.tags, self.text, self.claims, self.targets = [], set(), [], {}, set()
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.add(tag)
        self.ids += [found["id"]] if "id" in found else []
        self.targets |= {v[1:] for k, v in attrs if k.endswith("href") and v.startswith("#")}
        self.targets |= {name for _, v in attrs for name in re.findall(r"url\(#([^)]+)\)", v or "")}
        if tag == "data" and any(o[1].startswith("claim-") for o in self.open):
            row = next(o[1] for o in self.open if o[1].startswith("claim-"))
            self.claims.setdefault(row, []).append(float(found["value"]))
        if tag not in self.VOID:
            self.open.append((tag, found.get("id") or ""))

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if not self.open or self.open[-1][0] != "style":
            self.text.append(data)


def test_the_page_stands_alone_and_every_id_is_its_own(made) -> None:
    _, _, _, html = made
    page = Page(html)
    assert not page.tags & {"script", "link", "img", "iframe", "object", "embed"}
    before, _, rest = html.partition('<pre class="config"')  # which names the endpoint that was asked
    assert not re.search("https?://", before + rest.partition("</pre>")[2])
    assert "@import" not in html
    assert not re.search(r"\son\w+=", html)
    assert len(page.ids) == len(set(page.ids))
    assert page.targets <= set(page.ids)
    assert page.targets >= {"claims", "provenance"}
    text = " ".join(page.text)
    assert not re.search(r"\b(nan|NaN|None|inf|Undefined)\b", text + html.split("</style>")[1].replace("none", ""))
    assert "{{" not in text.replace("{{ braces }}", "")
    assert not set(PALETTE) & set(re.findall(r"#fe00\w\w", html))


def test_every_number_of_the_claims_table_is_the_verdicts(made) -> None:
    _, _, judged, html = made
    rows = Page(html).claims
    for claim in judged["claims"]:
        detail = json.dumps(claim["detail"])
        expected = [claim[key] for key in ("value", "low", "high") if claim[key] is not None]
        found = rows.get(f"claim-{claim['id'].replace('_', '-').lower()}", []) if "own" not in claim["id"] else expected
        assert found[: len(expected)] == expected
        known = {*(claim["published"] or {}).values(), *(claim["expected"] or ())}
        assert all(x in known or json.dumps(x) in detail for x in found[len(expected) :])
        assert known <= set(found) | set(expected if "own" in claim["id"] else ())
        assert html.count(f"{claim['verdict']}</span>") >= 1


def test_markup_in_names_and_texts_stays_text() -> None:
    _, _, html = made_of("hostile")
    assert "&lt;script&gt;alert(1)&lt;/script&gt; {{ braces }} &amp; {fill}" in html
    assert "<i>own" not in html
    assert "<b>m$" not in html
    drawn = drawn_of("hostile")
    for name, words in (("overview", "<b>m$x$_1</b>"), ("topics", "math & $co")):
        assert words in [element.text for element in ET.fromstring(drawn[name]).iter()]
    assert "shift-my-i-own-i" in drawn


def test_the_same_results_give_the_same_bytes(whole) -> None:
    results, judged, html = whole
    again = study.__wrapped__()
    assert json_bytes(verdict(again)) == json_bytes(judged)
    assert render(again, judged) == html  # with all figures
    assert tables(again) == tables(results)


@pytest.mark.parametrize("name", ["whole", "hollow", "hostile", "asked", "asked hollow"])
def test_figures_are_files_of_their_own(name) -> None:
    drawn = drawn_of(name)
    expected = {"overview", "layers", "alphas", "topics", "rounds", "folds"} | (
        set() if name.endswith("hollow") else {"scatter"}
    )
    assert expected <= set(drawn)
    assert sum(key.startswith("shift-") for key in drawn) == len(MOVES)
    for svg in drawn.values():
        root = ET.fromstring(svg)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert root.get("viewBox") == f"0 0 {root.get('width')} {root.get('height')}"
        assert root.get("role") == "img"
        assert root.get("aria-label")
        assert "var(" not in svg
        assert "#fe00" not in svg
        assert "nan" not in svg.lower().replace("tenant", "")


def test_tables_hold_what_figures_show(whole) -> None:
    results, _, _ = whole
    written = tables(results)
    assert set(written) == {f"{name}.csv" for name in drawn_of("whole")}
    rows = list(csv.DictReader(io.StringIO(written["overview.csv"])))
    assert len(rows) == 2 * (len(results.roles) + 1) + len(results.roles)
    model = next(row for row in rows if row["group"] == "held_out_raw" and row["features"] == "model")
    r = results.probe["model"]["targets"]["raw"]["r"]
    assert [float(model[key]) for key in ("value", "low", "high")] == pytest.approx(
        [r[k] for k in ("value", "low", "high")], rel=1e-5
    )
    assert model["published"] == "0.864"
    points = list(csv.DictReader(io.StringIO(written["shift-category.csv"])))
    assert len(points) == 60
    assert {row["on_target"] for row in points} == {"true", "false"}
    assert len(list(csv.DictReader(io.StringIO(written["topics.csv"])))) == results.utilities["train"].num_rows


def test_the_verdict_is_rounded_complete_and_self_consistent(made) -> None:
    name, results, judged, _ = made
    assert read_json(json_bytes(judged)) == judged
    assert rounded(judged) == judged
    ids = [claim["id"] for claim in judged["claims"]]
    assert len(ids) == len(set(ids))
    assert ids[:3] == ["heldout_raw", "heldout_demeaned", "heldout_accuracy"]
    assert sum(judged["summary"]["counts"].values()) == len(ids)
    jsonschema.validate(judged, SCHEMA)
    assert results.model_name in judged["summary"]["answer"]
    for claim in judged["claims"]:
        assert claim["holds"] <= (claim["verdict"] in rules.HOLDS)
        assert (claim["p"] is None) == (claim["p_holm"] is None)
        if claim["published"]:  # the number to compare with comes first, also once keys are sorted
            main = next(iter(claim["published"]))
            assert main == min(claim["published"])
            assert main in {"r", "accuracy", "advantage", "mean", "on_target"}
        if name.endswith("hollow"):
            assert claim["verdict"] == rules.NOT_ESTIMABLE
            assert claim["value"] is None


def test_planted_findings_are_present_and_an_unmoved_experiment_is_not_estimable(whole) -> None:
    results, judged, html = whole
    by_id = {claim["id"]: claim for claim in judged["claims"]}
    for id_ in ("heldout_raw", "heldout_above_minilm", "cross_topic", "shift_category"):
        assert by_id[id_]["verdict"] in rules.HOLDS, id_
    assert by_id["shift_persona"]["verdict"] == rules.NOT_ESTIMABLE
    assert by_id["shift_persona"]["published"] is None
    assert results.shift["experiments"]["persona"]["pooled"]["pearson"] is not None  # of noise, and so no estimate
    assert by_id["shift_persona"]["value"] is by_id["shift_persona"]["detail"]["pooled"] is None
    assert escape(by_id["shift_persona"]["why"]) in html
    assert by_id["shift_competing"]["verdict"] == rules.TEXT
    assert "3 of 5 experiments (category, targeted and crossed)" in judged["summary"]["answer"]
    assert "1 followed the prompt’s text, as an encoder does (competing)" in judged["summary"]["answer"]
    assert "tests/unit/jobs/test_planted_world.py" in html
    assert judged["not_run"] == []


def test_differences_are_paired(whole) -> None:
    results, judged, _ = whole
    by_id = {claim["id"]: claim for claim in judged["claims"]}
    r = {}
    for name in ("model", "minilm"):
        rows = [row for row in results.predictions[name].to_pylist() if row["target"] == "raw"]
        x, y, half = (np.array([row[c] for row in rows]) for c in ("observed", "predicted", "half"))
        r[name] = r_within(x, y, half) or 0.0
    assert by_id["heldout_above_minilm"]["value"] == pytest.approx(r["model"] - r["minilm"], rel=1e-5)
    folds = [np.array([fold["r"] for fold in results.hoo[name]["folds"]]) for name in ("model", "minilm")]
    assert by_id["cross_topic_above_minilm"]["value"] == pytest.approx((folds[0] - folds[1]).mean(), rel=1e-5)
    assert by_id["cross_topic_above_minilm"]["published"]["advantage"] == pytest.approx(0.463)

    # with another's predictions in place of the encoder's there is no difference, and none is found
    same = dataclasses.replace(results, predictions={**results.predictions, "minilm": results.predictions["model"]})
    claim = next(c for c in verdict(same)["claims"] if c["id"] == "heldout_above_minilm")
    assert (claim["value"], claim["low"], claim["high"]) == (0, 0, 0)
    assert claim["verdict"] == rules.ABSENT

    # a fold that one of them cannot estimate counts for neither
    lost = json.loads(json.dumps(results.hoo))
    lost["minilm"]["folds"][0]["r"] = None
    claim = next(
        c for c in verdict(dataclasses.replace(results, hoo=lost))["claims"] if c["id"] == "cross_topic_above_minilm"
    )
    assert claim["value"] == pytest.approx((folds[0] - folds[1])[1:].mean(), rel=1e-5)
    assert claim["detail"]["folds"] == len(TOPICS) - 1


def test_what_was_not_run_is_listed_and_not_claimed() -> None:
    judged = verdict(dataclasses.replace(study(base=False), shift=None, points=None))
    missing = {entry["id"] for entry in judged["not_run"]}
    assert missing == {"heldout_above_base", "cross_topic_above_base", *(f"shift_{name}" for name in MOVES)}
    assert not missing & {claim["id"] for claim in judged["claims"]}
    assert all("base" in e["why"] for e in judged["not_run"] if e["id"].endswith("base"))
    assert "was not tested" in judged["summary"]["answer"]


def test_limits_say_what_applies_and_nothing_else(whole) -> None:
    results, _, html = whole
    said = " ".join(limits(results))
    for words in ("0.71 (train and eval)", "Additivity", "Extremes", "Convergence", "14 blocks"):
        assert words in said
        assert words in html
    assert "No base model" not in said
    assert "No base model" in " ".join(limits(study(base=False)))
    fine = json.loads(json.dumps(results.measure))
    for of in fine.values():
        of |= {"converged": True, "additive_r2": 0.9}
        of["position_bias"]["p_first"], of["fit"]["always_win"], of["label_mass"]["mean"] = 0.52, [], 0.97
    said = " ".join(limits(dataclasses.replace(results, measure=fine)))
    for words in ("Position bias", "Additivity", "Extremes", "Convergence", "Label mass"):
        assert words not in said


def test_a_part_of_an_experiment_is_a_limit_and_refitted_utilities_have_a_table(whole) -> None:
    results, _, html = whole
    assert not [limit for limit in limits(results) if limit.startswith("Experiments")]
    assert "Whole utilities under prompts" not in html
    found = json.loads(json.dumps(results.shift["experiments"]))
    found["category"] |= {
        "part": "6 of 38 prompts, 10 of 60 tasks",
        "refitted": {"pearson": 0.714, "spearman": None, "n": 20},
    }
    some = dataclasses.replace(results, shift={**results.shift, "experiments": found})
    (said,) = [limit for limit in limits(some) if limit.startswith("Experiments")]
    assert "6 of 38 prompts, 10 of 60 tasks (category)" in said
    assert cells(render(some, verdict(some)), "Whole utilities")[1] == ["category", "0.714", "–", "20"]


def cells(html: str, caption: str) -> list[list[str]]:
    """The rows of the table with this caption, as words."""
    table = next(part for part in html.split("<table") if f"<caption><b>{caption}" in part).split("</table>")[0]
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in table.split("<tr>")[1:]]
    return [[re.sub("<[^>]*>", "", cell) for cell in row] for row in rows]


def test_own_weights_make_a_lean_page(whole) -> None:
    results, _, html = whole
    heads, *rows = cells(html, "Rounds.")
    assert heads == ["Round", "new pairs", "choices", "rank r", "split-half", "median s.e.", "P(first)"]
    assert rows[0] == ["train"]
    assert rows[1] == ["0", "288", "576", "–", "0.700", "0.400", "0.730"]
    assert rows[4] == ["eval"]
    assert len(rows) == 2 + 6
    names = [row[0] for row in cells(html, "What was measured.")]
    assert names[1:6] == ["tasks", "pairs", "choices", "rounds", "stopped by"]
    assert names[6] == "P(first is chosen)"
    assert "label mass: least" in names
    assert "What came back" not in html
    said = " ".join(limits(results) + method(results))
    assert "in one forward pass" in said
    assert "scaled to how much exact probabilities" in said
    for words in (
        "Budget",
        "Refusals",
        "Unparsed",
        "Failed",
        "Lost",
        "Providers",
        "Sampling",
        "Unanswered",
        "in each order",
    ):
        assert words not in said


def test_answers_over_an_api_are_counted_and_paid_for_on_the_page() -> None:
    results, _, html = made_of("asked")
    heads, *rows = cells(html, "Rounds.")
    assert heads[7:] == ["refusals", "unparsed", "failed", "tokens", "US$"]
    assert rows[2][7:] == ["19", "10", "1", "36,864", "0.0403"]
    table = {row[0]: row[1:] for row in cells(html, "What was measured.")}
    assert not [name for name in table if "label mass" in name or "logit" in name]
    assert "–" not in [cell for row in table.values() for cell in row]
    assert table["stopped by"] == ["budget", "last round"]
    table = {row[0]: row[1:] for row in cells(html, "What came back")}
    train = results.measure["train"]
    assert table["unparsed answers"][0] == f"{train['unparsed']:,}"
    assert table["answers read by the judge"] == ["32", "20"]
    assert table["failed questions"] == ["3", "3"]
    assert table["attempts lost: 429"] == ["31", "2"]
    assert table["attempts lost: timeout"] == ["4", "0"]
    assert table["answers of planted-1b-0925 by Beta"] == ["41", "0"]
    assert table["answers paid for"][0] == f"{train['spend']['requests']:,}"
    assert table["US$"] == ["0.2304", "0.1440"]


def test_choices_under_system_prompts_are_accounted_for_too() -> None:
    results = over_api(study())
    assert results.shift
    account = {**results.measure["eval"], "losses": {"503": 5}, "n_choices": 100, "refusals": 50}
    results = dataclasses.replace(results, shift={**results.shift, "account": account})
    html = render(results, verdict(results))
    rows = cells(html, "What came back")
    assert rows[0] == ["Answers", "train", "eval", "system prompts"]
    assert ["attempts lost: 503", "0", "0", "5"] in rows
    assert "50 % (system prompts)" in html


def test_what_costs_nothing_and_has_no_judge_has_no_row() -> None:
    results = over_api(study(), judge=False)
    for found in results.measure.values():
        for spend in (found["spend"], *(round_["spend"] for round_ in found["rounds"])):
            spend["dollars"] = 0.0
    names = [name for name, _ in choice_tables.asked(results)]
    assert "tokens in" in names
    assert not {"US$", "answers read by the judge"} & set(names)
    assert "US$" not in choice_tables.rounds(results)[0]


def test_what_an_api_cannot_show_is_a_limit() -> None:
    said = limits(variant("asked"))
    for words in (
        "Budget: measuring stopped because the budget was spent, after 960 choices (train); the last round is not whole.",
        "Refusals: of the answers, 10 % (train and eval) decline to choose.",
        "Unparsed answers: 5 % (train) and 6 % (eval) say neither",
        "turned down 6 for good; they count for neither task. It said “404 No such route” (4) and “400 Flagged by",
        "beside 1,560 answers, those that were lost and tried again number 39: 429 (33), timeout (4) and cut body (2).",
        "Providers: answers came from more than one provider or name, planted-1b-0925 by Alpha (1,513) and planted-1b-0925 by",
        "because answers begin with a label with a probability of 0.62, less than 0.9.",
        "leave out number 7;",
        "Convergence: measuring stopped with its last allowed round, at a rank correlation of 0.960 with the one before (eval).",
    ):
        assert sum(words in sentence for sentence in said) == 1, words
    assert "No judge was set" not in " ".join(said)
    assert "No judge was set" in " ".join(limits(over_api(study(), judge=False)))
    fine = over_api(study(), mode="sampled")
    for found in fine.measure.values():
        n = found["n_choices"]
        found |= {"refusals": n // 20, "unparsed": n // 20, "failures": {}, "losses": {}, "served": {"a by b": n}}
        found["stopped"] = "max_rounds"
    assert fine.shift
    quiet = " ".join(limits(dataclasses.replace(fine, shift={**fine.shift, "unanswered": 0})))
    for words in ("Budget", "Refusals", "Unparsed", "Failed", "Lost", "Providers", "Sampling", "Unanswered"):
        assert words not in quiet


def test_a_beginning_that_was_given_and_what_was_not_read_are_limits() -> None:
    assert not [limit for limit in limits(over_api(study())) if limit.startswith(("Beginning", "Unread"))]
    results = over_api(study())
    for found in results.measure.values():
        found["asked"] |= {"prefill": "Task", "label_mass": 0.314}
    results.measure["train"]["unread"] = {"the listed tokens are not the answer": 3}
    said = [limit for limit in limits(results) if limit.startswith(("Beginning", "Unread"))]
    assert said[0].startswith(
        "Beginning: all answers were given their beginning, “Task”, since their own begin with a label with a probability of "
        "0.31 (train and eval)."
    )
    assert said[1] == (
        "Unread: the log-probabilities of 3 unparsed answers are not those of an answer: the listed tokens are not the answer "
        "(3)."
    )


def test_answers_that_only_call_a_tool_have_a_row_and_are_a_limit() -> None:
    results = over_api(study(), engine="sampled-api")
    assert "Calls of tools" not in " ".join(limits(results))
    assert not [name for name, _ in choice_tables.asked(results) if "tool" in name]
    results.measure["train"]["tool_calls"] = 12
    (said,) = [limit for limit in limits(results) if limit.startswith("Calls of tools")]
    assert said.startswith(
        "Calls of tools: 12 (train) of the unparsed answers call a tool and say nothing; `extra: {tool_"
    )
    rows = dict(choice_tables.asked(results))
    assert [value for value, _ in rows["of them only calls of tools"]][:2] == [12, None]
    names = list(rows)
    assert names.index("of them only calls of tools") == names.index("unparsed answers") + 1


def test_values_that_are_only_bounded_are_a_limit() -> None:
    exact = over_api(study(), engine="exact-api")
    assert "Bounds" not in " ".join(limits(exact))
    n = exact.measure["train"]["n_choices"]
    exact.measure["train"]["bounded"] = 12
    said = [limit for limit in limits(exact) if limit.startswith("Bounds")]
    assert said == [
        f"Bounds: of 12 of {n} choices (train) only one label was listed; the log-odds that are read of them are the "
        "least that they can be, and utilities that rest on them may lie further apart than they are said to."
    ]
    rows = dict(choice_tables.asked(exact))
    assert rows["with only one label listed"][0] == (12, "12")


def test_estimated_tokens_are_a_limit_and_what_was_paid_in_vain_has_rows() -> None:
    plain = over_api(study())
    assert "Tokens" not in " ".join(limits(plain))
    assert "in vain" not in " ".join(name for name, _ in choice_tables.asked(plain))
    results = over_api(study())
    train, n = results.measure["train"], results.measure["train"]["n_choices"]
    train |= {"estimated": n, "repeated": {"requests": 28, "prompt_tokens": 90, "completion_tokens": 8, "dollars": 0.5}}
    said = [limit for limit in limits(results) if limit.startswith("Tokens")]
    assert len(said) == 1
    assert said[0].startswith(
        f"Tokens: of {n:,} of {n:,} answers (train) the endpoint does not report the tokens. They are"
    )
    rows = {name: cells[0] for name, cells in choice_tables.asked(results) if "in vain" in name}
    assert list(rows.values()) == [(28, "28"), (90, "90"), (8, "8"), (0.5, "0.5000")]


def test_how_well_the_endpoint_agrees_with_own_weights_is_said() -> None:
    results = over_api(study())
    results.measure["eval"]["agreement"] |= {"r": 0.95, "r_low": 0.91, "r_high": 0.98}
    said = next(text for text in method(results) if text.startswith("Own weights chose"))
    assert (
        "over 24 (train and eval) pairs the endpoint’s P(A) correlates with theirs at r = 0.981 [0.960, 0.990] (train)"
        in said
    )
    assert "and 0.950 [0.910, 0.980] (eval)" in said
    assert (
        "lies 0.031 [0.000, 0.050] (train and eval) apart (root mean square), both freed of the noise of sampling"
        in said
    )
    assert "surely below 0.9, or the distance above 0.1" in said
    rows = dict(choice_tables.asked(results))
    assert rows["r of P(A) with own weights"][:2] == [(0.9812, "0.981"), (0.95, "0.950")]
    assert rows["P(A) apart, root mean square"][0] == (0.0312, "0.031")
    assert not [limit for limit in limits(results) if limit.startswith("One model")]
    for found in results.measure.values():
        found["agreement"]["noise"] = 0.0
    assert "noise of sampling" not in " ".join(method(results))
    plain = study()
    assert "One model" not in " ".join(limits(plain))
    assert "Own weights chose" not in " ".join(method(plain))


def test_what_leaves_open_whether_it_is_one_model_is_a_limit() -> None:
    def said(**changed: object) -> list[str]:
        results = over_api(study())
        results.measure["eval"]["agreement"] |= changed
        return [limit for limit in limits(results) if limit.startswith("One model")]

    assert said() == []
    (open_,) = said(verdict="undecided", r_low=0.71, difference_high=0.13)
    assert "r may be as low as 0.71 (eval), and P(A) as far apart as 0.13 (eval)" in open_
    (rare,) = said(labelled=0.31)
    assert "far rarer than own weights make them: 31 %, of own weights 97 % (eval)." in rare
    (flat,) = said(r=0.46, r_low=-0.2, r_high=0.7, spread=0.05)
    assert "hardly varies between pairs (sd 0.05 (eval))" in flat
    alone = over_api(study())
    for found in alone.measure.values():
        del found["agreement"]
    (not_compared,) = [limit for limit in limits(alone) if limit.startswith("One model")]
    assert "was not compared with own weights" in not_compared


def test_only_a_few_sentences_of_a_provider_are_given() -> None:
    results = over_api(study())
    results.measure["eval"]["failures"] = {f"failed: 400 No. {k} {'x' * 400}": 1 for k in range(9)}
    sentence = next(limit for limit in limits(results) if limit.startswith("Failed"))
    assert "other reasons (8)" in sentence
    assert "x" * 100 in sentence
    assert "x" * 200 not in sentence


def test_the_method_says_how_answers_were_read() -> None:
    sampled = " ".join(method(variant("asked")))
    assert "an answer is sampled and the label that it begins with is read" in sampled
    assert "planted/planted-1b at api.example.org was asked 3 (train), 2 (eval) and 2 (system prompts) times" in sampled
    assert "with another seed each time; an answer without a label is read by planted/judge" in sampled
    assert "The endpoint takes no system role" in sampled
    assert "scaled to" not in sampled
    plain = over_api(study(), judge=False)
    for found in plain.measure.values():
        found["asked"] = {**ASKED, "seed": False, "system": True}
    said = " ".join(method(plain))
    assert "in each order; an answer without a label counts for neither task. The endpoint takes no seed." in said
    exact = over_api(study(), engine="exact-api")
    for found in exact.measure.values():
        found["asked"] = {**ASKED, "top_logprobs": 20, "system": True}
    said = " ".join(method(exact))
    assert "is read from the log-probabilities that the endpoint lists" in said
    assert "asked once in each order for the log-probabilities of the 20 likeliest tokens" in said
    assert "scaled to how much exact probabilities" in said
    assert "endpoint takes no" not in said
    assert not [limit for limit in limits(exact) if limit.startswith("Sampling")]


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ({}, "rendered with the model’s chat template; a system prompt has a turn of its own."),
        (
            {"template": {"enable_thinking": False, "x": 1}, "date": "2025-01-01"},
            "chat template, given enable_thinking = false and x = 1, on a date that is fixed at 2025-01-01; a system",
        ),
        ({"folded": True}, "; it prints no system turn, so that a system prompt stands at the head of the user’s."),
        ({"closing": "<think>\n\n</think>\n\n"}, "is closed as the template does it: “<think> </think>”."),
        ({"chat": False, "folded": None}, "Prompts are bare text, a system prompt above it."),
        ({"merged": True}, "would merge the end of the prompt with a label; the label’s"),
    ],
)
def test_the_method_says_how_prompts_were_made(whole, prompt, said) -> None:
    results, _, _ = whole
    about = {"chat": True, "template": {}, "folded": False, "closing": None, "merged": False} | prompt
    measure = {**results.measure, "train": {**results.measure["train"], "asked": {"prompt": about}}}
    assert said in " ".join(method(dataclasses.replace(results, measure=measure)))


def test_the_method_says_what_went_through_one_prompt_at_a_time(whole) -> None:
    results, _, _ = whole
    assert "packed" not in " ".join(method(results))
    card = {**results.model_card, "alone": "prompts go through x one at a time, since its layers take no packed pass"}
    measure = {**results.measure, "eval": {**results.measure["eval"], "alone": 30}}
    said = " ".join(method(dataclasses.replace(results, model_card=card, measure=measure)))
    assert "are not used: prompts go through x one at a time, since its layers take no packed pass." in said
    assert "30 choices were read in a pass of their one prompt" in said


def test_quantised_weights_are_said(whole) -> None:
    results, _, _ = whole
    assert "quantised" not in " ".join(method(results))
    config = {**results.config, "model": {**results.config["model"], "quantisation": "4bit"}}
    said = " ".join(method(dataclasses.replace(results, config=config)))
    assert "are quantised at load to 4 bits (NF4) by bitsandbytes: what is measured is the quantised model." in said


def test_prompts_of_an_endpoint_are_its_own(whole) -> None:
    over = over_api(study(), engine="exact-api")
    assert "Prompts of activations are rendered with the model’s chat template;" in " ".join(method(over))


def test_the_rounds_are_drawn_and_written_with_and_without_label_mass() -> None:
    def drawn(results: Results) -> str:
        svg = draw("rounds", "", lambda: charts_choices.rounds(rows_of.rounds(results))).as_file()
        return " ".join(element.text or "" for element in ET.fromstring(svg).iter())

    def written(results: Results) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO(tables(results)["rounds.csv"])))

    little = variant("little")
    for results in (study(), little):
        assert "label mass" in drawn(results)
        assert "choose neither task" not in drawn(results)
    asked = drawn(variant("asked"))
    assert "choose neither task" in asked
    assert "label mass" not in asked
    for found in (gone := json.loads(json.dumps(little.measure))).values():
        for round_ in found["rounds"]:
            round_["label_mass"] = None
    bare = drawn(dataclasses.replace(little, measure=gone))
    assert "label mass" not in bare
    assert "choose neither task" not in bare
    row = written(variant("asked"))[1]
    expected = {
        "label_mass": "",
        "new_pairs": "96",
        "choices": "192",
        "refusals": "19",
        "unparsed": "10",
        "failed": "1",
    }
    expected |= {"neither": "0.151042", "prompt_tokens": "35904", "completion_tokens": "960", "dollars": "0.04032"}
    assert row | expected == row
    assert written(variant("little"))[1]["refusals"] == ""


def test_folds_of_two_topics_are_shown_by_topic() -> None:
    rows: rows_of.Rows = [
        {"held_out": "a + b", "features": "model", "r": 0.2}, {"held_out": "a + c", "features": "model", "r": 0.4},
        {"held_out": "b + c", "features": "model", "r": None}, {"held_out": "b + d", "features": "other", "r": 0.9},
    ]  # fmt: skip
    assert rows_of.by_topic(rows, "model") == {"a": pytest.approx(0.3), "b": 0.2, "c": 0.4}


def test_a_panel_without_values_has_the_axis_of_the_others() -> None:
    rows = [row | {"p_first": None, "split_half": None} for row in rows_of.rounds(study())]
    axes = [each for each in charts_choices.rounds(rows).axes if each.axison]
    assert len({each.get_xlim() for each in axes}) == 1 < len(axes) == 3
    assert axes[0].get_xlim()[1] > max(row["pairs"] for row in rows)


def test_many_dots_are_thinned_evenly() -> None:
    rows = evenly(range(10 * MOST_DOTS))
    assert (len(rows), rows[0], rows[-1]) == (MOST_DOTS, 0, 10 * MOST_DOTS - 1)
    assert evenly([1, 2, 3]) == [1, 2, 3]


def test_labels_are_spread_apart_in_their_order() -> None:
    moved = spread([0.5, 0.5, 0.1, 0.55], 0.2)
    assert sorted(range(4), key=lambda i: moved[i]) == [2, 0, 1, 3]
    assert np.diff(sorted(moved)).min() > 0.19
    assert spread([0.0, 1.0], 0.2) == [0.0, 1.0]


def test_the_numbers_of_a_verdict_are_rounded() -> None:
    assert rounded({"x": [0.123456789, -0.0], "n": 3, "flag": True}) == {"x": [0.123457, 0.0], "n": 3, "flag": True}
