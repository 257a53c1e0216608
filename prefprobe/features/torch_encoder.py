"""Sentence encoders of any architecture, read by sentence-transformers. Nothing here imports torch before it is called."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from prefprobe.errors import BadConfig, TemporaryFailure
from prefprobe.features.encoder_files import Encoder
from prefprobe.sources import fetch

_FAULTS = (
    AttributeError, ImportError, LookupError, OSError, RuntimeError, SafetensorError, StrictDataclassError, TypeError,
    ValueError,
)  # fmt: skip
"""What sentence-transformers, transformers and torch raise for files that they cannot read."""


def embed_in_torch(
    source: str, revision: str, encoder: Encoder, texts: Sequence[str], advance: Callable[[int], object]
) -> np.ndarray:
    """Unit-length embeddings (n, d) float32, as SentenceTransformer.encode gives them for each text alone.

    Weights come out of safetensors only and no code of the encoder is run. Raises BadConfig where sentence-transformers
    is not installed, for files that it cannot read, and for a text that it cannot embed.
    """
    try:
        import torch
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging
    except ImportError as error:
        raise BadConfig(
            f"{source}: {encoder.beyond}, so it is read by sentence-transformers, and {error.name} is not installed "
            "here; install prefprobe[torch] (on a cluster the template embed-torch has it), or name a BERT with mean "
            "pooling."
        ) from error
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    folder = fetch(source, revision)
    _require_safetensors(source, folder, encoder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    reading = {"dtype": torch.float32, "use_safetensors": True}
    try:
        model = SentenceTransformer(str(folder), device=device, local_files_only=True, model_kwargs=reading).float()
        unlike = [
            name
            for listed, module in zip(encoder.modules, model.children(), strict=True)
            if listed.kind == "Transformer"
            for name in _unlike(module, folder / listed.path)
        ]
    except torch.OutOfMemoryError as error:
        raise BadConfig(f"{source}: the encoder does not fit on {device}; use a larger GPU.") from error
    except _FAULTS as error:
        raise BadConfig(f"{source}: sentence-transformers cannot read this encoder: {_reason(error)}") from error
    if unlike:
        raise BadConfig(
            f"{source}: transformers computes another network than these weights are of "
            f"({len(unlike)} missing or left over, such as {unlike[0]}); name another encoder."
        )
    vectors = []
    for i, text in enumerate(texts):
        try:
            vector = model.encode([text], batch_size=1, show_progress_bar=False, normalize_embeddings=True)[0]
        except torch.AcceleratorError as error:
            raise TemporaryFailure(f"{source}: the GPU failed at a text of {len(text)} characters.") from error
        except _FAULTS as error:
            raise BadConfig(
                f"{source}: the encoder cannot embed text {i + 1} of {len(texts)} ({len(text)} characters): {_reason(error)}"
            ) from error
        if not np.isfinite(vector).all() or not vector.any():
            raise BadConfig(
                f"{source}: the encoder's vector of text {i + 1} of {len(texts)} ({text[:40]!r}) is zero or not finite "
                "and has no direction; change the text, or name another encoder."
            )
        vectors.append(vector)
        advance(1)
    return np.stack(vectors) if vectors else np.empty((0, encoder.width or 0), dtype=np.float32)


def _require_safetensors(source: str, folder: Path, encoder: Encoder) -> None:
    for module in encoder.modules:
        if module.has_weights and not any((folder / module.path).glob("*.safetensors")):
            raise BadConfig(
                f"{source}: its {module.kind} ({module.path or 'the folder itself'}) holds no *.safetensors weights; "
                "convert them to safetensors (pickled .bin weights are never read), or name another encoder."
            )


def _unlike(module: Any, folder: Path) -> list[str]:
    """Weights that the network has and its files have not, and the other way round: then it is not the same network.

    transformers draws what is missing at random and passes over what it does not know, both without an error. A pooler
    that nothing reads may be missing; heads outside the network and blocks above its last one may be left over.
    """
    from torch.nn import ModuleList

    network = module.model
    _, report = type(network).from_pretrained(
        str(folder), config=network.config, device_map="meta", local_files_only=True, use_safetensors=True,
        output_loading_info=True,
    )  # fmt: skip
    parts = dict(network.named_modules())

    def within(name: str) -> Any:
        while name not in parts:
            name = name.rpartition(".")[0]
        return parts[name]

    pools = any("pooler_output" in str(way["method_output_name"]) for way in module.modality_config.values())
    missing = {name for name in report["missing_keys"] if pools or not name.startswith("pooler.")}
    names = {name.removeprefix(f"{network.base_model_prefix}.") for name in report["unexpected_keys"]}
    return sorted(
        missing | {name for name in names if within(name) is not network and not isinstance(within(name), ModuleList)}
    )


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
