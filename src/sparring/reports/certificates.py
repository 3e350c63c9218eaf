"""A certificate on the terminal, and as one self-contained HTML page with its bracket over epsilon."""

from __future__ import annotations

from collections.abc import Sequence
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

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>sparring certificate: {{ model | line }}</title>
<style>:root { --ink: #1b1f24; --ink-2: #57606a; --line: #d8dee4; --s1: #0b62a4; --s2: #b4530a;
color-scheme: light dark }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --ink-2: #9da7b1; --line: #30363d; --s1: #6cb6ff;
--s2: #f0a35e } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 44rem; margin: 2rem auto; padding: 0 1rem; color: var(--ink) }
svg { width: 100%; height: auto } table { border-collapse: collapse } td, th { padding: .2rem 1rem .2rem 0;
text-align: left } text { font-size: 9px; fill: var(--ink-2) }</style></head><body>
<h1>What no attack can break</h1>
<p>{{ model | line }} on {{ data | line }}, {{ norm }} epsilon {{ eps }}, method {{ method }}.</p>
<p><b>{{ certified }}</b> certified of {{ clean }} right.</p>
<p>The certificate is about {{ subject }}. It does not cover a stack around the model.</p>
{% for note in notes %}<p>{{ note }}</p>{% endfor %}
{% if chart %}<figure>{{ chart | svg }}<figcaption>Accuracy (%) against epsilon: certified (at least) below, after
attacks (at most) above; the true robust accuracy lies between.</figcaption></figure>{% endif %}
{% if rows %}<table><thead><tr><th>epsilon</th><th>certified, at least</th><th>attacked, at most</th></tr></thead>
<tbody>{% for row in rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}</tbody></table>
{% endif %}</body></html>
"""


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
    template = _environment().from_string(PAGE)
    return template.render(
        model=model,
        data=data,
        norm=certificate.norm,
        eps=eps,
        method=certificate.method,
        certified=str(certificate.certified_accuracy),
        clean=str(certificate.clean_accuracy),
        subject=certificate.subject,
        notes=certificate.notes,
        chart=chart(points, certificate.norm) if len(points) > 1 else "",
        rows=[(f"{at:.3g}", _percent(low), _percent(high)) for at, low, high in points],
    )


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
