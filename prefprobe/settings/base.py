"""What every block of settings is."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A block of a preset; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def form(value: object) -> str | None:
    """The tag of a value that is a text or a mapping, by which pydantic tells them apart; None for neither."""
    return "(text)" if isinstance(value, str) else "(mapping)" if isinstance(value, dict | Settings) else None
