"""Loads the model that a step needs, as the preset names it and the run pinned it."""

from typing import TYPE_CHECKING, Literal

from prefprobe.study.job import Job

if TYPE_CHECKING:
    from prefprobe.activations.loading import LoadedModel


def open_model(job: Job, role: Literal["model", "base", "untrained"] = "model") -> "LoadedModel":
    """The model of a role; torch is imported here and not before. Raises what `load_model` raises."""
    from prefprobe.activations.loading import load_model

    base = job.config.base if role == "base" else None
    pin, settings = ("model", job.config.model) if base is None else ("base", base)
    return load_model(
        settings.source,
        revision=job.pins[pin],
        adapter=settings.adapter,
        adapter_revision=job.pins.get(f"{pin}.adapter"),
        dtype=settings.dtype,
        device=settings.device,
        chat=settings.chat,
        untrained_seed=job.config.seed if role == "untrained" else None,
    )
