"""One image under one attack: predictions before and after, and files that prove it."""

from __future__ import annotations

import io
import json
import textwrap
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sparring.attacks import Attack
from sparring.auditing.pictures import class_name, from_8bit, perturbation, png_bytes
from sparring.errors import InputError
from sparring.evaluation import Evaluation, Progress, evaluate
from sparring.evaluation.task import Images
from sparring.files import write_whole
from sparring.goal import Targeted, Untargeted
from sparring.model import Model, device_of, frozen_eval, logits_of, probabilities
from sparring.targets import choose_targets
from sparring.threat import ThreatModel

FILES = ("original.png", "adversarial.png", "adversarial.npy", "panels.png", "result.json")
"""What an exhibit is saved as."""
EXAMPLE = "example"
"""The folder of the exhibit beside the records of a whole set."""


@dataclass(frozen=True)
class Prediction:
    """A class, its name, and the softmax confidence."""

    label: int
    name: str
    confidence: float


@dataclass(frozen=True, eq=False)
class Exhibit:
    """What an attack did to one image (C, H, W). `rounded` is the prediction on the 8-bit picture, read again.

    `success` is the driver's verdict on the exact adversarial; `survives_8bit` the same question for the picture.
    """

    attack: str
    threat: str
    goal: str
    success: bool
    survives_8bit: bool
    distance: float
    forwards: int
    backwards: int
    before: tuple[Prediction, ...]
    after: tuple[Prediction, ...]
    rounded: tuple[Prediction, ...]
    original: Tensor = field(repr=False)
    adversarial: Tensor = field(repr=False)
    bounds: tuple[float, float] = (0.0, 1.0)

    def save(self, folder: str | Path) -> dict[str, Path]:
        """Write original.png, adversarial.png (8 bit), adversarial.npy (exact, (C, H, W)), panels.png
        (original, perturbation with its gain, adversarial) and result.json. Raises `InputError` where it can't.
        """
        target = Path(folder)
        contents = (
            png_bytes(self.original, self.bounds),
            png_bytes(self.adversarial, self.bounds),
            _npy(self.adversarial),
            self._panels(),
            (json.dumps(self.summary(), indent=2) + "\n").encode(),
        )
        for name, content in zip(FILES, contents, strict=True):
            write_whole(target / name, content)
        return {name: target / name for name in FILES}

    def summary(self) -> dict[str, object]:
        """The numbers, ready for JSON."""
        hidden = ("original", "adversarial")
        return {key: value for key, value in asdict(self).items() if key not in hidden}

    def _panels(self) -> bytes:
        from matplotlib.figure import Figure

        shown, gain = perturbation(self.original, self.adversarial, self.bounds)
        low, high = self.bounds
        before, after = self.before[0], self.after[0]
        panels = (
            ((self.original - low) / (high - low), f"{_wrapped(before.name)}\n{100 * before.confidence:.1f} %"),
            (shown, f"perturbation × {gain:g}\n{self.threat}, at {self.distance:.4g}"),
            ((self.adversarial - low) / (high - low), f"{_wrapped(after.name)}\n{100 * after.confidence:.1f} %"),
        )
        height, width = self.original.shape[1:]
        figure = Figure(figsize=(9, 0.5 + 3 * min(2.0, max(0.5, height / width))), layout="constrained")
        for axes, (image, title) in zip(figure.subplots(1, 3), panels, strict=True):
            pixels = image if image.shape[0] == 3 else image[:1]
            array = pixels.clamp(0, 1).permute(1, 2, 0).cpu().numpy()
            axes.imshow(array, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set_title(title, fontsize=10)
            axes.set_axis_off()
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=150, bbox_inches="tight", pad_inches=0.15)
        return stream.getvalue()


def _wrapped(name: str) -> str:
    """A class name that fits above its panel."""
    return textwrap.fill(name, 36, max_lines=2, placeholder=" ...")


def attack_image(
    model: Model,
    image: Tensor,
    threat: ThreatModel,
    attack: Attack,
    *,
    label: int | None = None,
    target: int | str | None = None,
    seed: int = 0,
    class_names: Sequence[str] | None = None,
) -> Exhibit:
    """Attack one image (1, C, H, W). label: its true class, None for what the model says now. target: the class to be
    reached, or a rule of `choose_targets`; None for any other. Raises `InputError` where the model is wrong before the
    attack.
    """
    if image.dim() != 4 or len(image) != 1:
        raise InputError(f"image must have shape (1, C, H, W), got {tuple(image.shape)}")
    before = predictions(model, image, class_names)
    true = before[0].label if label is None else label
    if before[0].label != true:
        raise InputError(
            f"the model already takes this image for {before[0].name} ({before[0].label}), not for "
            f"{class_name(true, class_names)} ({true}): there is nothing to attack"
        )
    if target == true:
        raise InputError(
            f"the target {class_name(true, class_names)} ({true}) is the class of the image: choose another"
        )
    labels = torch.tensor([true])
    if isinstance(target, str):
        target = int(choose_targets(model, image, labels, target, seed=seed, bounds=threat.bounds)[0])
    goals = None if target is None else torch.tensor([target])
    evaluation = evaluate(model, image, labels, threat, attacks=[attack], targets=goals, seed=seed)
    return _exhibit(model, image, evaluation, 0, target, class_names)


def _exhibit(
    model: Model,
    image: Tensor,
    evaluation: Evaluation,
    index: int,
    target: int | None,
    class_names: Sequence[str] | None,
) -> Exhibit:
    """Image number `index` (1, C, H, W) of an evaluation of one attack, with what was found for it."""
    record, threat = evaluation.records[index], evaluation.threat
    found = evaluation.adversarials.get(index)
    adversarial = image if found is None else found[None].to(image)
    reread = _reread(png_bytes(adversarial[0], threat.bounds), image, threat.bounds)
    wanted = Untargeted(torch.tensor([record.label])) if target is None else Targeted(torch.tensor([target]))
    return Exhibit(
        attack=evaluation.stages[0].attack,
        threat=f"{threat.norm} eps {threat.eps_text}",
        goal="any other class" if target is None else class_name(target, class_names),
        success=record.broken_by is not None,
        survives_8bit=bool(wanted.is_met(_logits(model, reread))[0]),
        distance=float(threat.distance(image, adversarial)[0]),
        forwards=record.forwards,
        backwards=record.backwards,
        before=predictions(model, image, class_names),
        after=predictions(model, adversarial, class_names),
        rounded=predictions(model, reread, class_names),
        original=image[0].cpu(),
        adversarial=adversarial[0].cpu(),
        bounds=threat.bounds,
    )


def predictions(model: Model, image: Tensor, names: Sequence[str] | None, top: int = 3) -> tuple[Prediction, ...]:
    """The most confident classes for one image (1, C, H, W), best first."""
    confidence = probabilities(_logits(model, image))[0]
    best = confidence.topk(min(top, len(confidence)))
    return tuple(
        Prediction(label, class_name(label, names), value)
        for value, label in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    )


def _logits(model: Model, image: Tensor) -> Tensor:
    with frozen_eval(model), torch.no_grad():
        return logits_of(model, image.to(device_of(model, image))).float().cpu()


def _reread(content: bytes, like: Tensor, bounds: tuple[float, float]) -> Tensor:
    """The picture as anyone would read it back from its PNG file, (1, C, H, W)."""
    pixels = np.asarray(Image.open(io.BytesIO(content), formats=("PNG",)))
    planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return from_8bit(torch.from_numpy(planes.copy())[None], like, bounds).expand_as(like)


def _npy(image: Tensor) -> bytes:
    stream = io.BytesIO()
    np.save(stream, image.numpy(), allow_pickle=False)
    return stream.getvalue()


def attack_set(
    model: Model,
    images: Images,
    labels: Tensor,
    threat: ThreatModel,
    attack: Attack,
    *,
    out: str | Path,
    targets: Tensor | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    class_names: Sequence[str] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> tuple[Evaluation, list[Path]]:
    """One attack on a whole set, resumable, kept in the folder `out`: records and lossless adversarials below
    records/, a summary in result.json, and the first broken image as an exhibit in example/, instead of that of an
    earlier call. Returns the evaluation and the paths.
    """
    folder = Path(out)
    evaluation = evaluate(
        model,
        images,
        labels,
        threat,
        attacks=[attack],
        targets=targets,
        seed=seed,
        batch_size=batch_size,
        out=folder / "records",
        progress=progress,
    )
    estimates = {
        name: {"value": None if e.value != e.value else e.value, "low": e.low, "high": e.high, "n": e.n}
        for name in ("clean_accuracy", "robust_accuracy", "attack_success_rate")
        for e in [getattr(evaluation, name)]
    }
    first = next(iter(evaluation.adversarials), None)
    summary = {"attack": str(attack), "norm": threat.norm, "eps": threat.eps, "seed": seed, **estimates}
    summary |= {"warnings": list(evaluation.warnings), "example": first}
    write_whole(folder / "result.json", (json.dumps(summary, indent=2) + "\n").encode())
    paths = [folder / "records", folder / "result.json"]
    example = folder / EXAMPLE
    _clear(example)
    if first is not None and (image := images[first : first + 1]).dim() == 4:
        target = None if targets is None else int(targets[first])
        paths += _exhibit(model, image, evaluation, first, target, class_names).save(example).values()
    return evaluation, paths


def _clear(folder: Path) -> None:
    """Take away the exhibit of an earlier call, so that no picture stands beside numbers it does not belong to."""
    with suppress(OSError):
        for name in FILES:
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()
