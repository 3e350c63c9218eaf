"""Gradients that float32 cannot hold: the same model differentiated in float64, or with its logits made smaller."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from sparring.diagnosis.repair import margin_left
from sparring.errors import SparringError
from sparring.goal import Untargeted
from sparring.losses import class_margin, margin
from sparring.model import Model, frozen_eval, logits_of
from sparring.surrogates import joined
from sparring.threat import ThreatModel

TINY, HUGE = 1e-30, 1e30
"""An image whose largest gradient lies outside has one that float32 cannot be trusted with."""
LEAD = 5.0
"""Median margin that logits are scaled down to: softmax then keeps a gradient."""


def unfit(grad: Tensor) -> Tensor:
    """Bool (N,): a gradient (N, C, H, W) that is zero, not finite, or near either end of float32."""
    largest = grad.flatten(1).abs().amax(1)
    return ~((largest > TINY) & (largest < HUGE))


class _InDouble(torch.autograd.Function):
    """Images as float64; the gradient comes back as float32, image by image brought to a size that float32 holds."""

    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        ctx.dtype = images.dtype
        return images.double()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0]
        largest = grad.flatten(1).abs().amax(1)
        fits = ((largest > TINY) & (largest < HUGE)) | (largest == 0) | ~largest.isfinite()
        scale = torch.where(fits, torch.ones_like(largest), 1 / largest.clamp_min(1e-300))
        return (grad * scale.view(-1, *[1] * (grad.dim() - 1))).to(ctx.dtype)


class InDouble(nn.Module):
    """`inner` with the answers it gives, and the gradients that a copy of it has in float64."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self._double = [copy.deepcopy(inner).double()]  # a list hides it: it is no part of the model

    def extra_repr(self) -> str:
        """What the digest of the model must tell apart."""
        return "gradients in float64"

    def forward(self, images: Tensor) -> Tensor:
        """The true model's output."""
        if not torch.is_grad_enabled() or not images.requires_grad:
            output: Tensor = self.inner(images)
            return output
        with torch.no_grad():
            exact = self.inner(images.detach())
        double = self._double[0].to(images.device)
        double.eval()
        soft = double(_InDouble.apply(images))  # type: ignore[no-untyped-call]
        return joined(exact, soft.to(exact.dtype)) if bool(soft.isfinite().all()) else joined(exact, soft)


class Rescaled(nn.Module):
    """`inner` with its logits divided by a factor: the same classes, another scale."""

    def __init__(self, inner: Model, factor: float) -> None:
        super().__init__()
        self.inner, self.factor = inner, factor

    def extra_repr(self) -> str:
        """What the digest of the model must tell apart."""
        return f"logits / {self.factor!r}"

    def forward(self, images: Tensor) -> Tensor:
        """The smaller logits."""
        return self.inner(images) / self.factor


def rescaled(model: Model, images: Tensor, labels: Tensor) -> Rescaled:
    """`model` with the median size of the margins on images (N, C, H, W) brought down to `LEAD`; never up."""
    with frozen_eval(model), torch.no_grad():
        size = class_margin(logits_of(model, images).float(), labels).abs().nan_to_num(posinf=0.0).median()
    return Rescaled(model, max(1.0, float(size) / LEAD))


def in_double(model: Model, images: Tensor, labels: Tensor) -> InDouble | None:
    """The model with float64's gradients, where those say something on images (N, C, H, W) that float32's do not."""
    if not isinstance(model, nn.Module) or images.dtype != torch.float32:
        return None
    try:
        found = InDouble(model)
        with frozen_eval(model), frozen_eval(found._double[0]), torch.enable_grad():
            x = images.detach().double().requires_grad_()
            value = margin(found._double[0](x), Untargeted(labels)).sum()
            (grad,) = torch.autograd.grad(value, x)
    except (SparringError, RuntimeError, TypeError):  # what cannot be copied, or does not compute in float64
        return None
    largest = grad.flatten(1).abs().amax(1)
    return found if bool(((largest > 0) & largest.isfinite()).any()) else None


def more_precise(
    model: Model, images: Tensor, labels: Tensor, threat: ThreatModel
) -> tuple[InDouble, str, float] | None:
    """`in_double`, unless a short attack with its gradients leaves more of the margins; and what it left, in words and
    as the mean margin.
    """
    with torch.random.fork_rng(devices=[]):
        found = in_double(model, images, labels)
        if found is None:
            return None
        own, mended = (margin_left(m, images, labels, threat) for m in (model, found))
        with frozen_eval(model), torch.no_grad():
            clean = float(class_margin(logits_of(model, images).float(), labels).mean())
    if mended is None or (own is not None and mended > own + 0.02 * abs(clean)):
        return None
    left = "none" if own is None else f"{own:.3g}"
    said = (
        f"on {len(images)} images a short attack leaves a mean margin of {left} with float32's gradients and of "
        f"{mended:.3g} with float64's"
    )
    return found, said, mended
