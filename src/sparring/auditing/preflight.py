"""Looks at model and data before the first attack: the mistakes that make every later number wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparring.auditing.findings import FINDINGS
from sparring.auditing.gradients import precision, stability
from sparring.auditing.report import Finding
from sparring.batching import laid_out
from sparring.black_box import BlackBox, access_of
from sparring.errors import ModelError, UnsupportedError
from sparring.estimate import Estimate, mcnemar, proportion
from sparring.evaluation.suspicions import TOLERATED, look_like_probabilities, relative_change
from sparring.goal import Untargeted
from sparring.losses import cross_entropy, margin
from sparring.model import Model, Normalised, OutputAdapter, frozen_eval, logits_of

SATURATED = 0.01
"""Share of exactly 0-or-1 probabilities (of the largest class) above which a logarithm cannot recover the logits."""

MISLEADS_BELOW = 0.25
"""Measured by promised change of the margin along its gradient; below this the gradient does not describe the model."""


_WRAPPERS = (BlackBox, Normalised, OutputAdapter)
"""Modules of ours for which the training flag means nothing."""


@dataclass(frozen=True)
class Preflight:
    """The model to attack (`adapted` where its outputs were probabilities), the findings, what may be used, and clean
    accuracy on the sample.
    """

    model: Model
    adapted: bool
    findings: tuple[Finding, ...]
    differentiable: bool
    classes: int
    clean_accuracy: Estimate


def preflight(
    model: Model, images: Tensor, labels: Tensor, bounds: tuple[float, float], batch_size: int = 64
) -> Preflight:
    """Run every check on a sample of images (N, C, H, W) with labels (N,), at most a few hundred of each.

    The calls are about twenty forwards and two backwards per image. Raises `ModelError` where the model does not
    answer with logits at all.
    """
    findings: list[Finding] = []
    if isinstance(model, nn.Module) and any(m.training and not isinstance(m, _WRAPPERS) for m in model.modules()):
        findings.append(
            FINDINGS["train-mode"].found("model.training was True in at least one submodule", resolved=True)
        )
    with frozen_eval(model):
        logits = _logits(model, images, batch_size)
        findings += _outputs(logits)
        attacked = model
        adapted = any(f.code == "probability-outputs" for f in findings)
        if adapted:
            attacked = OutputAdapter(model if isinstance(model, nn.Module) else _Wrapped(model), "probabilities")
        findings += _determinism(model, images[:batch_size], logits[:batch_size])
        findings += _batch_independence(model, images[: min(8, batch_size)], logits)
        findings += _data(images, labels, logits, bounds)
        findings += _normalisation(model, images, labels, logits, batch_size)
        gradient, differentiable = _gradient(attacked, images[:batch_size], labels[:batch_size])
        findings += gradient
        random = any(f.code == "random-outputs" for f in findings)
        steady = _held(attacked, images[:batch_size]) if random else attacked
        if differentiable and steady is not None:
            findings += stability(steady, images[:batch_size], labels[:batch_size], bounds)
            findings += _misleading(steady, images[:batch_size], labels[:batch_size], bounds)
    clean = proportion(int((logits.argmax(1) == labels).sum()), len(labels))
    return Preflight(attacked, adapted, tuple(findings), differentiable, logits.shape[1], clean)


class _Wrapped(nn.Module):
    """A plain callable as a module."""

    def __init__(self, function: Model) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        return self.function(images)


class _Held(_Wrapped):
    """A random model that draws the same every time."""

    def forward(self, images: Tensor) -> Tensor:
        with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []):
            torch.manual_seed(0)
            return self.function(images)


def _held(model: Model, images: Tensor) -> Model | None:
    """`model` with its randomness fixed (Carlini et al. 2019), None where it draws from elsewhere than torch."""
    held = _Held(model)
    change = relative_change(_logits(held, images), _logits(held, images))
    return held if change <= TOLERATED else None


def _logits(model: Model, images: Tensor, batch_size: int = 64) -> Tensor:
    with torch.no_grad():
        return torch.cat([logits_of(model, part) for part in torch.split(images, batch_size)]).float()


def _outputs(logits: Tensor) -> list[Finding]:
    if not look_like_probabilities(logits):
        return []
    saturated = float(((logits.amax(1) >= 1) | (logits.amin(1) <= 0)).float().mean())
    evidence = (
        f"all {len(logits)} output rows are non-negative and sum to 1; {100 * saturated:.1f} % contain an exact 0 or 1"
    )
    return [FINDINGS["probability-outputs"].found(evidence, resolved=saturated <= SATURATED)]


def _determinism(model: Model, images: Tensor, logits: Tensor) -> list[Finding]:
    """Five passes over the same images (Croce & Hein's count)."""
    differences = [relative_change(logits, _logits(model, images)) for _ in range(4)]
    if max(differences) <= TOLERATED:
        return []
    return [
        FINDINGS["random-outputs"].found(f"logits of the same images differ by up to {max(differences):.1e} of scale")
    ]


def _batch_independence(model: Model, images: Tensor, logits: Tensor) -> list[Finding]:
    if len(images) < 2:
        return []
    alone = torch.cat([_logits(model, image[None]) for image in images])
    difference = relative_change(logits[: len(images)], alone)
    again = relative_change(_logits(model, images), _logits(model, images))
    if difference <= max(1e-3, 10 * again):
        return []
    return [
        FINDINGS["batch-dependence"].found(f"logits alone and in a batch differ by {difference:.1e} of their scale")
    ]


def _data(images: Tensor, labels: Tensor, logits: Tensor, bounds: tuple[float, float]) -> list[Finding]:
    findings = []
    low, high = float(images.min()), float(images.max())
    if high - low < 0.1 * (bounds[1] - bounds[0]):
        evidence = f"pixels lie in [{low:.4g}, {high:.4g}], the bounds are [{bounds[0]:g}, {bounds[1]:g}]"
        findings.append(FINDINGS["narrow-input-range"].found(evidence))
    commonest, count = Counter(labels.tolist()).most_common(1)[0]
    if count == len(labels):
        evidence = f"all {count} sampled labels are class {commonest}"
        return [*findings, FINDINGS["single-class-data"].found(evidence)]
    accuracy = proportion(int((logits.argmax(1) == labels).sum()), len(labels))
    majority = count / len(labels)
    if accuracy <= majority:
        evidence = f"clean accuracy {accuracy}; always answering {commonest} gives {100 * majority:.1f} %"
        findings.append(FINDINGS["at-chance"].found(evidence))
    return findings


def _normalisation(model: Model, images: Tensor, labels: Tensor, logits: Tensor, batch_size: int) -> list[Finding]:
    right = logits.argmax(1) == labels
    best: tuple[float, str] | None = None
    for name, change in _preprocessings(images.shape[1] if images.dim() == 4 else 0).items():
        try:
            other = _logits(model, change(images), batch_size).argmax(1) == labels
        except ModelError:
            continue
        gained, lost = int((other & ~right).sum()), int((right & ~other).sum())
        share = (gained - lost) / len(labels)
        if share >= 0.05 and mcnemar(gained, lost) < 0.001 and (best is None or share > best[0]):
            now, then = (100 * float(verdict.float().mean()) for verdict in (right, other))
            best = (share, f"{name}: {then:.1f} % instead of {now:.1f} %")
    if best is None:
        return []
    return [FINDINGS["wrong-normalisation"].found(f"accuracy on the same {len(labels)} images with {best[1]}")]


def _preprocessings(channels: int) -> dict[str, Callable[[Tensor], Tensor]]:
    common: dict[str, Callable[[Tensor], Tensor]] = {
        "inputs times 255": lambda x: 255 * x,
        "inputs in [-1, 1] (mean 0.5, std 0.5)": lambda x: 2 * x - 1,
        "inverted inputs (1 - x)": lambda x: 1 - x,
    }
    if channels == 1:
        common["MNIST's mean 0.1307, std 0.3081"] = lambda x: (x - 0.1307) / 0.3081
    if channels == 3:
        mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
        std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
        common["ImageNet's mean (0.485, 0.456, 0.406), std (0.229, 0.224, 0.225)"] = lambda x: (
            (x - mean.to(x)) / std.to(x)
        )
        common["channels in the order BGR"] = lambda x: x.flip(1)
    return common


def _gradient(model: Model, images: Tensor, labels: Tensor) -> tuple[list[Finding], bool]:
    if access_of(model) != "gradients":  # declared so: nothing to find, and nothing to use
        return [], False
    try:
        share = {name: _zero_share(model, images, labels, loss) for name, loss in _LOSSES.items()}
    except torch.OutOfMemoryError:
        raise
    except (UnsupportedError, ModelError, RuntimeError) as error:
        return [FINDINGS["no-gradient"].found(str(error).splitlines()[0])], False
    n = len(images)
    if share["margin"] > 0:
        evidence = f"the margin's input gradient is exactly zero for {share['margin']} of {n} images"
        return [FINDINGS["zero-gradient"].found(evidence)], True
    if share["cross_entropy"] > 0:
        evidence = f"the cross-entropy's input gradient is exactly zero for {share['cross_entropy']} of {n} images"
        return [FINDINGS["vanishing-cross-entropy"].found(evidence, resolved=True)], True
    return [], True


def _misleading(model: Model, images: Tensor, labels: Tensor, bounds: tuple[float, float]) -> list[Finding]:
    """Does the margin change along its gradient as the gradient says? Central differences at two scales; the median
    over the images of measured by promised change is near 1 for an honest model, 0 or less for a masked one.
    """
    goal = Untargeted(labels)
    grad = _input_gradient(model, images, labels, margin)
    lost = precision(model, images, labels, grad)
    if not bool((grad != 0).any()):
        return lost
    ratios = {}
    for share in (0.005, 0.02):
        step = share * (bounds[1] - bounds[0]) * grad.sign()
        up, down = (images + step).clamp(*bounds), (images - step).clamp(*bounds)
        with torch.no_grad():
            rise = margin(logits_of(model, up).float(), goal) - margin(logits_of(model, down).float(), goal)
        promised = (grad * (up - down)).flatten(1).sum(1)
        ratios[share] = float((rise / promised.clamp_min(1e-30)).nanmedian())
    if all(ratio >= MISLEADS_BELOW for ratio in ratios.values()):
        return lost
    measured = ", ".join(f"{ratio:.2f} at steps of {share:g} of the range" for share, ratio in ratios.items())
    return [
        *lost,
        FINDINGS["gradient-misleads"].found(f"measured change by promised change, median of {len(images)}: {measured}"),
    ]


_LOSSES = {"margin": margin, "cross_entropy": cross_entropy}


def _zero_share(model: Model, images: Tensor, labels: Tensor, loss: Callable[[Tensor, Untargeted], Tensor]) -> int:
    return int((_input_gradient(model, images, labels, loss).flatten(1) == 0).all(1).sum())


def _input_gradient(
    model: Model, images: Tensor, labels: Tensor, loss: Callable[[Tensor, Untargeted], Tensor]
) -> Tensor:
    x = laid_out(images, channels_last=False).requires_grad_()
    with torch.enable_grad():
        value = loss(logits_of(model, x).float(), Untargeted(labels)).sum()
    if not value.requires_grad:
        raise UnsupportedError("the output carries no gradient to the input (a non-differentiable step or no_grad)")
    (grad,) = torch.autograd.grad(value, x)
    return grad
