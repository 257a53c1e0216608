"""What is read off a model against what its own pass says of itself."""

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np
import torch

from prefprobe.activations.capture import FINAL, capture
from prefprobe.activations.model import LoadedModel
from prefprobe.errors import BadConfig

_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4}
_TOLERANCE_HALF = 5e-2
"""Relative difference of a vector that rounding alone explains, in float32 and in 16 bits."""


def check_model(model: LoadedModel) -> None:
    """Compare what is read off a model with what its own pass says of itself, once a model, before anything is measured.

    Raises BadConfig if its blocks do not hand on one residual stream, if they give another stream than its pass reports,
    if later tokens change earlier ones, or if the logits of its final hidden states are not its own.
    """
    if model.packing.checked:
        return
    tokens = model.prompt_tokens("Name a colour and a number")
    check_tokens(model, [tokens])
    other = [*tokens[:-1], next(token for token in tokens if token != tokens[-1])]
    layers = range(model.n_layers)
    with torch.inference_mode(), capture(model, layers, final=True, stop=False) as seen:
        pair = torch.tensor([tokens, other], device=model.device)
        own = model.model(input_ids=pair, use_cache=False, output_hidden_states=True)
    streams = [seen[layer] for layer in layers]
    shape = (*pair.shape, model.width)
    if any(stream.shape != shape for stream in streams):
        found = next(tuple(stream.shape) for stream in streams if stream.shape != shape)
        _refuse(model, f"its blocks hand on values of shape {found}, expected one residual stream of shape {shape}")
    if not all(bool(stream.isfinite().all()) for stream in seen.values()):
        _refuse(model, "what it computes is not finite in this type, or its weights are not")
    reported = own.hidden_states or ()
    # the last one that is reported has gone through the final norm, which is after the stream
    compared = list(zip(streams[:-1], reported[1:-1], strict=len(reported) == len(streams) + 1))
    if not compared or not all(_near(model, stream, said) for stream, said in compared):
        _refuse(model, "its blocks give other values than the hidden states that it reports")
    one, changed = seen[FINAL][:, :-1]
    if not _near(model, one, changed, np.median):  # rounding may be large at some one token
        _refuse(model, "a later token changes what it computes of earlier ones, which no decoder does")
    if not _near(model, model.logits(seen[FINAL][0]), own.logits[0]):
        _refuse(model, "the logits of its final hidden states are not its own")
    model.packing.checked = True


def check_tokens(model: LoadedModel, sequences: Sequence[Sequence[int]]) -> None:
    """Raise BadConfig for a token that the model has not."""
    rows, last = len(model.model.get_input_embeddings().weight), max(map(max, sequences))
    if last >= rows:
        raise BadConfig(
            f"the tokenizer reads a prompt as token {last}, and the model has embeddings of {rows} tokens; use the tokenizer "
            "that belongs to the model."
        )


def _refuse(model: LoadedModel, why: str) -> NoReturn:
    raise BadConfig(f"{type(model.model).__name__} cannot be measured: {why}; measure another model.")


def _near(model: LoadedModel, one: torch.Tensor, other: torch.Tensor, of: Callable[[Any], Any] = np.max) -> bool:
    """Values that are no numbers in both are alike; they are refused under the name of the task that gives them."""
    numbers = (np.nan_to_num(values.float().cpu().numpy(), posinf=0.0, neginf=0.0) for values in (one, other))
    return bool(of(relative_difference(*numbers)) < tolerance(model))


def tolerance(model: LoadedModel) -> float:
    """Relative difference of two vectors that rounding alone may cause."""
    return _TOLERANCE.get(model.dtype, _TOLERANCE_HALF)


def relative_difference(got: np.ndarray, own: np.ndarray) -> np.ndarray:
    """‖got − own‖ / ‖own‖ of every vector, for arrays (…, d)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.linalg.norm(got - own, axis=-1) / np.linalg.norm(own, axis=-1))
