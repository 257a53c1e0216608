"""Pins every source of a study to its content. Reads the sources; the graph itself reads nothing."""

from collections.abc import Mapping
from pathlib import Path

from prefprobe.features.encoder import READER, describe
from prefprobe.features.encoder_files import Encoder
from prefprobe.settings import Config
from prefprobe.shift.prompted import experiment_paths
from prefprobe.sources import file_digest, source_revision
from prefprobe.store.objects import ObjectStore
from prefprobe.study.graph import pin_of
from prefprobe.tasks.pool import local_sources


def pin_sources(config: Config, objects: ObjectStore) -> dict[str, str]:
    """Pin every source to its content: {what: digest or hub commit}, and what must read an encoder (`torch_pins`).

    Raises BadConfig for a source that is not there or not what its step reads.
    """
    pins = {"model": source_revision(config.model.source, config.model.revision)}
    if config.model.adapter:
        pins["model.adapter"] = source_revision(config.model.adapter)
    if config.base:
        pins["base"] = source_revision(config.base.source, config.base.revision)
        if config.base.adapter:
            pins["base.adapter"] = source_revision(config.base.adapter)
    pins |= {pin_of(name, "encoder"): source_revision(source) for name, source in config.encoders.items()}
    encoders = {name: describe(source, pins[pin_of(name, "encoder")]) for name, source in config.encoders.items()}
    pins |= torch_pins(encoders)
    sources = local_sources(config.tasks, objects)
    pins |= {f"tasks.{i}": file_digest(Path(source.path)) for i, source in enumerate(sources)}
    experiments = zip(config.shift.stems, experiment_paths(config.shift.experiments, objects), strict=True)
    pins |= {f"experiment.{stem}": file_digest(path) for stem, path in experiments}
    return dict(sorted(pins.items()))


def torch_pins(encoders: Mapping[str, Encoder]) -> dict[str, str]:
    """{"encoder.<name>.torch": what reads it} for each encoder that numpy does not read: its nodes need torch.

    The pin names no version, so that another version of torch or sentence-transformers makes nothing new, as for models.
    """
    return {f"encoder.{name}.torch": READER for name, encoder in encoders.items() if encoder.beyond is not None}
