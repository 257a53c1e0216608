"""Pins every source of a study to its content. Reads the sources; the graph itself reads nothing."""

from collections.abc import Mapping

from prefprobe.features.encoder import READER, describe
from prefprobe.features.encoder_files import Encoder
from prefprobe.settings import Config
from prefprobe.shift.prompted import experiment_paths
from prefprobe.sources import file_digest, source_revision
from prefprobe.store.objects import ObjectStore
from prefprobe.study.graph import pin_of
from prefprobe.tasks.located import pin
from prefprobe.tasks.pool import source_path
from prefprobe.topics.taxonomy import load_taxonomy, taxonomy_path


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
    pins |= {f"tasks.{i}": pin(source, objects) for i, source in enumerate(config.tasks.all_sources)}
    experiments = zip(config.shift.stems, experiment_paths(config.shift.experiments, objects), strict=True)
    pins |= {f"experiment.{stem}": file_digest(path) for stem, path in experiments}
    pins |= _topic_pins(config, objects)
    return dict(sorted(pins.items()))


def _topic_pins(config: Config, objects: ObjectStore) -> dict[str, str]:
    """The taxonomy, and what the judges of topics read; none where topics are given."""
    judges = config.topics.judges
    if not judges:
        return {}
    load_taxonomy(config.topics.taxonomy, objects)  # one that is not in order shows here
    pins = {"taxonomy": file_digest(taxonomy_path(config.topics.taxonomy, objects))}
    for which, judge in judges.items():
        pin = f"topics.{which}"
        if judge.model is not None:
            pins[f"{pin}.model"] = source_revision(judge.model.source, judge.model.revision)
            if judge.model.adapter:
                pins[f"{pin}.model.adapter"] = source_revision(judge.model.adapter)
        if judge.encoder is not None:
            pins[f"{pin}.encoder"] = source_revision(judge.encoder)
            describe(judge.encoder, pins[f"{pin}.encoder"])
        if judge.examples is not None:
            pins[f"{pin}.examples"] = file_digest(source_path(judge.examples, objects))
    return pins


def torch_pins(encoders: Mapping[str, Encoder]) -> dict[str, str]:
    """{"encoder.<name>.torch": what reads it} for each encoder that numpy does not read: its nodes need torch.

    The pin names no version, so that another version of torch or sentence-transformers makes nothing new, as for models.
    """
    return {f"encoder.{name}.torch": READER for name, encoder in encoders.items() if encoder.beyond is not None}
