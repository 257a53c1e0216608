"""Loads the model that a step needs, as the preset names it and the run pinned it."""

from typing import TYPE_CHECKING

from prefprobe.study.graph import features_of, pin_of
from prefprobe.study.job import Job

if TYPE_CHECKING:
    from prefprobe.activations.model import LoadedModel


def open_model(job: Job, features: str = "model") -> "LoadedModel":
    """The model whose activations are the features of that name; raises what `load_model` raises. Only here torch comes in."""
    from prefprobe.activations.loading import load_model

    pin = pin_of(features, features_of(job.config)[features])  # model or base: also the name of its settings
    settings = getattr(job.config, pin)
    return load_model(
        settings.source,
        revision=job.pins[pin],
        adapter=settings.adapter,
        adapter_revision=job.pins.get(f"{pin}.adapter"),
        dtype=settings.dtype,
        device=settings.device,
        chat=settings.chat,
        template=settings.template,
        date=settings.date,
        untrained_seed=job.config.seed if features == "untrained" else None,
    )
