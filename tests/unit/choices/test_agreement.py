"""Whether choices of an endpoint and of own weights are taken for those of one model: planted tables, seeded worlds."""

import importlib.util
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from prefprobe.choices.agreement import SAMPLES, SPREAD, Agreement, agreement, objection
from prefprobe.choices.log import SCHEMA
from prefprobe.choices.pairs import few_pairs
from prefprobe.config import load_config
from prefprobe.errors import BadConfig
from prefprobe.settings.api import ENOUGH_PAIRS, ApiSettings

ROOT = Path(__file__).parents[3]
BOUNDS = {"min_agreement": 0.9, "max_difference": 0.1}


def _simulation() -> ModuleType:
    spec = importlib.util.spec_from_file_location("simulated_agreement", ROOT / "benchmarks" / "agreement.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


worlds = _simulation()


def table(*rows: dict[str, Any]) -> pa.Table:
    plain = {"choice_id": "", "round": 0, "prompt_id": "", "repeat": 0, "judged": False, "bounded": False}
    return pa.Table.from_pylist([plain | {"logit": None, "label_mass": None} | row for row in rows], schema=SCHEMA)


def exact(p: dict[tuple[str, str], float], mass: float = 0.9) -> pa.Table:
    rows = ({"task_a": a, "task_b": b, "outcome": "exact", "p_a": v, "label_mass": mass} for (a, b), v in p.items())
    return table(*rows)


def sampled(answers: dict[tuple[str, str], str]) -> pa.Table:
    """`aab-?` are two of A, one of B, a refusal and one that is not understood; `J` was A to a judge."""
    outcomes = {"a": "a", "b": "b", "-": "refusal", "?": "unparsed", "J": "a"}
    return table(
        *(
            {"task_a": a, "task_b": b, "repeat": k, "outcome": outcomes[said], "judged": said == "J"}
            | {"p_a": {"a": 1.0, "b": 0.0, "J": 1.0}.get(said)}
            for (a, b), all_ in answers.items()
            for k, said in enumerate(all_)
        )
    )


def orders(n: int) -> list[tuple[str, str]]:
    return [order for a, b in few_pairs([f"t{i}" for i in range(2 * n)], n, 0) for order in ((a, b), (b, a))]


def planted(n: int = 24, seed: int = 1) -> dict[tuple[str, str], float]:
    return dict(zip(orders(n), np.random.default_rng(seed).uniform(0.05, 0.95, 2 * n), strict=True))


def test_equal_probabilities_agree_and_unrelated_ones_do_not() -> None:
    p = planted()
    same = agreement(exact(p), exact(p), **BOUNDS)
    assert (same.pairs, same.choices, same.answers, same.verdict) == (24, 48, 48, "same")
    assert same.r == pytest.approx(1.0)
    assert (same.difference, same.noise) == (0.0, 0.0)
    other = agreement(exact(p), exact(planted(seed=2)), **BOUNDS)
    assert other.verdict == "different"
    assert other.r_high is not None
    assert other.r_high < 0.9


@pytest.mark.parametrize("rounding", [0.0, 1e-7, 1e-5])
def test_what_never_varies_correlates_with_nothing(rounding: float) -> None:
    p = planted()
    rng = np.random.default_rng(0)
    constant = exact({order: 0.6 + rounding * float(rng.normal()) for order in p})
    found = agreement(exact(p), constant, **BOUNDS | {"max_difference": 1.0})
    assert (found.r, found.r_low, found.r_high, found.verdict) == (0.0, 0.0, 0.0, "different")


def test_estimates_are_those_of_numpy_where_nothing_is_sampled() -> None:
    p, q = planted(), planted(seed=2)
    found = agreement(exact(p), exact(q), **BOUNDS)
    x, y = np.array(list(p.values())), np.array(list(q.values()))
    assert found.r == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert found.difference == pytest.approx(np.sqrt(((x - y) ** 2).mean()))
    assert found.spread == pytest.approx(x.std())
    assert x.std() > SPREAD


def test_sampling_noise_moves_neither_estimate() -> None:
    """Over many draws of few answers both are what they are between the probabilities themselves."""
    p, rng = planted(), np.random.default_rng(0)
    q = {order: float(np.clip(value + rng.normal(0, 0.15), 0.02, 0.98)) for order, value in p.items()}
    true = agreement(exact(p), exact(q), **BOUNDS)
    found = [
        agreement(
            exact(p), sampled({o: "".join(rng.choice(["a", "b"], 6, p=[v, 1 - v])) for o, v in q.items()}), **BOUNDS
        )
        for _ in range(150)
    ]
    r, squared = ([getattr(f, name) for f in found] for name in ("r", "difference"))
    raw_r = np.mean([f.r * np.sqrt(1 - f.noise) for f in found if f.r is not None and f.noise is not None])
    assert true.r is not None
    assert true.difference is not None
    assert np.mean(r) == pytest.approx(true.r, abs=0.03)
    assert raw_r < true.r - 0.1  # what it would be if noise were not taken off
    assert np.mean(np.square(squared)) == pytest.approx(true.difference**2, abs=0.005)


@pytest.mark.parametrize("other", worlds.SAME)
def test_one_model_hardly_ever_stops_a_study(other: str) -> None:
    """In one world of a hundred at most, whatever it is like; seeds are fixed."""
    cases = product(worlds.OWN, worlds.MASSES, (0, SAMPLES))
    found = [f for own, mass, samples in cases for f in worlds.verdicts(own, other, mass, samples, 50)]
    assert np.mean([f.verdict == "different" for f in found]) <= 0.01


@pytest.mark.parametrize("samples", [0, SAMPLES])
@pytest.mark.parametrize(
    ("own", "other", "mass"),
    [(own, other, 0.95) for own in ("decisive", "mild") for other in worlds.OTHER]
    + [("decisive", "another prompt", 0.5), ("mild", "another model", 0.5), ("constant", "another model", 0.95)],
)
def test_another_model_stops_it(own: str, other: str, mass: float, samples: int) -> None:
    stopped = np.mean([found.verdict == "different" for found in worlds.verdicts(own, other, mass, samples, 30)])
    assert stopped >= 0.85


def test_one_model_that_chooses_and_answers_plainly_is_recognised() -> None:
    for samples in (0, SAMPLES):
        found = worlds.verdicts("decisive", "same weights", 0.95, samples, 40)
        assert np.mean([f.verdict == "same" for f in found]) > 0.8


def test_where_own_probabilities_hardly_vary_their_distance_decides() -> None:
    rng = np.random.default_rng(3)
    p = {order: 0.8 + 0.01 * rng.normal() for order in orders(24)}
    unlike = {order: 0.8 + 0.01 * rng.normal() for order in p}
    near = agreement(exact(p), exact(unlike), **BOUNDS)
    assert near.r is not None
    assert near.r < 0.5
    assert near.verdict == "same"
    assert agreement(exact(p), exact({o: v - 0.2 for o, v in p.items()}), **BOUNDS).verdict == "different"
    constant = agreement(exact(dict.fromkeys(p, 0.8)), exact(unlike), **BOUNDS)
    assert (constant.r, constant.verdict) == (None, "same")


def test_what_says_nothing_of_a_question_is_left_out_and_counted() -> None:
    (a, b), (b_, a_), (c, d) = orders(2)[:3]
    own = exact(planted(2), mass=0.7)
    other = sampled({(a, b): "ab?-", (b_, a_): "aJJJ", (c, d): "?-b", ("x", "y"): "aaaa"})
    found = agreement(own, other, **BOUNDS)
    assert (found.pairs, found.choices, found.answers) == (1, 1, 15)  # one answer tells nothing of its noise
    assert (found.refusals, found.unparsed, found.failed) == (2, 2, 0)
    assert found.labelled == pytest.approx(8 / 15)
    assert found.label_mass == pytest.approx(0.7)
    assert (found.r, found.verdict) == (None, "undecided")
    assert objection(found, "m") is None


def test_few_pairs_decide_nothing() -> None:
    few, enough = (planted(n) for n in (ENOUGH_PAIRS - 1, ENOUGH_PAIRS))
    for p, verdict in ((few, "undecided"), (enough, "different")):
        assert agreement(exact(p), exact({o: 1 - v for o, v in p.items()}), **BOUNDS).verdict == verdict


def test_answers_that_never_name_a_label_are_objected_to_and_none_at_all_are_not() -> None:
    p = planted()
    refusing = agreement(exact(p), sampled(dict.fromkeys(p, "-?")), **BOUNDS)
    sentence = objection(refusing, "measure.train: m at u")
    assert sentence is not None
    assert "of 96 answers 48 refuse, 48 begin with no label and 0 failed" in sentence
    assert "with a probability of 0.90" in sentence
    nearly = sampled({order: "-?-?-?-?-?aa" if k < 5 else "-?" for k, order in enumerate(p)})
    found = agreement(exact(p), nearly, **BOUNDS)
    assert (found.pairs, found.verdict) == (3, "undecided")
    assert "which leaves 3 pairs, where own weights begin with a label" in (objection(found, "m") or "")
    assert objection(agreement(exact(p, mass=0.1), nearly, **BOUNDS), "m") is None  # as seldom as own weights
    assert objection(agreement(exact(p), table(), **BOUNDS), "m") is None  # the budget was spent: the loop says so


def test_the_sentence_says_what_was_found_expected_and_is_to_be_checked() -> None:
    found = agreement(exact(planted()), exact(planted(seed=2)), **BOUNDS)
    sentence = objection(found, "measure.train: m at u")
    assert sentence is not None
    assert sentence.startswith(
        "measure.train: m at u is not the model of own weights: over 24 pairs P(A) correlates at r = "
    )
    for word in (
        *("choices.api.min_agreement = 0.9", "choices.api.max_difference = 0.1", "model.source", "revision"),
        *("model.adapter", "quantised", "system prompt", "model.template", "model.date", "temperature"),
        "set choices.api.compare to 0",
    ):
        assert word in sentence
    assert "\n" not in sentence


def test_bounds_are_the_settings_and_the_loosest_never_stop() -> None:
    p, q = planted(), {o: 1 - v for o, v in planted().items()}
    found = agreement(exact(p), exact(q), min_agreement=-1.0, max_difference=1.0)
    assert found.verdict == "same"
    assert (found.min_agreement, found.max_difference) == (-1.0, 1.0)
    assert objection(found, "m") is None
    apart = agreement(exact(p), exact({o: 0.8 * v for o, v in p.items()}), min_agreement=0.9, max_difference=0.01)
    assert apart.verdict == "different"


def test_the_result_does_not_depend_on_the_order_of_rows() -> None:
    own, other = worlds.world(np.random.default_rng(5), worlds.OWN["mild"], worlds.OTHER["another prompt"], 0.6, 6)
    found: list[Agreement] = []
    for seed in range(3):
        shuffled = np.random.default_rng(seed)
        tables = (t.take(shuffled.permutation(t.num_rows)) for t in (own, other))
        found.append(agreement(*tables, **BOUNDS))
    assert found[0].r == pytest.approx(found[1].r)
    assert found[0].difference_high == pytest.approx(found[2].difference_high)


def test_too_few_pairs_to_tell_anything_are_refused() -> None:
    api = ["choices.engine=api", "choices.api.base_url=http://127.0.0.1/v1", "choices.api.model=m"]
    demo = ROOT / "presets" / "demo.yaml"
    for pairs in (0, ENOUGH_PAIRS):
        assert load_config(demo, [*api, f"choices.api.compare={pairs}"]).choices.own_pairs == pairs
    with pytest.raises(BadConfig, match=r"choices\.api\.compare.*fewer than 8 pairs tell nothing"):
        load_config(demo, [*api, "choices.api.compare=3"])
    assert load_config(demo, api).choices.own_pairs == ApiSettings(base_url="http://h", model="m").compare == 24
    assert load_config(demo).choices.own_pairs == 0
