"""What reports are made of: closed plain data, proportions, curves, the bracket."""

from __future__ import annotations

import math

from pydantic import BaseModel, ConfigDict

from sparring.estimate import Estimate


class Plain(BaseModel):
    """Immutable, closed to unknown fields, finite numbers only."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Interval(Plain):
    """A proportion with its 95 % confidence interval; `value` is null where nothing was counted (n = 0)."""

    value: float | None
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, estimate: Estimate) -> Interval:
        """From an `Estimate`."""
        value = None if math.isnan(estimate) else estimate.value
        return cls(value=value, low=estimate.low, high=estimate.high, n=estimate.n)


class CurvePoint(Plain):
    """Accuracy at one budget."""

    eps: float
    accuracy: Interval


class Curve(Plain):
    """Accuracy against epsilon for one attack."""

    attack: str
    norm: str
    points: tuple[CurvePoint, ...]


class Bracket(Plain):
    """Certified accuracy `lower` <= true robust accuracy <= `upper`, what attacks left. `subject`: what the certificate
    is about. `tried`: images that bounds were computed for; `attacked`: certified ones that were attacked all the same;
    `contradicted`: certified ones that fell, after which there is no `lower`. `curve`: certified accuracy against
    epsilon. `note`: why there is no more.
    """

    method: str
    subject: str
    tried: int
    certified: int
    broken: int
    unknown: int
    attacked: int
    lower: Interval | None
    upper: Interval
    contradicted: tuple[int, ...] = ()
    curve: Curve | None = None
    note: str = ""
