"""A first look at a model and its data, for whoever writes the declaration."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from sparring.auditing.preflight import preflight
from sparring.auditing.report import Finding
from sparring.evaluation.task import Images
from sparring.model import Model, device_of
from sparring.problem import check_images

SAMPLE = 128


@dataclass(frozen=True)
class FirstLook:
    """One line on the model, one on the data, what preflight found, and whether the outputs are probabilities."""

    model: str
    data: str
    findings: tuple[Finding, ...]
    probabilities: bool


def first_look(model: Model, images: Images, labels: Tensor, bounds: tuple[float, float] = (0.0, 1.0)) -> FirstLook:
    """Ask the model about a few images (N, C, H, W) with labels (N,). Raises what `preflight` raises."""
    sample = images[0:SAMPLE]
    check_images(sample, bounds)
    device = device_of(model, sample)
    sample, known = sample.to(device), labels[:SAMPLE].to(device)
    looked = preflight(model, sample, known, bounds, batch_size=32)
    size = sum(p.numel() for p in model.parameters()) if isinstance(model, nn.Module) else 0
    shape = " x ".join(str(side) for side in sample.shape[1:])
    return FirstLook(
        model=f"{type(model).__name__}, {size:,} parameters, {looked.classes} classes; "
        f"clean accuracy {looked.clean_accuracy}",
        data=f"{len(labels)} images of {shape}, pixels from {float(sample.min()):.3g} to {float(sample.max()):.3g}",
        findings=looked.findings,
        probabilities=looked.adapted,
    )
