"""What every block of a preset has in common."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A block of a preset; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)
