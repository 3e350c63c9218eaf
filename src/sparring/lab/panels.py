"""What the page shows as HTML: templates with everything escaped, and the numbers put into words."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from sparring.attacks import Attack
from sparring.auditing.pictures import class_name, perturbation, png
from sparring.budget import number_text
from sparring.defenses import Stack
from sparring.lab.attempt import ONE_STEP, Attempt, Case, best
from sparring.lab.curves import Confidence, Line, Point
from sparring.lab.formula import walk
from sparring.lab.layers import Verdict
from sparring.lab.plot import Curve, line_plot
from sparring.lab.rivals import Shot, Side
from sparring.threat import ThreatModel

if TYPE_CHECKING:
    from jinja2 import Environment


def error(message: str) -> str:
    """What cannot be done, and why."""
    return (
        _environment().from_string('<div class="lab"><p class="error" role="alert">{{ m }}</p></div>').render(m=message)
    )


def note(message: str) -> str:
    """What is being waited for, or why there is nothing to show."""
    text = '<div class="lab"><p class="small" role="status">{{ m }}</p></div>'
    return _environment().from_string(text).render(m=message)


def answer(case: Case, attempt: Attempt, running: str | None) -> str:
    """Predictions before and after. running: the attack whose answer is still to come, None if this is it."""
    names = case.subject.names
    truth = ""
    if case.truth is not None and case.truth != case.label:
        truth = f"This is {class_name(case.truth, names)}: the model is wrong before any attack."
    return _rendered(
        "answer",
        attempt=attempt,
        before=best(case.logits, names),
        after=best(attempt.logits, names),
        target=None if case.target is None else class_name(case.target, names),
        truth=truth,
        done=running is None,
        running=running,
        spent=f"{255 * attempt.distance:.3g}/255" if attempt.threat.norm == "linf" else f"{attempt.distance:.4g}",
        reused=attempt.attack == str(ONE_STEP),
    )


def curves(case: Case, curve: Confidence, line: Line | None, level: int | None) -> str:
    """Confidence against epsilon and the loss beside its first-order line; `level` is marked."""
    scale, unit = (255.0, "in 1/255") if curve.norm == "linf" else (1.0, "")
    label = class_name(case.label, case.subject.names)
    other = "strongest other class" if case.target is None else class_name(case.target, case.subject.names)
    lines = [
        Curve(label, "one", [(p.eps * scale, p.label) for p in curve.points]),
        Curve(other, "two", [(p.eps * scale, p.other) for p in curve.points]),
    ]
    flip, below = curve.first_flip, curve.holds_at
    marks = [] if flip is None else [(flip.eps * scale, "flip", f"first flip, {number_text(flip.eps)}")]
    here = next((p for p in curve.points if p.level == level), None)
    marks += [] if here is None else [(here.eps * scale, "here", f"the slider, {number_text(here.eps)}")]
    x_label = f"epsilon ({curve.norm}{', ' if unit else ''}{unit})"
    plot = line_plot(
        lines, title="Confidence against epsilon", x_label=x_label, y_label="confidence", marks=marks, percent=True
    )
    loss = "" if line is None else _loss(line, scale, x_label)
    last = number_text(curve.points[-1].eps) if curve.points else ""
    return _rendered(
        "curves", curve=curve, flip=_worded(flip), below=_worded(below), last=last, confidence=plot, line=loss
    )


def formula(case: Case, attack: Attack, threat: ThreatModel) -> str:
    """How it works."""
    promise = (type(attack).__doc__ or "").strip().split("\n\n")[0]
    return _rendered(
        "formula", walk=walk(case, threat), attack=str(attack), promise=promise, colour=case.image.shape[1] == 3
    )


def layers(stack: Stack, clean_are: str, verdicts: Sequence[Verdict], *, done: bool) -> str:
    """The table of defenses."""
    about = clean_are if stack.detectors else ""
    return _rendered("layers", stack=str(stack), clean_are=about, verdicts=verdicts, done=done)


def rivals(sides: Sequence[tuple[Side, Confidence]]) -> str:
    """Standard beside hardened."""
    scale = 255.0 if sides[0][1].norm == "linf" else 1.0
    lines = [
        Curve(side.name, look, [(p.eps * scale, p.label) for p in curve.points])
        for (side, curve), look in zip(sides, ("one", "two"), strict=False)
    ]
    plot = line_plot(
        lines,
        title="Standard and hardened",
        x_label=f"epsilon ({sides[0][1].norm}{', in 1/255' if scale > 1 else ''})",
        y_label="confidence in the first answer",
        percent=True,
    )
    return _rendered("rivals", sides=[side for side, _ in sides], flips=[_flip(curve) for _, curve in sides], plot=plot)


def gallery(case: Case, shots: Sequence[Shot], *, done: bool) -> str:
    """The attacks side by side."""
    return _rendered("gallery", shots=shots, pictures=[_thumbs(case, shot) for shot in shots], done=done)


def _thumbs(case: Case, shot: Shot) -> tuple[str, str, str]:
    if shot.adversarial is None:
        return "", "", ""
    change, gain = perturbation(case.image[0], shot.adversarial, (0.0, 1.0))
    return f"data:image/png;base64,{png(shot.adversarial)}", f"data:image/png;base64,{png(change)}", f"{gain:g}"


def _loss(line: Line, scale: float, x_label: str) -> str:
    true = Curve("the loss", "one", list(zip((e * scale for e in line.eps), line.true, strict=True)))
    straight = Curve(
        "first-order line", "straight", list(zip((e * scale for e in line.eps), line.straight, strict=True))
    )
    return line_plot(
        [true, straight], title="Loss along the gradient", x_label=x_label, y_label="loss along the gradient"
    )


def _flip(curve: Confidence) -> str:
    flip = curve.first_flip
    return "no flip on this scale" if flip is None else f"first flip at {number_text(flip.eps)}"


def _worded(point: Point | None) -> dict[str, str] | None:
    return None if point is None else {"text": number_text(point.eps)}


def _rendered(template: str, **values: Any) -> str:
    return _environment().get_template(f"{template}.html.j2").render(**values)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(loader=PackageLoader("sparring.lab"), autoescape=True, undefined=StrictUndefined)
