"""A certificate on the terminal, and as one self-contained HTML page with its bracket over epsilon."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from sparring.reports import plots, svg
from sparring.reports.html import _environment
from sparring.reports.text import one_line

if TYPE_CHECKING:
    from sparring.certification.certificate import Certificate
    from sparring.estimate import Estimate

Point = tuple[float, "Estimate", "Estimate | None"]
"""Budget, certified accuracy (at least), accuracy under attack (at most)."""

IMAGES = 200
"""Images that the page lists, at most."""


def terminal(certificate: Certificate, points: Sequence[Point], console: Console) -> None:
    """Print the shares, the subject and the bracket."""

    def say(text: str, style: str = "") -> None:
        console.print(text, style=style, markup=False, highlight=False)

    say(f"{certificate.method}, {certificate.norm} eps {certificate.eps:g}", "bold")
    say(f"right            {certificate.clean_accuracy}")
    say(f"certified        {certificate.certified_accuracy}")
    if certificate.abstained is not None:
        say(f"abstained        {int(certificate.abstained.sum())} of {len(certificate.labels)}")
    if certificate.ceiling is not None:
        say(f"largest radius that can be shown: {certificate.ceiling:.3g}")
    say(f"about            {certificate.subject}")
    for note in certificate.notes:
        say(note, "yellow")
    for eps, low, high in points:
        say(f"eps {eps:<8.3g} certified {_percent(low)}   attacked {_percent(high)}")


def html(certificate: Certificate, points: Sequence[Point], *, model: str, data: str, eps: str) -> str:
    """The page. Equal certificates give equal pages; names are untrusted and escaped."""
    return (
        _environment()
        .get_template("certificate.html.j2")
        .render(
            proof=certificate,
            model=model,
            data=data,
            eps=eps,
            rows=list(_numbers(certificate)),
            chart=chart(points, certificate.norm) if len(points) > 1 else "",
            points=[(f"{at:.3g}", _percent(low), _percent(high)) for at, low, high in points],
            images=list(_images(certificate)),
        )
    )


def _numbers(certificate: Certificate) -> Iterator[tuple[str, str]]:
    yield "certified: right, and proved", str(certificate.certified_accuracy)
    yield "right", str(certificate.clean_accuracy)
    if certificate.abstained is not None:
        yield "abstained", f"{int(certificate.abstained.sum())} of {len(certificate.labels)}"
    if certificate.ceiling is not None:
        yield "largest radius that can be shown", f"{certificate.ceiling:.3g}"
    if certificate.radius is not None:
        yield "radius, median", f"{float(certificate.radius.median()):.3g}"


def _images(certificate: Certificate) -> Iterator[tuple[str, ...]]:
    """Number, label, answer, verdict and what is known of each of the first images."""
    for i in range(min(IMAGES, len(certificate.labels))):
        said, label = int(certificate.prediction[i]), int(certificate.labels[i])
        verdict = "certified" if certificate.certified[i] else "wrong" if said != label else "unknown"
        lower, radius = float(certificate.lower[i]), certificate.radius
        known = "-" if math.isnan(lower) else f"{lower:.3g}"
        reach = "-" if radius is None else f"{float(radius[i]):.3g}"
        yield str(i), str(label), "abstains" if said < 0 else str(said), verdict, known, reach


def chart(points: Sequence[Point], norm: str) -> str:
    """Certified from below, attacked from above, the unknown shaded between, as SVG."""
    xs = [eps for eps, _, _ in points]
    lows = [100 * low.value for _, low, _ in points]
    upper = [(eps, 100 * high.value) for eps, _, high in points if high is not None]
    with svg.settings():
        figure, axes = plots._axes()
        axes.plot(xs, lows, color=svg.COLOURS["s1"], linewidth=2)
        if upper:
            axes.plot(*zip(*upper, strict=True), color=svg.COLOURS["s2"], linewidth=2, linestyle=(0, (6, 3)))
        if len(upper) == len(points):
            axes.fill_between(xs, lows, [y for _, y in upper], color=svg.COLOURS["line"], alpha=0.5, linewidth=0)
        plots._x_range(axes, 0.0, max(xs))
        told = f"From {lows[0]:.1f} % at epsilon {xs[0]:.3g} to {lows[-1]:.1f} % at {xs[-1]:.3g} certified."
        return svg.inline(figure, key="bracket", title=f"Bracket over epsilon, {one_line(norm)}", description=told)


def _percent(share: Estimate | None) -> str:
    return "-" if share is None else f"{100 * share.value:.1f} %"
