"""A diagnosis: as a few tables on the terminal, and as one self-contained HTML page with its pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.text import Text

from sparring.reports import numbers, svg
from sparring.reports.html import _environment
from sparring.reports.pen import Pen

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sparring.diagnosis.result import Diagnosis, Landscape, Line

PLOTS = 4
LEVELS = 8
CELLS = 56
Rows = list[tuple[str, str]]


def sections(found: Diagnosis) -> list[tuple[str, Rows]]:
    """Everything in words: title, and rows of name and value."""
    return [
        ("First-order picture", _first_order(found)),
        ("Sensitivity", _sensitivity(found)),
        ("Gradient health", _health(found)),
        ("What one-step training misses", _bias(found)),
        ("How it fails", _failure(found)),
        ("Transfer", [(f"{t.surrogate}, {t.attack}", numbers.percent(t.success)) for t in found.transfer]),
    ]


def terminal(found: Diagnosis, console: Console) -> None:
    """Print the tables."""
    for block in _blocks(found, Pen.of(console)):
        console.print(block, highlight=False)


def html(found: Diagnosis) -> str:
    """The page. Equal diagnoses give equal pages; names are untrusted and escaped."""
    lines = [(line.index, line_plot(line, f"line{line.index}")) for line in found.first_order.lines[:PLOTS]]
    planes = [(p, landscape_plot(p, f"plane{i}")) for i, p in enumerate(found.landscapes)]
    page = _environment().get_template("diagnosis.html.j2")
    tables, where = [s for s in sections(found) if s[1]], saliency(found.failure.where)
    return page.render(found=found, sections=tables, lines=lines, planes=planes, saliency=where)


def _blocks(found: Diagnosis, pen: Pen) -> Iterator[RenderableType]:
    yield pen.line((found.model, "bold"), (f" under {found.threat}, {found.images} images", ""))
    for note in found.notes:
        yield pen.line((note, "yellow"))
    for title, rows in sections(found):
        if not rows:
            continue
        yield Text()
        yield pen.title(title)
        table = pen.table("")
        table.add_column("", overflow="fold")
        for name, value in rows:
            table.add_row(pen.line((name, "")), pen.line((value, "")))
        yield table


def _first_order(found: Diagnosis) -> Rows:
    picture, n = found.first_order, len(found.first_order.lines)
    gaps, bends = ([getattr(line, name) for line in picture.lines] for name in ("gap", "curvature"))
    pays = "never here" if picture.stops_paying is None else f"from eps {numbers.significant(picture.stops_paying)}"
    return [
        ("loss above its first-order line at the budget, median", numbers.significant(_median(gaps))),
        ("curvature along the step (an estimate at the image), median", numbers.significant(_median(bends))),
        ("ten small steps beat one", pays),
        ("images whose loss FGSM lowered", f"{len(picture.lowered)} of {n}"),
    ]


def _sensitivity(found: Diagnosis) -> Rows:
    s = found.sensitivity
    rows = [("local Lipschitz constant of the margin, at least (median)", numbers.significant(_median(list(s.lower))))]
    if s.upper is None or s.ratio is None:
        rows.append(("global upper bound", f"none: {s.why}"))
    else:
        rows.append(("global upper bound", f"{numbers.significant(s.upper)} ({s.ratio:.1f} times the largest seen)"))
        rows.append(("layer that stretches most", str(s.stretches)))
    rows += [(f"norm of layer {layer.name} ({layer.kind})", numbers.significant(layer.norm)) for layer in s.layers]
    rows += [
        (f"gradient at {r.dimension} inputs (x {r.scale:g})", f"l1 {r.l1:.3g}, l2 {r.l2:.3g}") for r in s.resolutions
    ]
    return rows


def _health(found: Diagnosis) -> Rows:
    h = found.health
    rows = [
        ("images with a zero gradient", numbers.percent(h.zero)),
        ("with an underflowing, overflowing one", f"{numbers.percent(h.underflow)}, {numbers.percent(h.overflow)}"),
        ("with a softmax of exactly 1", numbers.percent(h.saturated_softmax)),
        ("agreement with a neighbour's gradient (cosine)", f"{h.agreement:.2f}"),
    ]
    rows += [(f"robust accuracy under PGD-20 on {k}", numbers.percent(v)) for k, v in h.robust_by_loss.items()]
    rows.append(("loss to attack with", h.recommended_loss))
    rows += [(f"flat units of {a.name} ({a.kind})", numbers.percent(a.share)) for a in h.activations]
    return rows


def _bias(found: Diagnosis) -> Rows:
    if found.bias is None:
        return []
    return [
        ("parameter gradient at FGSM's against PGD's examples, cosine", f"{found.bias.cosine:.3f}"),
        ("its relative norm", f"{found.bias.relative_norm:.3f}"),
    ]


def _failure(found: Diagnosis) -> Rows:
    f = found.failure
    rows = [("images broken by PGD-20", str(f.broken))]
    if f.confidence is not None:
        rows.append(("confidence of the wrong answer, median", numbers.percent(f.confidence)))
    return rows + [(f"class {a} taken for {b}", str(count)) for a, b, count in f.turned[:5]]


def saliency(where: Sequence[Sequence[float]]) -> str:
    """Where perturbations act, as at most 56 by 56 squares, the darker the more; empty where nothing is."""
    step = max(1, -(-max(len(where), len(where[0]) if where else 0) // CELLS))
    rows = [_means(where[i : i + step], step) for i in range(0, len(where), step)]
    most = max((max(row) for row in rows if row), default=0.0)
    if most <= 0:
        return ""
    squares = "".join(
        f'<rect x="{x}" y="{y}" width="1.02" height="1.02" fill-opacity="{value / most:.2f}"/>'
        for y, row in enumerate(rows)
        for x, value in enumerate(row)
    )
    title = f"Mean absolute change per pixel, at most {numbers.significant(most)}"
    box = f'viewBox="0 0 {len(rows[0])} {len(rows)}" role="img" aria-label="{title}"'
    return f'<svg {box} style="width: 100%; fill: var(--s1)"><title>{title}</title>{squares}</svg>'


def _means(rows: Sequence[Sequence[float]], step: int) -> list[float]:
    """Several rows as one, as many values as one."""
    columns = [sum(values) / len(rows) for values in zip(*rows, strict=True)]
    return [sum(columns[i : i + step]) / len(columns[i : i + step]) for i in range(0, len(columns), step)]


def line_plot(line: Line, key: str) -> str:
    """The true loss along FGSM's direction with both first-order lines."""
    with svg.settings():
        figure, axes = _axes()
        for values, colour, dash in (
            (line.true, "s1", "-"),
            (line.clipped, "s2", "--"),
            (line.unclipped, "s3", ":"),
        ):
            axes.plot(line.eps, values, color=svg.COLOURS[colour], linestyle=dash, linewidth=1.8)
        text = (
            f"Solid: true loss, from {line.true[0]:.3g} to {line.true[-1]:.3g}. Dashed and dotted: first-order lines."
        )
        return svg.inline(figure, key=key, title=f"Loss along FGSM, image {line.index}", description=text)


def landscape_plot(plane: Landscape, key: str) -> str:
    """The loss in a plane, the darker the higher; lines are borders between classes."""
    ticks = [plane.reach * (2 * i / (len(plane.loss) - 1) - 1) for i in range(len(plane.loss))]
    low, high = min(map(min, plane.loss)), max(map(max, plane.loss))
    with svg.settings():
        figure, axes = _axes()
        for level in range(1, LEVELS):
            at = low + (high - low) * level / LEVELS
            if high > at:
                shade = [at, high + 1e-6 + abs(high)]
                axes.contourf(ticks, ticks, plane.loss, levels=shade, colors=[svg.COLOURS["s1"]], alpha=0.12)
        for kind in sorted({k for row in plane.classes for k in row})[1:]:
            inside = [[float(k == kind) for k in row] for row in plane.classes]
            axes.contour(ticks, ticks, inside, levels=[0.5], colors=[svg.COLOURS["ink"]], linewidths=1.2)
        axes.plot([0], [0], marker="o", color=svg.COLOURS["ink"])
        text = f"Loss from {low:.3g} to {high:.3g} around image {plane.index}; lines are borders between classes."
        return svg.inline(
            figure,
            key=key,
            title=f"Loss around image {plane.index}: {plane.first} and {plane.second}",
            description=text,
        )


def _axes() -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 3.2))
    axes = figure.add_axes((0.12, 0.12, 0.84, 0.84))
    axes.tick_params(length=0, pad=6, colors=svg.COLOURS["ink-2"], labelsize=11.5)
    for spine in axes.spines.values():
        spine.set_color(svg.COLOURS["line"])
    return figure, axes


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2] if values else 0.0
