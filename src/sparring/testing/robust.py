"""`assert_robust`: an audit whose gate is an assertion."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from sparring.attacks import Attack
from sparring.auditing.audit import audit
from sparring.auditing.report import Report
from sparring.bridges import adopted
from sparring.errors import InputError
from sparring.evaluation.task import Images
from sparring.loading import Dataset, load_data, load_model
from sparring.model import Model
from sparring.testing.failure import explained, one_line
from sparring.testing.setting import CURRENT
from sparring.threat import Threat


class NotRobustError(AssertionError):
    """The model did not reach the mark, or the number cannot be believed. `report` holds the whole audit."""

    def __init__(self, message: str, report: Report) -> None:
        super().__init__(message)
        self.report = report


def assert_robust(
    model: Model | str,
    data: Dataset | tuple[Images, Tensor] | str,
    threat: Threat,
    at_least: float,
    *,
    effort: str = "standard",
    attacks: Sequence[Attack | str] | None = None,
    targets: Tensor | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    records: str | Path | None = None,
) -> Report:
    """Audit `model` on `data` under `threat`; fail unless its robust accuracy is at least `at_least`, and believable.

    The lower end of the 95 % interval must reach `at_least`, and no open finding may say that the number can't be
    believed: the gate of `sparring audit --fail-under`. model: a callable from images to logits, or what `load_model`
    takes. data: images (N, C, H, W) with labels (N,), or what `load_data` takes. records: a folder to resume from.

    Returns the report. Raises `NotRobustError`, an `AssertionError` whose text says what broke and what to do, and
    whatever `sparring.audit` raises for input that it cannot use.

    >>> import sparring as sp
    >>> threat = sp.ThreatModel("linf", 0.01)
    >>> report = assert_robust("digits-cnn", sp.load_data("digits", n=60), threat, at_least=0.5, effort="quick")
    >>> report.gate.passed
    True
    """
    __tracebackhide__ = True
    setting = CURRENT.get()
    if setting is not None and setting.effort is not None and attacks is None:
        effort = setting.effort
    loaded = load_model(model) if isinstance(model, str) else adopted(model)
    images, labels, names, title = _read(data)
    report = audit(
        loaded,
        images,
        labels,
        threat,
        effort=effort,
        attacks=attacks,
        targets=targets,
        seed=seed,
        batch_size=batch_size,
        out=records,
        fail_under=at_least,
        class_names=names,
        model_label=model if isinstance(model, str) else None,
        data_label=title,
    )
    files = []
    if setting is not None:
        place = setting.report_path()
        files = [] if place is None else [report.save(place.with_name(place.name + end)) for end in (".html", ".json")]
        setting.said.append(one_line(report))
    if report.gate is not None and not report.gate.passed:
        raise NotRobustError(explained(report, files), report)
    return report


def _read(data: Dataset | tuple[Images, Tensor] | str) -> tuple[Images, Tensor, tuple[str, ...] | None, str]:
    found = load_data(data) if isinstance(data, str) else data
    if isinstance(found, Dataset):
        return found.images, found.labels, found.class_names, found.name
    if not isinstance(found, (tuple, list)) or len(found) != 2:
        raise InputError(f'data must be a pair (images, labels) or a name such as "digits", got {type(found).__name__}')
    return found[0], found[1], None, "images in memory"
