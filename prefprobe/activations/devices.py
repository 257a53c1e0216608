"""One model over the GPUs of a node: its blocks as a chain, and what brings to each device what its blocks read.

While the second GPU works on one batch the first goes on with the next, because kernels are only queued: nothing here waits.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from prefprobe.activations.memory import QUANTISED, ROOM
from prefprobe.activations.model import stack_of
from prefprobe.errors import BadConfig, TemporaryFailure
from prefprobe.numbers import rough_size


class Piece(NamedTuple):
    """A part of a model that lies on one device."""

    name: str
    module: Any
    block: int | None
    """Which block it is; None for what is outside of the blocks."""


def placed(
    source: str,
    made: Callable[[], Any],
    on: torch.device,
    devices: int | None,
    quantisation: str | None,
    deepest: float | None = None,
) -> dict[str, torch.device] | None:
    """{part of the model: its device}; None for all of it on the CPU, as it is. `made` makes the model, without weights here.

    Raises TemporaryFailure where there are fewer than `devices` GPUs (one that is asked for may be a CPU), and BadConfig
    where the weights have no room.
    """
    visible = 0 if on.type == "cpu" else torch.cuda.device_count()
    if devices is not None and devices > max(visible, 1):
        raise TemporaryFailure(
            f"devices: {devices} GPUs were asked for, and this node has {visible or 'none'} to use; "
            "another node may have them; else ask for fewer, or leave it out."
        )
    if on.type == "cpu":
        return None if quantisation is None else {"": on}
    gpus = [torch.device("cuda", i) for i in range(devices or visible)]
    if len(gpus) == 1:
        return {"": gpus[0]}
    with torch.device("meta"):
        skeleton = made()
    if devices is None and weights(skeleton, quantisation) <= _room(gpus[0]):
        return {"": gpus[0]}
    try:
        return device_map(skeleton, gpus, [_room(gpu) for gpu in gpus], quantisation, deepest)
    except BadConfig as error:
        raise BadConfig(f"{source}: {error}") from error


def _room(gpu: torch.device) -> float:
    return ROOM * float(torch.cuda.mem_get_info(gpu)[0])


def pieces(model: Any) -> list[Piece]:
    """The blocks, and around them the largest modules that hold none."""
    blocks = stack_of(model.get_decoder())[1]

    def below(name: str, module: Any) -> Iterator[Piece]:
        for child, part in module.named_children():
            full = f"{name}.{child}" if name else child
            if part is blocks:
                yield from (Piece(f"{full}.{i}", block, i) for i, block in enumerate(blocks))
            elif any(inner is blocks for inner in part.modules()):
                yield from below(full, part)
            else:
                yield Piece(full, part, None)

    return list(below("", model))


def device_map(
    model: Any,
    devices: Sequence[torch.device],
    rooms: Sequence[float],
    quantisation: str | None = None,
    deepest: float | None = None,
) -> dict[str, torch.device]:
    """{name: device} of all pieces of `model`, which may lie on the meta device, and of weights that are in none.

    The blocks that are run, down to the one at the fraction `deepest` of the depth, are divided evenly by their bytes, in their
    order, and the others go behind them; what comes before them is on the first device, the final
    norm and a head with weights of its own on the last. A head that is the embedding stays with it, on the first. `rooms`
    are the bytes that weights may take on each device. Raises BadConfig if they are too few.
    """
    parts, after = pieces(model), _after(model)
    sizes = [_bytes([p.module], quantisation) for p in parts if p.block is not None]
    outside = [p.module for p in parts if p.block is None]
    first, last = (_bytes([m for m in outside if any(m is o for o in after) == end]) for end in (False, True))
    run = len(sizes) if deepest is None else int(deepest * len(sizes)) + 1
    work = [size if i < run else 0.0 for i, size in enumerate(sizes)]
    cuts = divide(sizes, work, (first, last), rooms[: len(sizes)])
    if cuts is None:
        raise BadConfig(
            f"its weights take {rough_size(sum(sizes) + first + last)}, and {len(devices)} GPUs have room for "
            f"{' + '.join(rough_size(room) for room in rooms)}; use more (`devices`) or larger ones, or `quantisation`."
        )
    places: dict[str, torch.device] = {}
    for name, module, block in parts:
        at = block if block is not None else len(sizes) if any(module is o for o in after) else 0
        places[name] = devices[sum(at >= cut for cut in cuts)]
    inside = tuple(f"{name}." for name in places)
    tensors = [name for name, _ in (*model.named_parameters(), *model.named_buffers())]
    return places | {name: devices[0] for name in tensors if not name.startswith(inside)}


def weights(model: Any, quantisation: str | None = None) -> float:
    """Bytes that the weights of `model` take, which may lie on the meta device."""
    parts = pieces(model)
    outside = _bytes([p.module for p in parts if p.block is None])
    return outside + _bytes([p.module for p in parts if p.block is not None], quantisation)


def divide(
    sizes: Sequence[float], work: Sequence[float], ends: tuple[float, float], rooms: Sequence[float]
) -> list[int] | None:
    """Where a chain of blocks is cut, so that the device with the most work has the least of it; None if it fits nowhere.

    `sizes` and `work` are of every block, `ends` the bytes that lie besides on the first and the last device, `rooms` the
    bytes that each device has. Cut k is the number of the first block on device k + 1.
    """
    n, of = len(sizes), len(rooms)

    def fits(device: int, begin: int, end: int) -> bool:
        besides = (ends[0] if device == 0 else 0) + (ends[1] if device == of - 1 else 0)
        return sum(sizes[begin:end]) + besides <= rooms[device]

    # {blocks that are placed: (the most work of a device so far, cuts)}
    best: dict[int, tuple[float, list[int]]] = {0: (0.0, [])}
    for device in range(of):
        ways: dict[int, tuple[float, list[int]]] = {}
        for begin, (most, cuts) in best.items():
            for end in range(begin + 1, n + 1) if device < of - 1 else [n]:
                if end > begin and fits(device, begin, end):
                    way = max(most, sum(work[begin:end])), [*cuts, end]
                    ways[end] = min(ways.get(end, way), way)
        best = ways
    return best[n][1][:-1] if n in best else None


class Mover:
    """Brings tensors to a device: each once a pass, however many blocks read it."""

    def __init__(self) -> None:
        # the tensor itself is kept too, so that no other one gets its id
        self._moved: dict[tuple[int, torch.device], tuple[Any, Any]] = {}

    def begin(self) -> None:
        """A new pass: nothing has been moved."""
        self._moved.clear()

    def to(self, value: Any, device: torch.device) -> Any:
        """`value`, a tensor or several in tuples and lists, on `device`; whatever else it is, such as a cache, as it is."""
        if isinstance(value, torch.Tensor):
            if value.device == device:
                return value
            key = id(value), device
            if key not in self._moved:
                self._moved[key] = value, value.to(device, non_blocking=True)
            return self._moved[key][1]
        if type(value) in (tuple, list):
            return type(value)(self.to(one, device) for one in value)
        return value


def chained(source: str, model: Any, on: torch.device) -> None:
    """Link `model`, whose blocks lie on several devices; raises BadConfig if its pass needs more than that."""
    link(model)
    try:
        with torch.inference_mode():
            model(input_ids=torch.zeros((1, 2), dtype=torch.long, device=on), use_cache=False)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError) as error:
        raise BadConfig(
            f"{source}: blocks of {type(model).__name__} cannot be divided over several GPUs; use one that holds them "
            "(`devices` 1), or `quantisation`."
        ) from error


def link(model: Any, places: Mapping[str, torch.device] | None = None) -> None:
    """From now on every piece of `model` finds what it reads on its device: where it lies, or as `places` says by names."""
    mover = Mover()
    for name, module, block in pieces(model):
        tensor = next((t for t in (*module.parameters(), *module.buffers())), None)
        device = places[name] if places else None if tensor is None else tensor.device
        if block == 0:
            module.register_forward_pre_hook(lambda *_: mover.begin())
        if device is not None:
            module.register_forward_pre_hook(_bringing(mover, device), with_kwargs=True)


def _bringing(mover: Mover, device: torch.device) -> Any:
    def hook(_module: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return mover.to(inputs, device), {name: mover.to(value, device) for name, value in named.items()}

    return hook


def _after(model: Any) -> list[Any]:
    """What works on the last block's states: the final norm, and a head with weights of its own."""
    backbone, blocks = stack_of(model.get_decoder())
    children = list(backbone.children())
    behind = children[next(i for i, child in enumerate(children) if child is blocks) + 1 :]
    found = [module for module in behind if any(True for _ in module.parameters())][:1]
    head = model.get_output_embeddings()
    if head is not None and head.weight is not model.get_input_embeddings().weight:
        found.append(head)
    return found


def _bytes(modules: Iterable[Any], quantisation: str | None = None) -> float:
    """Of all weights and buffers, each once; matrices of linear layers as they are quantised."""
    found = {}
    for part in (part for module in modules for part in module.modules()):
        linear = quantisation is not None and type(part) is torch.nn.Linear
        for tensor in (*part.parameters(recurse=False), *part.buffers(recurse=False)):
            each = QUANTISED[quantisation] if linear and quantisation and tensor.dim() == 2 else tensor.element_size()
            found[id(tensor)] = tensor.numel() * each
    return float(sum(found.values()))
