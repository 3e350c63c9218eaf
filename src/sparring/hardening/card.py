"""The model card: what was trained how, on what, against what, and what it withstands. Plain data and its JSON."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from sparring.estimate import Estimate
from sparring.hardening.evidence import Audit, Bend, OtherNorm
from sparring.hardening.history import Epoch

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """Everything one needs to judge, and to repeat, a hardened model.

    data: counts, digest and where the numbers were measured. cost: seconds of one epoch against one of normal
    training. before, after: the audit of the model as it was given and as it is now, None where none was asked for.
    changes: what the watch changed after a collapse; final_method: what it came to by that.
    """

    model: str
    parameters: int
    weights: str
    threat: dict[str, Any]
    threat_text: str
    method: str
    final_method: str
    paper: str
    recipe: dict[str, Any]
    seed: int
    data: dict[str, Any]
    hours: float
    cost: float
    best_epoch: int
    history: tuple[Epoch, ...]
    changes: tuple[str, ...]
    before: Audit | None
    after: Audit | None
    bend_before: Bend | None
    bend_after: Bend | None
    other_norms: tuple[OtherNorm, ...]
    versions: dict[str, str]

    def plain(self) -> dict[str, Any]:
        """As JSON values; an estimate becomes value, low, high, n."""
        plain: dict[str, Any] = _plain({"card": VERSION, **vars(self)})
        return plain

    def to_json(self) -> str:
        """Indented JSON."""
        return json.dumps(self.plain(), indent=2) + "\n"

    def to_markdown(self) -> str:
        """For people; the pictures are looked for beside it."""
        from sparring.hardening.card_text import markdown

        return markdown(self)


def _plain(value: Any) -> Any:
    if isinstance(value, Estimate):
        return {"value": value.value, "low": value.low, "high": value.high, "n": value.n}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(vars(value))
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
