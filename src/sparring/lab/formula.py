"""How one step works, with the numbers of a few pixels of this very picture."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sparring.lab.attempt import Case
from sparring.losses import cross_entropy
from sparring.threat import ThreatModel

FORMULAS = {
    "linf": "x′ = clip(x + ε · sign(∇L))",
    "l2": "x′ = clip(x + ε · ∇L / ‖∇L‖₂), what the box cuts off given to the other pixels",
    "l1": "x′ = x + the whole budget on the pixels with the largest |∇L|, each to the end of the box",
    "l0": "x′ = x with the ε numbers that gain most set to the end of the box",
}
ROWS = 6


@dataclass(frozen=True)
class Pixel:
    """One number of the picture on its way: where it is, x, ∂L/∂x, the step, and where it ends; `clipped`: the box
    kept it from going the whole way.
    """

    row: int
    column: int
    channel: int
    value: float
    slope: float
    step: float
    result: float
    clipped: bool


@dataclass(frozen=True)
class Walk:
    """The formula and its numbers: the loss before, what the gradient foretells, and what the model then answers."""

    formula: str
    eps: str
    pixels: tuple[Pixel, ...]
    before: float
    gain: float
    after: float
    changed: int
    size: int


def walk(case: Case, threat: ThreatModel) -> Walk:
    """One step of size eps from the picture."""
    moved = case.stepped(threat)
    grad, step = case.ray.grad, moved - case.image
    reference = type(case.goal)(case.goal.reference)
    after = cross_entropy(case.after_one_step(threat)[None], reference)
    chosen = _chosen(grad.flatten(), step.flatten(), threat)
    _, height, width = case.image.shape[1:]
    x, slopes, steps = case.image.flatten(), grad.flatten(), step.flatten()
    pixels = []
    for index in chosen:
        channel, rest = divmod(index, height * width)
        row, column = divmod(rest, width)
        wanted = threat.eps * float(slopes[index].sign()) if threat.norm == "linf" else float(steps[index])
        value, gone = float(x[index]), float(steps[index])
        clipped = abs(gone - wanted) > 1e-6
        pixels.append(Pixel(row, column, channel, value, float(slopes[index]), gone, value + gone, clipped))
    return Walk(
        formula=FORMULAS[threat.norm],
        eps=threat.eps_text,
        pixels=tuple(pixels),
        before=float(case.ray.values[0]),
        gain=float((grad * step).sum()),
        after=float(after[0]),
        changed=int((step != 0).sum()),
        size=step.numel(),
    )


def _chosen(slopes: torch.Tensor, steps: torch.Tensor, threat: ThreatModel) -> list[int]:
    """The steepest up and down, one that the box stops, one that matters little: each told apart from the others."""
    found = [int(i) for i in slopes.topk(2).indices] + [int(i) for i in (-slopes).topk(2).indices]
    if threat.norm == "linf":
        stopped = ((steps.abs() < threat.eps * (1 - 1e-3)) & (slopes != 0)).nonzero().flatten()
        found += [int(i) for i in stopped[:1]]
    flat = slopes.abs().masked_fill(slopes == 0, torch.inf)
    found.append(int(flat.argmin()))
    return list(dict.fromkeys(found))[:ROWS]
