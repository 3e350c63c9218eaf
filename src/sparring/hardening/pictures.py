"""Pictures for the model card: input gradients before and after, and the trade-off as training went."""

from __future__ import annotations

import io
from collections.abc import Sequence

import torch
from torch import Tensor

from sparring.hardening.history import Epoch

SHOWN = 8
SIDE = 84
"""Smallest side of one tile in pixels."""


def gradient_picture(images: Tensor, before: Tensor, after: Tensor, bounds: tuple[float, float]) -> bytes:
    """A PNG of three rows: the images, and the loss gradients before and after, grey where they are zero.

    A gradient is averaged over channels and scaled to its own largest value: its shape is compared, not its size.
    """
    from PIL import Image

    low, high = bounds
    rows = [((images - low) / (high - low)).mean(1), _scaled(before), _scaled(after)]
    shown = torch.stack([torch.cat(list(row[:SHOWN].cpu()), 1) for row in rows])
    sheet = torch.cat(list(shown), 0).mul(255).round().clamp(0, 255).to(torch.uint8).numpy()
    picture = Image.fromarray(sheet)
    factor = max(1, -(-SIDE // images.shape[-1]))
    picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    stream = io.BytesIO()
    picture.save(stream, format="PNG")
    return stream.getvalue()


def history_picture(epochs: Sequence[Epoch]) -> bytes:
    """A PNG of clean, FGSM and PGD-10 accuracy by epoch; undone epochs are hollow."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    kept = [epoch for epoch in epochs if epoch.kept]
    undone = [epoch for epoch in epochs if not epoch.kept]
    for name, label, colour in (
        ("clean", "clean", "#4c72b0"),
        ("fgsm", "FGSM", "#dd8452"),
        ("pgd", "PGD-10", "#c44e52"),
    ):
        axes.plot([e.number for e in kept], [100 * getattr(e, name) for e in kept], "o-", color=colour, label=label)
        axes.plot([e.number for e in undone], [100 * getattr(e, name) for e in undone], "o", mfc="none", mec=colour)
    axes.set(xlabel="epoch", ylabel="right on the watched images, %", ylim=(0, 100))
    axes.grid(alpha=0.3)
    axes.legend()
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=100)
    return stream.getvalue()


def _scaled(grad: Tensor) -> Tensor:
    mean = grad.mean(1)
    top = mean.flatten(1).abs().amax(1).clamp_min(1e-30).view(-1, 1, 1)
    return 0.5 + mean / top / 2
