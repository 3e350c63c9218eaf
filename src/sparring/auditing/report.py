"""The report as plain data: what an audit found, with a schema version. Every renderer reads only this."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sparring.errors import InputError
from sparring.estimate import Estimate
from sparring.evaluation import Record

SCHEMA_VERSION = "1.0"

Severity = Literal["critical", "warning", "note"]


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


class Reference(Plain):
    """Where a finding is explained or classified. `url` may be empty."""

    label: str
    url: str = ""


class Finding(Plain):
    """Something the auditor must tell. `undermines`: while unresolved, the robust accuracy can't be believed."""

    code: str
    title: str
    severity: Severity
    evidence: str
    remedy: str
    undermines: bool = False
    resolved: bool = False
    references: tuple[Reference, ...] = ()


class Subject(Plain):
    """What was audited."""

    model: str
    model_digest: str
    parameters: int | None
    data: str
    data_digest: str
    images: int
    shape: tuple[int, ...]
    classes: int
    class_names: tuple[str, ...] | None = None


class Attacker(Plain):
    """The declared attacker: what they know, may do and spend. Stands at the head of every report."""

    knowledge: str
    goal: str
    norm: str
    eps: float
    eps_text: str
    bounds: tuple[float, float]
    mask: str | None
    attacks: tuple[str, ...]
    queries: str
    compute: str


class Stage(Plain):
    """One attack of the evaluation: how many images it tried and broke, and what that cost."""

    attack: str
    tried: int
    broke: int
    robust_after: Interval
    forwards: int
    backwards: int
    seconds: float
    rejected: int = Field(0, description="candidates that left the budget or the box and were thrown away")
    complete: bool = True
    notes: tuple[str, ...] = ()


class EvaluationSection(Plain):
    """Clean and robust accuracy, the stages that produced them, one record per image."""

    clean_accuracy: Interval
    robust_accuracy: Interval
    attack_success_rate: Interval
    missed_bound: float | None = None
    complete: bool
    stages: tuple[Stage, ...]
    records: tuple[Record, ...]


class CurvePoint(Plain):
    """Accuracy at one budget."""

    eps: float
    accuracy: Interval


class Curve(Plain):
    """Accuracy against epsilon for one attack."""

    attack: str
    norm: str
    points: tuple[CurvePoint, ...]


class CostPoint(Plain):
    """After `cost` evaluations on an image, `broken` (share of the images right at the start) have fallen."""

    cost: float
    broken: float


class CostCurve(Plain):
    """Success against cost. `unit` says what one evaluation is."""

    unit: str
    points: tuple[CostPoint, ...]


class Spread(Plain):
    """Median with the 10th and 90th percentile."""

    median: float
    p10: float
    p90: float


class Visibility(Plain):
    """How visible the perturbations of the broken images are. psnr in dB, ssim in -1..1 (1 = identical)."""

    images: int
    l2: Spread
    linf: Spread
    ssim: Spread
    psnr: Spread


class ClassRow(Plain):
    """Accuracy of one class; `falls_to` is the class its broken images are most often taken for."""

    label: int
    name: str
    clean: Interval
    robust: Interval
    falls_to: str | None


class Picture(Plain):
    """One broken image: three inline PNG pictures (base64) and the prediction before and after."""

    index: int
    label: str
    before: str
    before_confidence: float
    after: str
    after_confidence: float
    broken_by: str
    evaluations: int
    distance: float
    clean_png: str
    adversarial_png: str
    perturbation_png: str
    gain: float
    survives_8bit: bool


class Gate(Plain):
    """The pass mark of `--fail-under` and whether it was met."""

    fail_under: float
    passed: bool
    reason: str


class Report(Plain):
    """Everything an audit knows."""

    schema_version: str = SCHEMA_VERSION
    sparring_version: str
    created: str
    complete: bool
    seconds: float
    seed: int
    effort: str
    subject: Subject
    attacker: Attacker
    headline: str
    evaluation: EvaluationSection
    curves: tuple[Curve, ...] = ()
    cost: CostCurve | None = None
    visibility: Visibility | None = None
    classes: tuple[ClassRow, ...] = ()
    pictures: tuple[Picture, ...] = ()
    findings: tuple[Finding, ...] = ()
    gate: Gate | None = None

    @property
    def believable(self) -> bool:
        """False while an unresolved finding says that the robust accuracy can't be believed."""
        return not any(f.undermines and not f.resolved for f in self.findings)

    def save(self, path: str | Path) -> Path:
        """Write the report; the suffix chooses the form: .json, .html, .xml (JUnit), .sarif.

        The file appears whole or not at all. Raises `InputError` for another suffix or an unwritable place.
        """
        from sparring.files import write_whole

        target = Path(path)
        renderer = RENDERERS.get(target.suffix.lower())
        if renderer is None:
            raise InputError(f"report path must end in {', '.join(RENDERERS)}, got {str(path)!r}")
        write_whole(target, renderer(self).encode("utf-8"))
        return target


RENDERERS: dict[str, Callable[[Report], str]] = {}
"""Suffix to renderer; the `reports` package above fills it in."""


def load_report(text: str | bytes) -> Report:
    """Validate the JSON form. Raises `InputError` for another schema version or a malformed report."""
    from pydantic import ValidationError

    try:
        report = Report.model_validate_json(text)
    except ValidationError as error:
        first: Any = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"not a sparring report: {where or 'document'}: {first['msg']}") from None
    if report.schema_version.split(".")[0] != SCHEMA_VERSION.split(".")[0]:
        raise InputError(f"report schema {report.schema_version} cannot be read, this is {SCHEMA_VERSION}")
    return report
