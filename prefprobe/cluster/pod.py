"""What a pod of the chart has, and what it has not."""

from prefprobe.errors import BadConfig
from prefprobe.settings import Config
from prefprobe.sources import local_path


def require_models(config: Config) -> None:
    """Raises BadConfig, naming the chart's value to set, for a model of the study that is neither mounted nor on the hub."""
    models = [settings for settings in (config.model, config.base, *config.topics.models) if settings is not None]
    sources = [source for settings in models for source in (settings.source, settings.adapter) if source is not None]
    sources += [judge.encoder for judge in config.topics.judges.values() if judge.encoder is not None]
    for source in (*sources, *config.encoders.values()):
        try:
            local_path(source)
        except BadConfig as error:
            raise BadConfig(
                f"{source} is not in the cluster's pods: set models.type in the values of the chart to image (models.image "
                "names an image that holds it; without, the demo's models) or pvc (models.pvc.claimName), and submit again."
            ) from error
