"""Tokens a second at the shape of Gemma-3-27B (random weights, bfloat16): packed prefix trees against padded batches.

Needs a CUDA GPU of 80 GB. Prompts are random tokens with the lengths of real ones: a shared beginning (system prompt and
instructions), then one task (activations) or an ordered pair of tasks (choices). Each way does the same prompts, in turns.
`useful` counts the tokens of the prompts as they are, whatever a way computes; the packed pass may therefore exceed what the
GPU could do token by token. A first small comparison shows that both ways give the same hidden states.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import cast

import numpy as np
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from prefprobe.activations.model import LoadedModel
from prefprobe.activations.passes import check_model, forward
from prefprobe.activations.prompts import PromptFormat

LAYERS = (6, 12, 18, 24, 31, 37, 43, 49, 55)
Prompts = list[list[int]]


def random_model(blocks: int) -> LoadedModel:
    """Gemma-3-27B's shape with `blocks` of its 62 blocks."""
    config = Gemma3TextConfig(
        vocab_size=262208, hidden_size=5376, intermediate_size=21504, num_hidden_layers=blocks, num_attention_heads=32,
        num_key_value_heads=16, head_dim=128, sliding_window=1024, query_pre_attn_scalar=168,
    )  # fmt: skip
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = Gemma3ForCausalLM(config).eval().requires_grad_(False)
    torch.set_default_dtype(torch.float32)
    return LoadedModel(model, cast(PromptFormat, Letters()), torch.device("cuda"))


class Letters:
    """Stands for prompts: a token a letter."""

    def tokens(self, text: str, system: str | None = None) -> list[int]:
        """Of a text."""
        return [2, *(1000 + ord(letter) for letter in (system or "") + text)]


def tasks(n: int, rng: np.random.Generator) -> Prompts:
    """Random token lists, 71 tokens long in the mean."""
    lengths = np.clip(rng.lognormal(3.9, 0.8, n), 6, 512).astype(int)
    return [rng.integers(1000, 260000, k).tolist() for k in lengths]


def padded(model: LoadedModel, prompts: Prompts, batch: int, arrange: bool) -> None:
    """The usual loop: right padding; with `arrange` sorted by length and stopping at the deepest layer, no head."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i])) if arrange else range(len(prompts))
    rows = [prompts[i] for i in order]
    with torch.inference_mode():
        for at in range(0, len(rows), batch):
            part = rows[at : at + batch]
            width = max(map(len, part))
            ids = torch.tensor([r + [0] * (width - len(r)) for r in part], device="cuda")
            hidden = model.backbone(input_ids=ids, use_cache=False).last_hidden_state
            if not arrange:
                model.model.lm_head(hidden)
            hidden[:, -1].float().cpu()


def compare(name: str, prompts: Prompts, ways: dict[str, Callable[[], object]]) -> None:
    """Print tokens a second of each way, and its ratio to the first."""
    useful = sum(map(len, prompts))
    times: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(3):
        for way, run in ways.items():
            torch.cuda.synchronize()
            started = time.perf_counter()
            run()
            torch.cuda.synchronize()
            if turn:
                times[way].append(time.perf_counter() - started)
    first = median(times[next(iter(ways))])
    for way, seconds in times.items():
        t = median(seconds)
        print(
            f"{name}: {len(prompts)} prompts, {useful} tokens; {way}: {t:.2f} s, {useful / t:.0f} tok/s, ratio {first / t:.2f}"
        )


def main() -> None:
    """Correctness in small, then both kinds of prompts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--blocks", type=int, default=62)
    parser.add_argument("--prompts", type=int, default=400)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("NOT RUN: this benchmark needs a CUDA GPU")
        return
    rng = np.random.default_rng(0)
    model = random_model(options.blocks)
    layers = [layer for layer in LAYERS if layer < options.blocks]
    print(f"{torch.cuda.get_device_name()}, {options.blocks} blocks")

    started = time.perf_counter()
    check_model(model)
    print(f"checks at load: {time.perf_counter() - started:.1f} s; {model.packing.why or 'packed'}")
    long = tasks(1, rng)[0] * 40
    started = time.perf_counter()
    forward(model, [long[:60], long[:1500]], tail=2)
    print(
        f"a length that was not met before (1,500 tokens): {time.perf_counter() - started:.1f} s; {model.packing.why or 'packed'}"
    )

    some = tasks(8, rng)
    got = forward(model, some, layers=layers[-1:]).kept
    with torch.inference_mode():
        for row, tokens in enumerate(some):
            states = model.backbone(
                input_ids=torch.tensor([tokens], device="cuda"), output_hidden_states=True, use_cache=False
            )
            alone = states.hidden_states[layers[-1] + 1][0, -1].float().cpu().numpy()
            apart = np.linalg.norm(got[layers[-1]][row] - alone) / np.linalg.norm(alone)
            assert apart < 0.05, apart
    print(f"packed and single passes agree (relative difference of the last prompt {apart:.1e})")

    own = tasks(options.prompts, rng)
    beginning = rng.integers(1000, 260000, 24).tolist()
    single = [beginning + t for t in own]
    instructions, middle, end = (rng.integers(1000, 260000, k).tolist() for k in (60, 5, 6))
    n = options.prompts // 5
    pairs = [(i, int(j)) for i in range(n // 2) for j in rng.choice(n, 5, replace=False)]
    paired = [instructions + own[i] + middle + own[j] + end for a, b in pairs for i, j in ((a, b), (b, a))]
    blocks = model.backbone.layers
    for name, prompts in (("activations", single), ("choices", paired)):

        def stopped(run: Callable[[], object], deepest: int = layers[-1]) -> Callable[[], object]:
            def inner() -> None:
                model.backbone.layers = blocks[: deepest + 1]
                run()
                model.backbone.layers = blocks

            return inner

        ways: dict[str, Callable[[], object]] = {
            "padded in file order with head": lambda p=prompts: padded(model, p, 32, False),
            "padded, sorted": lambda p=prompts: padded(model, p, 64, True),
        }
        wanted = layers if name == "activations" else ()
        if wanted:
            ways["padded, sorted"] = stopped(ways["padded, sorted"])
        ways["packed"] = lambda p=prompts, w=wanted: forward(model, p, layers=w, tail=0 if w else 2)
        compare(name, prompts, ways)


if __name__ == "__main__":
    main()
