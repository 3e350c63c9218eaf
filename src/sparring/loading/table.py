"""What every table of `sparring.toml` is made of."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

from sparring.errors import InputError


def no_booleans(value: Any) -> Any:
    """TOML tells true from 1; so do we."""
    if isinstance(value, bool) or (isinstance(value, (list, tuple)) and any(isinstance(v, bool) for v in value)):
        raise InputError(f"must be a number, got {value!r}")
    return value


Whole = Annotated[int, BeforeValidator(no_booleans)]
Real = Annotated[float, BeforeValidator(no_booleans)]


class Table(BaseModel):
    """One table of the file: immutable, closed to unknown keys, finite numbers only."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
