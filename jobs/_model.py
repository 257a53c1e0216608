"""Loads the model that a step needs, as the preset names it and the run pinned it."""

from typing import TYPE_CHECKING

from prefprobe.settings import ModelSettings
from prefprobe.study.graph import features_of, pin_of
from prefprobe.study.job import Job

if TYPE_CHECKING:
    from prefprobe.activations.model import LoadedModel


def open_model(job: Job, features: str = "model", deepest: float | None = None) -> "LoadedModel":
    """The model whose activations are the features of that name; raises what `load_model` raises. Only here torch comes in.

    `deepest` is the fraction of its depth down to which it is to be run, if not to its end.
    """
    pin = pin_of(features, features_of(job.config)[features])  # model or base: also the name of its settings
    seed = job.config.seed if features == "untrained" else None
    return load(getattr(job.config, pin), job.pins[pin], job.pins.get(f"{pin}.adapter"), seed, deepest)


def load(
    settings: ModelSettings,
    revision: str | None,
    adapter_revision: str | None,
    untrained_seed: int | None = None,
    deepest: float | None = None,
) -> "LoadedModel":
    """The model of these settings at these revisions; raises what `load_model` raises."""
    from prefprobe.activations.loading import load_model

    return load_model(
        settings.source,
        revision=revision,
        adapter=settings.adapter,
        adapter_revision=adapter_revision,
        dtype=settings.dtype,
        device=settings.device,
        devices=settings.devices,
        quantisation=settings.quantisation,
        chat=settings.chat,
        template=settings.template,
        date=settings.date,
        untrained_seed=untrained_seed,
        deepest=deepest,
    )
