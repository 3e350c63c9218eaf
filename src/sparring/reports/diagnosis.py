"""A diagnosis: as a few tables on the terminal, and as one self-contained HTML page with its pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.text import Text

from sparring.diagnosis.result import TARGET
from sparring.reports import numbers
from sparring.reports.diagnosis_plots import (
    growth_plot,
    landscape_plot,
    line_plot,
    regions_plot,
    saliency,
    small_line,
    steps_plot,
    summary_plot,
)
from sparring.reports.html import _environment
from sparring.reports.pen import Pen

if TYPE_CHECKING:
    from sparring.diagnosis.result import Diagnosis, FirstOrder, Layer, Line

NAMED = 10
"""Images that are named, of many."""
FIRST_ORDER = "First-order picture"
FIRST_ORDER_ABOUT = (
    "Along FGSM's direction. Solid: the true loss. Dashed: its first-order line for the step as the box clips it. "
    "Dotted: the unclipped line, loss plus epsilon times the dual norm of the gradient."
)
LOSS_SAID = "Across: epsilon. Upwards: the loss."
STEPS_SAID = (
    "Across: epsilon. Upwards: images broken, in percent. Dashed: one step. Solid: ten. The upright line: from here on "
    "ten break a point more."
)
SENSITIVITY_ABOUT = (
    "The lead is that of the label's logit over the strongest rival. Layers that stretch nothing are left out. In "
    "blocks: of an attacker whose pixels are that coarse, where the model takes images of one size only."
)
GROWTH_SAID = "Across: inputs. Upwards: l1 norm of the lead's gradient, what linf attacks feed on. Squares: in blocks."
PLANES_ABOUT = (
    "In planes through an image, in units of a step as long as the budget allows. Darker: higher loss. Numbers: "
    "classes. The dot is the image."
)
TRANSFER_ABOUT = "Success on the images that the model has right, every attack with the same budget."
ABOUT = {
    "Gradient health": "Is the gradient fit to be followed? Half of a ReLU's units are usually flat.",
    "What one-step training misses": "The parameters' gradient at FGSM's examples beside the one at PGD's.",
}
Rows = list[tuple[str, str]]


def sections(found: Diagnosis) -> list[tuple[str, Rows]]:
    """Everything in words: title, and rows of name and value."""
    return [
        (FIRST_ORDER, _first_order(found)),
        ("Sensitivity", _sensitivity(found)),
        ("Gradient health", _health(found)),
        ("What one-step training misses", _bias(found)),
        ("How it fails", _failure(found)),
        ("Transfer", _transfer(found)),
    ]


def terminal(found: Diagnosis, console: Console) -> None:
    """Print the tables."""
    for block in _blocks(found, Pen.of(console)):
        console.print(block, highlight=False)


@dataclass(frozen=True)
class Part:
    """One section of the page: what it is about, a table of name and value, further tables, pictures, small ones."""

    title: str
    about: str
    rows: Rows
    matrix: Matrix | None = None
    pictures: tuple[Picture, ...] = ()
    small: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True)
class Picture:
    """An SVG with its heading and what its axes are."""

    heading: str
    said: str
    svg: str
    narrow: bool = False


@dataclass(frozen=True)
class Matrix:
    """A table with a heading for every column."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def html(found: Diagnosis) -> str:
    """The page. Equal diagnoses give equal pages; names are untrusted and escaped."""
    words = dict(sections(found))
    parts = [_with_pictures(found, title, rows) for title, rows in words.items()]
    parts.insert(len(parts) - 1, _landscapes(found))
    shown = [part for part in parts if part.rows or part.pictures or part.matrix]
    return _environment().get_template("diagnosis.html.j2").render(found=found, parts=shown)


def _with_pictures(found: Diagnosis, title: str, rows: Rows) -> Part:
    first, health = found.first_order, found.sensitivity.resolutions
    if title == FIRST_ORDER:
        pictures = (
            Picture("Over all images", LOSS_SAID + " Medians; shaded: the middle half.", summary_plot(first, "all")),
            Picture("One step and ten", STEPS_SAID, steps_plot(first, "steps")),
            *(Picture(f"Image {line.index}", LOSS_SAID, line_plot(line, f"line{line.index}")) for line in _told(first)),
        )
        small = tuple((line.index, small_line(line)) for line in first.lines)
        return Part(title, FIRST_ORDER_ABOUT, rows, pictures=pictures, small=small)
    if title == "Sensitivity" and len(health) > 1:
        seen = Picture("Against the input dimension", GROWTH_SAID, growth_plot(health, "growth"))
        return Part(title, SENSITIVITY_ABOUT, rows, pictures=(seen,))
    if title == "How it fails" and (where := saliency(found.failure.where)):
        said = "The mean absolute change of every pixel over the broken images. Darker: more."
        return Part(title, "", rows, pictures=(Picture("Where perturbations act", said, where, narrow=True),))
    if title == "Transfer":
        return Part(title, TRANSFER_ABOUT, [], matrix=transfers(found)) if rows else Part(title, "", [])
    return Part(title, ABOUT.get(title, ""), rows)


def _told(first: FirstOrder) -> Sequence[Line]:
    """The images with the largest and the smallest gap, for a closer look."""
    order = sorted(first.lines, key=lambda line: line.gap)
    return [] if not order else [order[-1]] if len(order) == 1 else [order[-1], order[0]]


def _landscapes(found: Diagnosis) -> Part:
    pictures = []
    for i, plane in enumerate(found.landscapes):
        said = f"Across: {plane.first}. Upwards: {plane.second}."
        pictures.append(Picture(f"Image {plane.index}: loss", said, landscape_plot(plane, f"plane{i}")))
        pictures.append(Picture(f"Image {plane.index}: classes", said, regions_plot(plane, f"regions{i}")))
    return Part("Loss and decision regions", PLANES_ABOUT, [], pictures=tuple(pictures))


def transfers(found: Diagnosis) -> Matrix | None:
    """Surrogates down, attacks across, success on the model."""
    into = [t for t in found.transfer if t.target == TARGET]
    attacks = list(dict.fromkeys(t.attack for t in into))
    shares = {(t.surrogate, t.attack): numbers.percent(t.success) for t in into}
    rows = []
    for surrogate in dict.fromkeys(t.surrogate for t in into):
        name = "the model itself" if surrogate == TARGET else surrogate
        rows.append((name, *(shares.get((surrogate, attack), "") for attack in attacks)))
    heads = ("adversarials made on", *(attack.partition(":")[0] for attack in attacks))
    return Matrix(heads, tuple(rows)) if rows else None


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
    tops = [line.top for line in picture.lines if line.top is not None]
    some = ", ".join(map(str, picture.lowered[:NAMED])) + (" and more" if len(picture.lowered) > NAMED else "")
    rows = [
        ("loss above its first-order line at the budget, median", numbers.significant(_median(gaps))),
        ("share of the unclipped line that the box leaves, median", _left_by_the_box(picture)),
        ("curvature along the step (exact at the image), median", numbers.significant(_median(bends))),
        ("ten small steps beat one", pays),
        ("images whose loss FGSM lowered", f"{len(picture.lowered)} of {n}{f': {some}' if some else ''}"),
    ]
    if tops:
        rows.insert(3, ("largest curvature (an estimate from below), median", numbers.significant(_median(tops))))
    return rows


def _left_by_the_box(picture: FirstOrder) -> str:
    """Rise of the clipped line by that of the unclipped one, at the largest epsilon."""
    pairs = [(line.clipped[-1] - line.true[0], line.unclipped[-1] - line.true[0]) for line in picture.lines]
    shares = [clipped / whole for clipped, whole in pairs if whole > 0]
    return numbers.percent(_median(shares)) if shares else "unknown"


def _sensitivity(found: Diagnosis) -> Rows:
    s = found.sensitivity
    rows = [("local Lipschitz constant of the margin, at least (median)", numbers.significant(_median(list(s.lower))))]
    if s.upper is None or s.ratio is None:
        rows.append(("global upper bound", f"none: {s.why}"))
    else:
        rows.append(("global upper bound", numbers.significant(s.upper)))
        rows.append(("upper bound by the largest slope seen", f"{s.ratio:.1f}"))
        rows.append(("layer that stretches most", str(s.stretches)))
    rows += [(f"norm of {_layer(one)}", numbers.significant(one.norm)) for one in s.layers if one.norm != 1]
    rows += [
        (
            f"lead's gradient at {numbers.count(r.dimension)} inputs{', in blocks' if r.blocks else ''}",
            f"l1 {numbers.significant(r.l1)}, l2 {numbers.significant(r.l2)}",
        )
        for r in s.resolutions
    ]
    if s.growth is not None:
        rows.append(("its l1 norm grows with the inputs to the power of", f"{s.growth:.2f}"))
    return rows


def _layer(layer: Layer) -> str:
    return layer.name if f"({layer.kind})" in layer.name or "(" in layer.name else f"{layer.name} ({layer.kind})"


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


def _transfer(found: Diagnosis) -> Rows:
    into = [t for t in found.transfer if t.target == TARGET and t.surrogate != TARGET]
    return [(f"{t.surrogate}, {t.attack.partition(':')[0]}", numbers.percent(t.success)) for t in into]


def _failure(found: Diagnosis) -> Rows:
    f = found.failure
    rows = [("images broken by PGD-20", str(f.broken))]
    if f.confidence is not None:
        rows.append(("confidence of the wrong answer, median", numbers.percent(f.confidence)))
    return rows + [(f"class {a} taken for {b}", str(count)) for a, b, count in f.turned[:5]]


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2] if values else 0.0
