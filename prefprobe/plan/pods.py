"""What the pods of a study ask their nodes for, cores, memory and GPUs, by what can be known of its models before they run."""

import math
from dataclasses import dataclass

from prefprobe.plan.model import BYTES, model_facts
from prefprobe.settings import Config, ModelSettings


@dataclass(frozen=True)
class Request:
    """Of one pod."""

    cpu: int
    """Cores."""
    memory: int
    """GiB."""


DEFAULTS = {"model": Request(8, 64), "encoder": Request(4, 16), "features": Request(4, 16)}
"""By what a pod holds, where a study's models are not known: a chat model, a sentence encoder in torch, features."""
MOST = {"model": 160, "encoder": 64, "features": 32}
"""GiB at which Kubernetes ends such a pod, and more than which none asks for."""
_TORCH, _NUMPY = 2.0, 1.0
"""GiB of a process that has loaded nothing yet."""
_LOADING = 1.25
"""Memory to load weights of one byte: some are read while those before them lie there."""
_COPIES = 4
"""Of the features: as parts, joined, in order of the tasks, and as a probe centres them."""
_GIB_A_CORE = 8


def pod_requests(config: Config) -> dict[str, Request]:
    """{what a pod holds: its request}: the largest of a study's pods of that kind, the default where one is unknown.

    Reads what of the models lies on this machine. Raises BadConfig for files that cannot be read.
    """
    chat = [settings for settings in (config.model, config.base) if settings is not None]
    encoders = [ModelSettings(source=source) for source in config.encoders.values()]
    return {
        "model": _request("model", _TORCH, [_weights(settings) for settings in (*chat, *config.topics.models)]),
        "encoder": _request("encoder", _TORCH, [_weights(settings) for settings in encoders]),
        "features": _request("features", _NUMPY, [_features(config, settings) for settings in chat]),
    }


def pod_gpus(config: Config, memory: float) -> int:
    """GPUs of `memory` bytes that a pod with a model takes: the most of any of the study's, 1 where one is unknown."""
    chat = [settings for settings in (config.model, config.base) if settings is not None]
    return max(model_facts(settings).gpus(memory) or 1 for settings in (*chat, *config.topics.models))


def _request(kind: str, process: float, held: list[float | None]) -> Request:
    """Of a process that holds the most of `held` bytes."""
    known = [size for size in held if size is not None]
    if len(known) < len(held):
        return DEFAULTS[kind]
    memory = min(math.ceil(process + max(known, default=0.0) / 2**30), MOST[kind])
    return Request(min(math.ceil(memory / _GIB_A_CORE), DEFAULTS[kind].cpu), memory)


def _weights(settings: ModelSettings) -> float | None:
    facts = model_facts(settings)
    return None if facts.parameters is None else facts.parameters * BYTES[settings.dtype] * _LOADING


def _features(config: Config, settings: ModelSettings) -> float | None:
    facts = model_facts(settings)
    if facts.d is None or facts.n_layers is None:
        return None
    layers = len({int(fraction * facts.n_layers) for fraction in config.activations.fractions})
    n, d = config.tasks.n_train, facts.d
    held = (n + config.tasks.n_eval) * layers * d * BYTES["float32"] * _COPIES
    # folds: in float64 the features of a layer twice, their second moment and a factor of it, and what leaves rows out
    return held + 8 * (2 * n * d + 2 * min(n, d) ** 2 + n * n)
