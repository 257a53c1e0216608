"""Activations and choices over two GPUs against one: tokens a second, and the useful part of what both could do.

Needs two CUDA GPUs of 80 GB; `--model llama3-70b` has more weights than one holds. Weights are random, in bfloat16, made on the
devices where `activations/devices.py` places them, and passes are the product's. Embeddings are of length √d and what a block
adds to them is small, as in a trained model's stream: with a random stream that each block replaces, rounding alone exceeds
what 80 blocks are allowed. Prompts are random tokens with the lengths of
real ones, those of benchmarks/extraction_gpu.py. `useful` is real tokens × blocks that are needed × what a token costs there,
against the matrix rate of all GPUs that are used, measured here. Before any time is printed, what two GPUs give is compared
with what one gives, for a model of four blocks with the same weights.

    python benchmarks/two_gpus.py --model gemma3-27b --prompts 4096
    python benchmarks/two_gpus.py --model llama3-70b --prompts 2048
"""

import argparse
import gc
import time
from collections.abc import Callable
from statistics import median
from typing import Any, cast

import numpy as np
import torch
from extraction_gpu import Letters, Prompts, matrix_rate, tasks
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig

from prefprobe.activations.checks import check_model, relative_difference
from prefprobe.activations.compiled import compile_blocks
from prefprobe.activations.devices import device_map, link, weights
from prefprobe.activations.memory import ROOM
from prefprobe.activations.model import LoadedModel
from prefprobe.activations.passes import forward
from prefprobe.activations.prompts import PromptFormat

ADDED = 0.005
"""By which what a block adds is made smaller than transformers draws it."""
DEPTHS = tuple(k / 10 for k in range(1, 10))
SHAPES: dict[str, Callable[[int | None], Any]] = {
    "gemma3-27b": lambda blocks: Gemma3TextConfig(
        vocab_size=262208, hidden_size=5376, intermediate_size=21504, num_hidden_layers=blocks or 62, num_attention_heads=32,
        num_key_value_heads=16, head_dim=128, sliding_window=1024, query_pre_attn_scalar=168,
    ),
    "llama3-70b": lambda blocks: LlamaConfig(
        vocab_size=128256, hidden_size=8192, intermediate_size=28672, num_hidden_layers=blocks or 80, num_attention_heads=64,
        num_key_value_heads=8, max_position_embeddings=131072, rope_theta=5e5, tie_word_embeddings=False,
    ),
}  # fmt: skip


def random_model(
    config: Any, devices: list[torch.device], like: LoadedModel | None = None, deepest: float | None = None
) -> LoadedModel:
    """Random weights in bfloat16, or those of `like`, on the devices of their places; nothing goes through memory."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval().requires_grad_(False)
    places = {"": devices[0]}
    if len(devices) > 1:
        rooms = [ROOM * torch.cuda.mem_get_info(device)[0] for device in devices]
        places = device_map(model, devices, rooms, deepest=deepest)
    given = {} if like is None else dict(like.model.named_parameters())
    made: dict[int, Any] = {}
    for name, module in list(model.named_modules()):
        for kind in (module._parameters, module._buffers):
            for key, old in kind.items():
                full = f"{name}.{key}".lstrip(".")
                if old is not None and id(old) not in made:
                    where = next(d for place, d in places.items() if not place or f"{full}.".startswith(f"{place}."))
                    new = torch.empty(old.shape, dtype=old.dtype, device=where)
                    made[id(old)] = torch.nn.Parameter(new, False) if kind is module._parameters else new
                if old is not None:
                    kind[key] = made[id(old)]
        module._is_hf_initialized = False  # without memory there was nothing to draw
    torch.manual_seed(0)
    model.init_weights()  # with what is no weight, such as rotary frequencies
    model.get_input_embeddings().weight.data.normal_()
    for name, parameter in model.named_parameters():
        if name in given:
            parameter.data.copy_(given[name])
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            parameter.data.mul_(ADDED)
    if len(devices) > 1:
        link(model)
    return LoadedModel(model, cast(PromptFormat, Letters()), devices[0])


def prompts_of(n: int, rng: np.random.Generator) -> Prompts:
    """Tasks in tokens that every shape has."""
    return [[token % 120_000 for token in task] for task in tasks(n, rng, 73)]


def measured(
    model: LoadedModel, prompts: Prompts, devices: list[torch.device], rate: float, rounds: int, **wanted: Any
) -> float:
    """Print tokens a second and the useful part; returns tokens a second."""
    deepest = max(wanted["layers"], default=model.n_layers - 1)
    # of matrices alone: the products of attention and what is above the deepest block are not counted as useful
    cost = 2 * sum(p.numel() for block in model.blocks[: deepest + 1] for p in block.parameters() if p.dim() == 2)
    seconds = []
    for turn in range(rounds + 1):
        for device in devices:
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        forward(model, prompts, **wanted)
        for device in devices:
            torch.cuda.synchronize(device)
        if turn:
            seconds.append(time.perf_counter() - started)
    speed = sum(map(len, prompts)) / median(seconds)
    peaks = ", ".join(f"{torch.cuda.max_memory_allocated(device) / 1e9:.1f}" for device in devices)
    how = "compiled" if model.packing.compiled else model.packing.why or "packed"
    print(
        f"  {len(devices)} GPU, blocks {[model.block_devices.count(device) for device in devices]}: {speed:.0f} tokens/s, useful "
        f"{100 * speed * cost / rate:.1f} % of {rate / 1e12:.0f} TFLOP/s; peak {peaks} GB; {how}",
        flush=True,
    )
    return speed


def compared(shape: str, devices: list[torch.device], prompts: Prompts) -> None:
    """Four blocks on one GPU and on all, with the same weights."""
    config = SHAPES[shape](4)
    one = random_model(config, devices[:1])
    several = random_model(config, devices, one)
    compile_blocks(several)
    layers = range(one.n_layers)
    values, other = (forward(model, prompts, layers=layers, tail=2) for model in (one, several))
    apart = max(float(relative_difference(other.kept[layer], values.kept[layer]).max()) for layer in layers)
    assert values.hidden is not None
    assert other.hidden is not None
    logits = [model.logits(passed.hidden[:, 0]) for model, passed in ((one, values), (several, other))]
    heads = float((logits[0].cpu() - logits[1].cpu()).norm() / logits[0].cpu().norm())
    assert max(apart, heads) < 0.05, (apart, heads)
    assert several.packing.compiled
    print(
        f"{shape}, 4 blocks: {len(devices)} GPUs, compiled, against one as it is: "
        f"relative difference of a vector {apart:.1e} at most, of "
        f"logits {heads:.1e}"
    )


def main() -> None:
    """The same results, then one GPU where it holds the weights, then all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=SHAPES, default="gemma3-27b")
    parser.add_argument("--blocks", type=int, help="fewer than the shape has")
    parser.add_argument("--prompts", type=int, default=4096)
    parser.add_argument(
        "--questions", type=int, default=1280, help="ordered pairs of tasks; a part of the study has 4096"
    )
    parser.add_argument("--gpus", type=int, default=2)
    parser.add_argument("--batch-tokens", type=int, help="in place of the product's own number")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    if torch.cuda.device_count() < options.gpus:
        print(f"NOT RUN: this benchmark needs {options.gpus} CUDA GPUs")
        return
    devices = [torch.device("cuda", k) for k in range(options.gpus)]
    rng = np.random.default_rng(0)
    compared(options.model, devices, prompts_of(16, rng))
    torch.cuda.empty_cache()
    rates = [matrix_rate(device) for device in devices]
    config = SHAPES[options.model](options.blocks)
    layers = sorted({int(depth * config.num_hidden_layers) for depth in DEPTHS})
    own = prompts_of(options.prompts, rng)
    instructions, middle, end = (rng.integers(1000, 120000, k).tolist() for k in (60, 5, 6))
    pairs = [(i, int(j)) for i in range(options.questions // 10) for j in rng.choice(options.prompts, 5, replace=False)]
    kinds: dict[str, tuple[Prompts, dict[str, Any]]] = {
        "activations": (own, {"layers": layers}),
        "choices": (
            [instructions + own[i] + middle + own[j] + end for a, b in pairs for i, j in ((a, b), (b, a))],
            {"layers": (), "tail": 2},
        ),
    }
    with torch.device("meta"):
        held = weights(AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16))
    print(
        f"{torch.cuda.get_device_name()}; {options.model}, {config.num_hidden_layers} blocks, weights {held / 1e9:.1f} GB"
    )
    speeds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for used in (devices[:1], devices):
        if len(used) == 1 and held > 0.9 * torch.cuda.mem_get_info(used[0])[0]:
            print("  1 GPU: does not hold the weights")
            continue
        for kind, (prompts, wanted) in kinds.items():
            # as each step divides the blocks that it runs
            model = random_model(config, used, deepest=max(DEPTHS) if kind == "activations" else None)
            for device in used:
                torch.cuda.synchronize(device)
                torch.cuda.reset_peak_memory_stats(device)
            check_model(model)
            compile_blocks(model)
            wanted |= {"batch_tokens": options.batch_tokens}
            print(f" {kind}: {len(prompts)} prompts, {sum(map(len, prompts))} tokens")
            speeds[kind].append(measured(model, prompts, used, sum(rates[: len(used)]), options.rounds, **wanted))
            del model
            gc.collect()
            torch.cuda.empty_cache()
    for kind, found in speeds.items():
        if len(found) == 2:
            print(f"{kind}: {len(devices)} GPUs {found[1] / found[0]:.2f} times one")


if __name__ == "__main__":
    main()
