"""Settings of what is kept of forward passes: at which depths, at which tokens, in which type."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from prefprobe.settings.base import Settings

POSITION = r"^(last|task-last|mean|turn:-[1-9][0-9]{0,5})$"
"""Where in a prompt: its last token, the last one of the task's text, the mean over the text's, the k-th token from the end."""
Dtype = Literal["float32", "bfloat16", "float16"]


def _positions(positions: list[str]) -> list[str]:
    for position in positions:
        if not re.fullmatch(POSITION, position):
            raise ValueError(f"{position!r} is no position; name last, task-last, mean or turn:-3 and the like")
    twice = [position for i, position in enumerate(positions) if position in positions[:i]]
    if twice:
        raise ValueError(f"{twice[0]} stands twice; name every position once")
    return positions


class ActivationSettings(Settings):
    """Which activations are kept."""

    fractions: list[Annotated[float, Field(ge=0, lt=1)]] = Field(
        default=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9], min_length=1, description="layer int(f · n_layers)"
    )
    positions: Annotated[list[str], AfterValidator(_positions)] = Field(
        default=["last"],
        min_length=1,
        exclude_if=lambda positions: positions == ["last"],
        description="`last` (of the prompt), `task-last` (of the task's text), `mean` (over the text's tokens), `turn:-3` (third "
        "from the prompt's end): all features read the first; each further one is a feature of the model of its own",
    )
    dtype: Dtype = Field(
        default="float32",
        exclude_if=lambda dtype: dtype == "float32",
        description="type in which they are stored; probes read them as float32",
    )
    shards: int = Field(default=1, ge=1, le=64, description="extraction runs as this many parallel steps")
    part: int = Field(default=120, ge=1, description="tasks between two saves; a GPU is kept busy by 1,000 and more")

    @property
    def further(self) -> dict[str, str]:
        """{name of the features: position} of all positions but the first."""
        return {f"model-{named(position)}": position for position in self.positions[1:]}


def named(position: str) -> str:
    """A position in the names of features, steps and arrays."""
    return position.replace(":", "")
