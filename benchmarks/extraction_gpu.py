"""Activations and choices at the shape of Gemma-3-27B on one GPU (random weights, bfloat16), against the GPU's own matrix rate.

Needs a CUDA GPU of 80 GB. Prompts are random tokens with the lengths of real ones. *Useful* is what the prompts as they are
would take in matrix products of the blocks that are needed, over what the GPU does in the same time when it multiplies large
matrices, as measured in this run. Slow ways run fewer of the same prompts.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from prefprobe.activations import coming, compiled
from prefprobe.activations.checks import check_model, relative_difference
from prefprobe.activations.extraction import extract
from prefprobe.activations.model import LoadedModel
from prefprobe.activations.passes import forward
from prefprobe.activations.prompts import Asked, Prompt, PromptFormat
from prefprobe.choices.engine import Answer, Question
from prefprobe.choices.local import LocalEngine
from prefprobe.choices.stimulus import STIMULUS
from prefprobe.progress import Progress
from prefprobe.store.objects import ObjectStore
from prefprobe.store.steps import StepStore

LAYERS = (6, 12, 18, 24, 31, 37, 43, 49, 55)
Prompts = list[list[int]]


def random_model(blocks: int, device: str = "cuda") -> LoadedModel:
    """Gemma-3-27B's shape with `blocks` of its 62 blocks."""
    config = Gemma3TextConfig(
        vocab_size=262208, hidden_size=5376, intermediate_size=21504, num_hidden_layers=blocks, num_attention_heads=32,
        num_key_value_heads=16, head_dim=128, sliding_window=1024, query_pre_attn_scalar=168,
    )  # fmt: skip
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model = Gemma3ForCausalLM(config).eval().requires_grad_(False)
    torch.set_default_dtype(torch.float32)
    return LoadedModel(model, cast(PromptFormat, Letters()), torch.device(device))


class Letters:
    """Stands for prompts: a token a letter, and two labels of one token."""

    def tokens(self, text: str, system: str | None = None) -> list[int]:
        """Of a text."""
        return [2, *(1000 + ord(letter) for letter in (system or "") + text)]

    def tokens_many(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Of several."""
        return [self.tokens(*prompt) for prompt in prompts]

    def asked_many(self, prompts: Sequence[Prompt], *_: str) -> list[Asked]:
        """With the labels."""
        return [Asked(tokens, [], 5, 6) for tokens in self.tokens_many(prompts)]

    def check_labels(self, *_: str) -> None:
        """There is nothing that could be wrong."""


def letters(n: int, rng: np.random.Generator) -> str:
    """A text of `n` random letters."""
    return "".join(map(chr, 0x3400 + rng.integers(0, 20000, n)))


def tasks(n: int, rng: np.random.Generator, mean: float) -> Prompts:
    """Random token lists of lengths spread as those of tasks, `mean` tokens in the mean."""
    lengths = rng.lognormal(0, 0.8, n)
    lengths = np.clip(lengths * mean / lengths.mean(), 6, 1000).astype(int)
    return [rng.integers(1000, 260000, k).tolist() for k in lengths]


def padded(model: LoadedModel, prompts: Prompts, batch: int, arrange: bool) -> None:
    """The usual loop: left padding, head, all states to the host; with `arrange` sorted, nothing but last tokens kept."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i])) if arrange else range(len(prompts))
    rows = [prompts[i] for i in order]
    waiting = [rows[at : at + batch] for at in range(0, len(rows), batch)]
    with torch.inference_mode():
        while waiting:
            part = waiting.pop(0)
            width = max(map(len, part))
            if not arrange and len(part) * width > 12_000:  # all states and logits would not fit
                waiting[:0] = [part[: len(part) // 2], part[len(part) // 2 :]]
                continue
            ids = torch.tensor([[0] * (width - len(r)) + r for r in part], device="cuda")
            mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in part], device="cuda")
            if arrange:
                states = model.backbone(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
                states[:, -1].float().cpu()
            else:
                states = model.model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
                for layer in LAYERS:
                    if layer < model.n_layers:
                        states[layer + 1].cpu()


def matrix_rate(device: torch.device | str = "cuda", n: int = 8192) -> float:
    """Operations a second of products of two bfloat16 matrices (n, n) of random numbers: the best of ten, warm."""
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    out, found = torch.empty_like(a), []
    for _ in range(12):
        torch.cuda.synchronize(device)
        started = time.perf_counter()
        for _ in range(10):
            torch.mm(a, b, out=out)
        torch.cuda.synchronize(device)
        found.append((time.perf_counter() - started) / 10)
    return float(2 * n**3 / min(found[2:]))


def seconds(run: Callable[[], object], times: int = 1) -> float:
    """Median of a few runs."""
    found = []
    for _ in range(times):
        torch.cuda.synchronize()
        started = time.perf_counter()
        run()
        torch.cuda.synchronize()
        found.append(time.perf_counter() - started)
    return float(np.median(found))


class Bench:
    """One model, and the table of what each way did."""

    def __init__(self, blocks: int) -> None:
        self.rate = matrix_rate()
        self.model = random_model(blocks)
        self.layers = [layer for layer in LAYERS if layer < blocks]
        self.block = 2 * sum(p.numel() for p in self.model.blocks[0].parameters() if p.ndim == 2)
        self.ways: dict[str, float] = {}
        print(
            f"{torch.cuda.get_device_name()}, {blocks} blocks, matrix rate {self.rate / 1e12:.0f} TFLOP/s", flush=True
        )

    def way(
        self, name: str, prompts: Prompts, blocks: int, run: Callable[[], object], times: int = 1, shared: int = 0
    ) -> float:
        """Print tokens a second and what of it is useful, of tokens that all prompts share once; returns tokens a second."""
        torch.cuda.reset_peak_memory_stats()
        took, tokens = seconds(run, times), sum(map(len, prompts))
        useful = (tokens - shared * (len(prompts) - 1)) * blocks * self.block / took / self.rate
        peak = torch.cuda.max_memory_allocated() / 2**30
        print(
            f"  {name}: {len(prompts)} prompts, {tokens} tokens, {took:.2f} s, {tokens / took:.0f} tok/s, "
            f"useful {useful:.1%}, peak {peak:.1f} GiB",
            flush=True,
        )
        return tokens / took

    def whole(self, prompts: Prompts, **wanted: Any) -> Callable[[], object]:
        """A run of the product's own pass."""
        return lambda: forward(self.model, prompts, **wanted)

    def stopped(self, run: Callable[[], object]) -> Callable[[], object]:
        """The same with no block above the deepest that is read."""
        blocks = self.model.backbone.layers

        def inner() -> None:
            self.model.backbone.layers = blocks[: self.layers[-1] + 1]
            try:
                run()
            finally:
                self.model.backbone.layers = blocks

        return inner


def _rows_of(forward: Callable[..., torch.Tensor], nodes: np.ndarray) -> Callable[..., torch.Tensor]:
    """A block that computes all tokens, of which some are kept."""
    return lambda *args, **given: forward(*args, **given)[:, torch.from_numpy(nodes).cuda()]


def exactness(bench: Bench, prompts: Prompts) -> None:
    """How far compiled passes are from those of one prompt, beside how far bfloat16 is from float32."""
    model, layers = bench.model, bench.layers

    def alone() -> np.ndarray:
        rows = []
        for tokens in prompts:
            with torch.inference_mode():
                ids = torch.tensor([tokens], device="cuda")
                states = model.backbone(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
            rows.append(np.stack([states[layer + 1][0, -1].float().cpu().numpy() for layer in layers[:-1]]))
        return np.stack(rows)

    kept = forward(model, prompts, layers=layers).kept
    got = np.stack([kept[layer] for layer in layers[:-1]], axis=1)
    own = alone()
    handles = []
    for block in model.blocks:  # a block at a time in float32: the whole model would not fit
        handles.append(block.register_forward_pre_hook(lambda b, _: b.float() and None))
        handles.append(block.register_forward_hook(lambda b, _, __: b.bfloat16() and None))
    model.backbone.embed_tokens.float()
    exact = alone()
    model.backbone.embed_tokens.bfloat16()
    for handle in handles:
        handle.remove()
    ours, types = relative_difference(got, exact), relative_difference(own, exact)
    print(
        f"  relative difference from float32, median over {len(prompts)} prompts by layer {layers[:-1]}:\n"
        f"    compiled   {' '.join(f'{x:.2e}' for x in np.median(ours, axis=0))}\n"
        f"    one by one {' '.join(f'{x:.2e}' for x in np.median(types, axis=0))}\n"
        f"    ratio      {' '.join(f'{x:.3f}' for x in np.median(ours, axis=0) / np.median(types, axis=0))}",
        flush=True,
    )


def compiling() -> None:
    """Seconds that compiling adds to the first passes, of two blocks: they are of two kinds, as all are."""
    rng = np.random.default_rng(0)
    model = random_model(8)
    some = tasks(400, rng, 73)
    shared = [some[0] * 3 + each for each in some]
    forward(model, some, layers=[6])
    forward(model, shared, layers=[6])
    compiled.compile_blocks(model)
    first = [seconds(lambda p=p: forward(model, p, layers=[6])) for p in (some, shared)]
    again = [seconds(lambda p=p: forward(model, p, layers=[6])) for p in (some, shared)]
    print(
        f"  compiling takes {first[0] - again[0]:.1f} s, and {first[1] - again[1]:.1f} s more with a shared beginning",
        flush=True,
    )


def as_steps(bench: Bench, rng: np.random.Generator) -> None:
    """The same as the steps do it, which read texts and write parts: tokens a second of whole calls."""
    texts = [letters(len(task), rng) for task in tasks(4096, rng, 73)]
    rows = [(f"t{k}", text, None) for k, text in enumerate(texts)]
    print("as the steps do it, from texts to parts in a folder:")
    for part in (120, 1024):
        with tempfile.TemporaryDirectory() as folder:
            store = StepStore(ObjectStore.open(folder), "extract", "0" * 64, {})
            took = seconds(lambda: extract(bench.model, rows, bench.layers, store, part, Progress.silent()))  # noqa: B023
        tokens = sum(map(len, texts)) + len(texts)
        useful = tokens * (bench.layers[-1] + 1) * bench.block / took / bench.rate
        print(
            f"  activations, {part} to a part: {tokens} tokens, {took:.2f} s, {tokens / took:.0f} tok/s, {useful:.1%}",
            flush=True,
        )
    for part in (192, 1024):
        engine = LocalEngine(bench.model, STIMULUS, revision={}, part=part)
        asked = [
            Question(
                id=str(k), system=None, first=texts[a], second=texts[b], repeat=0, prompt_id="", task_a="a", task_b="b"
            )
            for k, (a, b) in enumerate(rng.choice(len(texts), (2048, 2)))
        ]  # fmt: skip
        found: list[Answer] = []
        took = seconds(lambda: engine.answer(asked, found.extend))  # noqa: B023
        tokens = sum(answer.prompt_tokens for answer in found)
        useful = tokens * bench.model.n_layers * bench.block / took / bench.rate
        print(
            f"  choices, {part} to a part: {tokens} tokens, {took:.2f} s, {tokens / took:.0f} tok/s, {useful:.1%}",
            flush=True,
        )


def main() -> None:
    """All ways in one run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--blocks", type=int, default=62)
    parser.add_argument("--prompts", type=int, default=8192)
    parser.add_argument("--compiling", action="store_true", help="only the time that compiling takes")
    parser.add_argument("--tokens", default="8192,32768", help="other numbers of tokens in a batch")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("NOT RUN: this benchmark needs a CUDA GPU")
        return
    if options.compiling:
        compiling()
        return
    ways(options.blocks, options.prompts, [int(tokens) for tokens in filter(None, options.tokens.split(","))])
    torch.cuda.empty_cache()
    with tempfile.TemporaryDirectory() as cache:
        for state in ("empty", "there"):
            print(f"compiling, its cache {state}:", flush=True)
            env = os.environ | {"PREFPROBE_COMPILED": cache}
            subprocess.run([sys.executable, __file__, "--compiling"], check=True, env=env)


def ways(blocks: int, n: int, others: Sequence[int]) -> None:
    """Activations and choices of `n` prompts, with `others` as tokens in a batch."""
    bench = Bench(blocks)
    model, deep = bench.model, bench.layers[-1] + 1
    rng = np.random.default_rng(0)
    check_model(model)
    own = tasks(n, rng, 73)
    some, few = own[: n // 4], own[: n // 16]
    print(f"activations, mean {np.mean([len(p) for p in own]):.0f} tokens, nothing shared:")
    bench.whole(own[:64], layers=bench.layers)()
    loop = bench.way(
        "32 in file order, left-padded, head, all states to the host", few, deep, lambda: padded(model, few, 32, False)
    )
    way = bench.stopped(lambda: padded(model, some, 64, True))
    bench.way("sorted by length, padded, stopping early", some, deep, way)
    bench.whole(some, layers=bench.layers)()
    bench.way(
        "packed, blocks as they are, 8,192", some, deep, bench.whole(some, layers=bench.layers, batch_tokens=8192)
    )
    compiled.compile_blocks(model)
    started = time.perf_counter()
    bench.whole(own[:2048], layers=bench.layers)()
    print(f"  (first compiled pass, with its comparison: {time.perf_counter() - started:.1f} s)", flush=True)
    whole, behind = compiled._of_nodes, coming._BEHIND
    compiled._of_nodes, coming._BEHIND = lambda _own, forward, nodes, *_: _rows_of(forward, nodes), 0
    bench.way(
        f"compiled, {compiled.COMPILED_TOKENS}, waiting for each copy, the deepest block whole",
        some,
        deep,
        bench.whole(some, layers=bench.layers),
    )
    coming._BEHIND = behind
    bench.way(
        f"compiled, {compiled.COMPILED_TOKENS}, the deepest block whole",
        some,
        deep,
        bench.whole(some, layers=bench.layers),
    )
    compiled._of_nodes = whole
    bench.way(f"compiled, {compiled.COMPILED_TOKENS}", some, deep, bench.whole(some, layers=bench.layers))
    best = bench.way(f"compiled, {compiled.COMPILED_TOKENS}", own, deep, bench.whole(own, layers=bench.layers))
    print(f"  {best / loop:.2f} × the loop")
    for tokens in others:
        way = bench.whole(some, layers=bench.layers, batch_tokens=tokens)
        way()  # another kind of batch may be compiled
        bench.way(f"compiled, {tokens}", some, deep, way)
    long = tasks(n // 2, rng, 150)
    bench.whole(long[: n // 8], layers=bench.layers)()
    print(f"activations, mean {np.mean([len(p) for p in long]):.0f} tokens:")
    quick = bench.way("compiled", long, deep, bench.whole(long, layers=bench.layers))
    few = long[: n // 32]
    slow = bench.way("32 in file order, as above", few, deep, lambda: padded(model, few, 32, False))
    print(f"  {quick / slow:.2f} × the loop")

    system = rng.integers(1000, 260000, 600).tolist()
    tails = own[:1024]
    under = [system + t for t in tails]
    ideal = sum(map(len, under)) / sum(map(len, tails))
    print("shared system prompt of 600 tokens:")
    bench.whole(under, layers=bench.layers)()
    quick = bench.way("compiled", under, deep, bench.whole(under, layers=bench.layers), times=3, shared=600)
    scratch = under[:96]
    way = bench.stopped(lambda: padded(model, scratch, 32, True))
    slow = bench.way("sorted, padded, from scratch", scratch, deep, way)
    loop = bench.way("32 in file order, from scratch", scratch, deep, lambda: padded(model, scratch, 32, False))
    way = bench.whole(tails, layers=bench.layers)
    alone = bench.way("compiled, without the system prompt", tails, deep, way, times=3)
    print(
        f"  {quick / loop:.2f} × the loop, {quick / slow:.2f} × sorted; {quick / alone:.2f} × compiled without, of an ideal "
        f"{ideal:.2f}: {quick / alone / ideal:.3f}"
    )

    instructions, middle, end = (rng.integers(1000, 260000, k).tolist() for k in (60, 5, 6))
    pairs = [(int(i), int(j)) for i in range(128) for j in rng.choice(n, 5, replace=False)]
    asked = [instructions + own[i] + middle + own[j] + end for a, b in pairs for i, j in ((a, b), (b, a))]
    print("choices, ordered pairs:")
    bench.whole(asked[:128], tail=2)()
    quick = bench.way("compiled", asked, model.n_layers, bench.whole(asked, tail=2))
    half = asked[: len(asked) // 2]
    slow = bench.way("sorted, padded", half, model.n_layers, lambda: padded(model, half, 64, True))
    print(f"  {quick / slow:.2f} × sorted")
    as_steps(bench, rng)
    print(f"exactness of compiled passes{'' if model.packing.compiled else ': REFUSED'}:")
    exactness(bench, own[:16])


if __name__ == "__main__":
    main()
