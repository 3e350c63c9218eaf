"""Broken images as inline PNG: clean, adversarial, perturbation with a stated gain."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from itertools import zip_longest

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sparring.auditing.report import Picture
from sparring.evaluation import Evaluation, Record
from sparring.evaluation.task import Images
from sparring.model import Model, device_of, frozen_eval, logits_of, probabilities


def png_bytes(image: Tensor, bounds: tuple[float, float] = (0.0, 1.0)) -> bytes:
    """8-bit PNG of one image (C, H, W) in `bounds`: one or three channels as they are, else the first in grey."""
    shown = image if image.shape[0] in (1, 3) else image[:1]
    pixels = to_8bit(shown, bounds).permute(1, 2, 0).cpu().numpy()
    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else np.ascontiguousarray(pixels))
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def png(image: Tensor, bounds: tuple[float, float] = (0.0, 1.0)) -> str:
    """`png_bytes` in base64, for inline pictures."""
    return base64.b64encode(png_bytes(image, bounds)).decode("ascii")


def to_8bit(images: Tensor, bounds: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    """uint8 values of images in `bounds`, rounded to the nearest (never truncated), same shape."""
    low, high = bounds
    return ((images.double() - low) / (high - low) * 255).round().clamp(0, 255).to(torch.uint8)


def from_8bit(values: Tensor, like: Tensor, bounds: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    """Images in `bounds` that 8-bit values stand for, in the dtype of `like`."""
    low, high = bounds
    return (low + values.double() / 255 * (high - low)).to(like)


def perturbation(original: Tensor, adversarial: Tensor, bounds: tuple[float, float]) -> tuple[Tensor, float]:
    """The amplified difference on a grey ground, in [0, 1], and its gain (largest change = half the range)."""
    delta = (adversarial - original) / (bounds[1] - bounds[0])
    largest = float(delta.abs().max())
    gain = 1.0 if largest == 0 else _two_digits(0.5 / largest)
    return (0.5 + gain * delta).clamp(0, 1), gain


def first_broken(
    model: Model,
    images: Images,
    evaluation: Evaluation,
    class_names: Sequence[str] | None,
    count: int = 6,
) -> tuple[Picture, ...]:
    """Pictures of the images that broke with the fewest passes, attack by attack in turn, `count` in all; none for
    data that is no picture.
    """
    if images[0:1].dim() != 4:
        return ()
    by_attack: dict[str, list[Record]] = {stage.attack: [] for stage in evaluation.stages}
    for record in sorted(evaluation.records, key=lambda r: (r.forwards + r.backwards, r.index)):
        if record.broken_by is not None:
            by_attack[record.broken_by].append(record)
    in_turn = [record for row in zip_longest(*by_attack.values()) for record in row if record is not None]
    chosen = sorted(in_turn[:count], key=lambda r: (r.forwards + r.backwards, r.index))
    return tuple(_picture(model, images, evaluation, record, class_names) for record in chosen)


def _picture(
    model: Model, images: Images, evaluation: Evaluation, record: Record, names: Sequence[str] | None
) -> Picture:
    bounds = evaluation.threat.bounds
    original = images[record.index : record.index + 1]
    adversarial = evaluation.adversarials[record.index][None].to(original)
    rounded = from_8bit(to_8bit(adversarial, bounds), original, bounds)
    fooled_into = -1 if record.adversarial_prediction is None else record.adversarial_prediction
    with frozen_eval(model), torch.no_grad():
        batch = torch.cat([original, adversarial, rounded]).to(device_of(model, original))
        logits = logits_of(model, batch).cpu()
    confidence, rounded_into = probabilities(logits), int(logits[2].argmax())
    shown, gain = perturbation(original[0], adversarial[0], bounds)
    return Picture(
        index=record.index,
        label=class_name(record.label, names),
        before=class_name(record.prediction, names),
        before_confidence=float(confidence[0, record.prediction]),
        after=class_name(fooled_into, names),
        after_confidence=float(confidence[1, fooled_into]),
        broken_by=record.broken_by or "",
        evaluations=record.forwards + record.backwards,
        distance=record.distance or 0.0,
        clean_png=png(original[0], bounds),
        adversarial_png=png(adversarial[0], bounds),
        perturbation_png=png(shown),
        gain=gain,
        survives_8bit=rounded_into == fooled_into if evaluation.targeted else rounded_into != record.label,
    )


def class_name(label: int, names: Sequence[str] | None) -> str:
    """The name of a class, or its number."""
    return names[label] if names is not None and 0 <= label < len(names) else str(label)


def _two_digits(value: float) -> float:
    return float(f"{value:.2g}")
