"""[harden]: how the declared model is trained adversarially. Flags go over it; see `sparring harden --help`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from sparring.errors import InputError
from sparring.loading.table import Table, Whole


def _plain(value: Any) -> Any:
    """A table of numbers, texts, truth values and lists of them, as `sparring.harden` takes them."""
    kinds = (bool, int, float, str)
    if not isinstance(value, dict):
        raise InputError("must be a table, such as { lr = 0.001, augment = ['flip'] }")
    for name, entry in value.items():
        if not all(isinstance(part, kinds) for part in (entry if isinstance(entry, (list, tuple)) else [entry])):
            raise InputError(f"{name} must be a number, a text, true, false, or a list of them")
    return {name: tuple(entry) if isinstance(entry, list) else entry for name, entry in value.items()}


class HardenTable(Table):
    """[harden]: the method and its settings."""

    method: str = Field(default="fast", min_length=1, description='"fast", "pgd", "trades", "pgd:steps=10", ...')
    epochs: Whole | None = Field(
        default=None, ge=1, description="passes over the data; 20 with fast, else 15, more on small sets"
    )
    test: str | None = Field(
        default=None, description="images for the final audit, as [data] source; left out: the data's own test part"
    )
    final: str = Field(default="standard", description='effort of the final audit, or "none"')
    settings: Annotated[dict[str, Any], BeforeValidator(_plain)] = Field(
        default={}, description='any other: { lr = 0.001, batch_size = 64, awp = 0.005, augment = ["flip"] }'
    )
