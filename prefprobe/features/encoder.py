"""Sentence encoders: what a text embedding alone knows of a task."""

from collections.abc import Callable, Sequence

import numpy as np

from prefprobe.errors import BadConfig
from prefprobe.features.bert import embed_bert
from prefprobe.features.encoder_files import Encoder, read_encoder
from prefprobe.sources import SMALL_FILES, fetch, revision_now

READER = "sentence-transformers"
"""What reads the encoders that numpy does not."""


def describe(source: str, revision: str) -> Encoder:
    """What an encoder is, by its small files: of a hub id these alone are downloaded. Needs no torch.

    Raises BadConfig for what is no sentence encoder, TemporaryFailure where the hub does not answer.
    """
    return read_encoder(source, fetch(source, revision, SMALL_FILES))


def embed(
    source: str,
    texts: Sequence[str],
    *,
    revision: str | None = None,
    advance: Callable[[int], object] = lambda n: None,
) -> np.ndarray:
    """Unit-length sentence embeddings (n, d) float32; `advance(1)` is called after every text.

    `source` is a hub id, a local folder or `package:NAME/PATH`, and `revision` a hub commit, the newest one if not given.

    A BERT whose last states are averaged is read in numpy, where `describe` finds that to be exact. Every other encoder
    is read by sentence-transformers in float32, on a GPU if there is one: its pooling (mean, CLS, last token, …), its
    further modules and its default prompt are its own. Texts are embedded one at a time, so that a vector is the same
    whatever other texts there are. All vectors are brought to length 1, also those of an encoder without a module for
    that: cosines are what encoders are trained and compared by.

    The prompt is the encoder's `default_prompt_name` (config_sentence_transformers.json), or none. An encoder that asks
    for a prompt in its description alone, such as E5 for "query: ", gets none: set it as the default in a copy.

    Raises BadConfig for what is no sentence encoder, for one with pickled weights alone, and where torch is needed and
    not installed.
    """
    if isinstance(texts, str):
        raise BadConfig("texts are one text, expected a list of them; put it into a list.")
    revision = revision_now(source) if revision is None else revision
    encoder = describe(source, revision)
    if encoder.beyond is None:
        return embed_bert(fetch(source, revision), source, encoder, texts, advance)
    from prefprobe.features.torch_encoder import embed_in_torch

    return embed_in_torch(source, revision, encoder, texts, advance)
