"""Is the gradient fit to be followed: zeros, underflow, saturation, the right loss, agreement between neighbours."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy

from sparring.attacks import FGSM, PGD
from sparring.diagnosis.blockers import ROOT, traced
from sparring.diagnosis.detours import smoothed_slope, works_element_by_element
from sparring.diagnosis.fits import Joint
from sparring.diagnosis.gaps import Gap, gaps
from sparring.diagnosis.result import Bias, Health, Saturation
from sparring.diagnosis.taylor import gradient
from sparring.diagnosis.work import answers, at_once, by_parts
from sparring.errors import ModelError
from sparring.evaluation import evaluate
from sparring.goal import Untargeted
from sparring.model import Model, frozen_eval, hookable, logits_of
from sparring.threat import ThreatModel

TINY = 1e-30
FLAT = 1e-6
"""A slope below this counts as zero."""
ELEMENTWISE = 0.9
"""What a function of single numbers must explain of code between two layers, for it to be taken for an activation."""
LOOKED_AT = 64
"""Images that activations are looked at on, fewer where they are large."""
LOSSES = ("margin", "dlr", "cross_entropy")


def health(model: Model, images: Tensor, labels: Tensor, threat: ThreatModel, *, seed: int = 0) -> Health:
    """What is wrong with the input gradients at images (N, C, H, W), and which loss to attack."""
    with frozen_eval(model):
        _, grad = gradient(model, images, labels, "cross_entropy")
        largest = grad.flatten(1).abs().amax(1)
        confident = torch.softmax(answers(model, images).float(), 1).amax(1)
        robust = {
            loss: evaluate(model, images, labels, threat, attacks=[PGD(steps=20, loss=loss)], seed=seed, keep=False)
            for loss in LOSSES
        }
        shares = {loss: found.robust_accuracy.value for loss, found in robust.items()}
        generator = torch.Generator().manual_seed(seed)
        noise = (torch.rand(images.shape, generator=generator).to(images) * 2 - 1) * threat.eps
        near = threat.project(images, images + noise)
        _, other = gradient(model, near, labels, "cross_entropy")
        return Health(
            zero=float((largest == 0).float().mean()),
            underflow=float(((largest > 0) & (largest < TINY)).float().mean()),
            overflow=float((~grad.flatten(1).isfinite().all(1)).float().mean()),
            saturated_softmax=float((confident == 1).float().mean()),
            robust_by_loss=shares,
            recommended_loss=min(LOSSES, key=lambda loss: shares[loss]),
            activations=saturated(model, images[:LOOKED_AT], labels[:LOOKED_AT]),
            agreement=float(cosine_similarity(grad.flatten(1), other.flatten(1), dim=1).mean()),
        )


def saturated(model: Model, images: Tensor, labels: Tensor) -> tuple[Saturation, ...]:
    """Elementwise layers, and code between two layers, with the share of their units at a point of zero slope. Half is
    usual for a ReLU.
    """
    if not isinstance(model, nn.Module) or not hookable(model):
        return ()
    images, labels = images[: at_once(images)], labels[: at_once(images)]
    trace, found = traced(model, images, labels), []
    for visit in trace.visits:
        module = model.get_submodule(visit.name)
        at = visit.entered.detach()
        if visit.leaf and not any(True for _ in module.parameters()) and works_element_by_element(module, at):
            flat = smoothed_slope(module, at, 1e-3).abs() < FLAT
            found.append(Saturation(name=visit.name, kind=type(module).__name__, share=float(flat.float().mean())))
    for gap in gaps(trace):
        if Joint.fitted(gap.before, gap.after).explained > ELEMENTWISE and gap.to != ROOT:
            share = _flat_between(model, images, gap)
            found.append(Saturation(name=f"{gap.start} to {gap.to}", kind="code", share=share))
    return tuple(one for one in found if one.share > 0)


def _flat_between(model: nn.Module, images: Tensor, gap: Gap) -> float:
    """The share of the values before a gap that those after it do not follow at all."""
    ends: dict[str, Tensor] = {}
    start, to = model.get_submodule(gap.start), model.get_submodule(gap.to)

    def leave(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        ends["start"] = output.detach().requires_grad_()
        return ends["start"]

    def arrive(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        ends["end"] = inputs[0]

    hooks = [start.register_forward_hook(leave), to.register_forward_pre_hook(arrive)]
    try:
        with frozen_eval(model), torch.enable_grad():
            logits_of(model, images)
            if not ends["end"].requires_grad:
                return 1.0
            (slope,) = torch.autograd.grad(ends["end"].sum(), ends["start"], allow_unused=True)
    except (ModelError, RuntimeError):  # code that takes no tensor with a gradient
        return 1.0
    finally:
        for hook in hooks:
            hook.remove()
    return 1.0 if slope is None else float((slope.abs() < FLAT).float().mean())


def training_bias(model: Model, images: Tensor, labels: Tensor, threat: ThreatModel) -> Bias | None:
    """What training on one step misses: the mean loss's parameter gradient at x + FGSM beside the one at x + PGD."""
    if not isinstance(model, nn.Module) or not any(True for _ in model.parameters()):
        return None
    goal = Untargeted(labels)
    sides = [
        parameter_gradient(model, attack(model, images, goal, threat), labels)
        for attack in (FGSM(), PGD(steps=10, random_start=False, early_stop=False))
    ]
    return compared(*sides)


def compared(one: Tensor, many: Tensor) -> Bias:
    """Cosine of two parameter gradients, and the first one's norm by the second's."""
    norms = one.norm(), many.norm()
    if float(norms[1]) == 0:
        return Bias(cosine=0.0, relative_norm=0.0)
    cosine = float(one @ many / (norms[0] * norms[1]).clamp_min(1e-300))
    return Bias(cosine=cosine, relative_norm=float(norms[0] / norms[1]))


def parameter_gradient(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Gradient of the mean cross-entropy by all parameters, as one vector; the model is left as it was."""
    with frozen_eval(model), torch.enable_grad():
        parameters = [p for p in model.parameters() if p.is_floating_point()]
        for parameter in parameters:
            parameter.requires_grad_(True)

        def summed(x: Tensor, y: Tensor) -> Tensor:
            loss = cross_entropy(logits_of(model, x), y, reduction="sum")
            grads = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
            return torch.cat([grad.flatten().double() for grad in grads])

        total = torch.zeros(sum(p.numel() for p in parameters), dtype=torch.float64, device=images.device)
        for part in by_parts(summed, images, labels):
            total += part
    return total / len(images)
