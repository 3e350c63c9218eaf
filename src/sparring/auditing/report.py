"""The report as plain data: what an audit found, with a schema version. Every renderer reads only this."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from sparring.auditing.plain import Bracket as Bracket
from sparring.auditing.plain import Curve as Curve
from sparring.auditing.plain import CurvePoint as CurvePoint
from sparring.auditing.plain import Interval as Interval
from sparring.auditing.plain import Plain as Plain
from sparring.diagnosis.result import Diagnosis
from sparring.errors import InputError
from sparring.evaluation import Record

SCHEMA_VERSION = "1.2"

Severity = Literal["critical", "warning", "note"]


class Reference(Plain):
    """Where a finding is explained or classified. `url` may be empty."""

    label: str
    url: str = ""


class Finding(Plain):
    """Something the auditor must tell. `undermines`: while unresolved, the robust accuracy can't be believed.

    `replay` is a few lines of Python that show it again.
    """

    code: str
    title: str
    severity: Severity
    evidence: str
    remedy: str
    undermines: bool = False
    resolved: bool = False
    references: tuple[Reference, ...] = ()
    replay: str = ""


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
    purpose: str = Field("", description="which images it was sent to, where those were not all that stood")


class EvaluationSection(Plain):
    """Clean and robust accuracy, the stages that produced them, one record per image.

    `targeted`: broken means turned into one chosen class. `missed_bound`: the share of all images that may be broken
    by attacks they were spared (95 % confidence), where any were spared.
    """

    clean_accuracy: Interval
    robust_accuracy: Interval
    attack_success_rate: Interval
    missed_bound: float | None = None
    targeted: bool = False
    complete: bool
    stages: tuple[Stage, ...]
    records: tuple[Record, ...]


class CostPoint(Plain):
    """After `cost` evaluations on an image, `broken` (share of the images attacked) have fallen."""

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
    """How visible the perturbations of the broken images are. psnr in dB, ssim in -1..1 (1 = identical).

    `survive_png`: the share of them that still fool the model once they were saved as 8-bit PNG files and read again.
    """

    images: int
    l2: Spread
    linf: Spread
    ssim: Spread
    psnr: Spread
    survive_png: Interval | None = None


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


class Changed(Plain):
    """An image whose verdict is not what it was: its place in the new report, and what broke it in the report where it
    was broken (None: the model was wrong about it without any attack).
    """

    index: int
    digest: str
    label: int
    broken_by: str | None


class Comparison(Plain):
    """A report beside an older one, on the `images` that both know: the same digest and the same label.

    `differences` between the two audits besides the verdicts; `p_value` of McNemar's exact test.
    """

    old_created: str
    old_model: str
    old_model_digest: str
    differences: tuple[str, ...]
    images: int
    only_old: int
    only_new: int
    relabelled: int
    old_robust: Interval
    new_robust: Interval
    newly_broken: tuple[Changed, ...]
    newly_robust: tuple[Changed, ...]
    p_value: float
    verdict: str


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
    bracket: Bracket | None = None
    curves: tuple[Curve, ...] = ()
    cost: CostCurve | None = None
    visibility: Visibility | None = None
    diagnosis: Diagnosis | None = None
    classes: tuple[ClassRow, ...] = ()
    pictures: tuple[Picture, ...] = ()
    findings: tuple[Finding, ...] = ()
    comparison: Comparison | None = None
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

        import_module("sparring.reports")  # by name: the room above fills RENDERERS, nothing here depends on it
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
