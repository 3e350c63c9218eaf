"""A model that shows an attacker less than gradients: only its logits, or only its labels."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sparring.errors import InputError, ModelError, UnsupportedError
from sparring.model import Model, called, logits_of, model_name

ACCESS = ("labels", "logits", "gradients")
"""What a model may show of itself, from the least to the most."""


class BlackBox(nn.Module):
    """A model that shows only its logits, or only its labels, as a service behind an interface does.

    inner: any callable on images (N, C, H, W). access "logits": whoever asks for a gradient gets `UnsupportedError`.
    access "labels": `inner` may return labels, whole numbers (N,), or scores (N, K), of which only the largest is
    looked at. Calls then return what is known of the logits: 0 for the label and minus infinity for the others, from
    which no margin can be read. classes: K; needed where `inner` returns labels.

    The labels of a plain function say too little to recognise it, so an evaluation of one resumes only with this
    very object; a module is known by its weights.

    >>> box = BlackBox(lambda images: images.flatten(1).argmax(1), access="labels", classes=3)
    >>> box(torch.tensor([[0.1, 0.7, 0.2]]))
    tensor([[-inf, 0., -inf]])
    """

    def __init__(self, inner: Callable[[Tensor], Tensor], access: str = "logits", classes: int | None = None) -> None:
        super().__init__()
        if access not in ACCESS[:2]:
            raise InputError(
                f'access must be "logits" or "labels", got {access!r}; a model with gradients needs no box'
            )
        if classes is not None and (isinstance(classes, bool) or not isinstance(classes, int) or classes < 2):
            raise InputError(f"classes must be a whole number >= 2, got {classes!r}")
        self.inner, self.access, self.classes = inner, access, classes
        unknown = access == "labels" and not isinstance(inner, nn.Module)
        self._identity = uuid.uuid4().hex if unknown else ""

    def extra_repr(self) -> str:
        """What the digest of the model must tell apart."""
        return f"{model_name(self.inner)}, access={self.access!r}, classes={self.classes} {self._identity}".strip()

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K), or what the labels say of them."""
        with torch.no_grad():
            answers = self._answers(images)
        if self.classes not in (None, answers.shape[1]):
            raise ModelError(f"the model returned {answers.shape[1]} scores per image, but classes={self.classes}")
        hidden: Tensor = _Opaque.apply(images, answers, self.access)  # type: ignore[no-untyped-call]
        return hidden

    def _answers(self, images: Tensor) -> Tensor:
        if self.access == "logits":
            return logits_of(self.inner, images)
        given = called(self.inner, images)
        if isinstance(given, Tensor) and not given.is_floating_point():
            return _certain(self._checked_labels(given, len(images)), self.classes or 2, images)
        scores = logits_of(lambda _: given, images)  # type: ignore[arg-type,return-value]
        known = _certain(scores.argmax(1), scores.shape[1], images)
        return known.masked_fill(scores.isnan().any(1, keepdim=True), torch.nan)

    def _checked_labels(self, labels: Tensor, n: int) -> Tensor:
        if self.classes is None:
            raise ModelError("the model returned labels: say how many classes there are, BlackBox(..., classes=10)")
        if labels.shape != (n,) or labels.dtype in (torch.bool, torch.complex64, torch.complex128):
            raise ModelError(f"labels must be whole numbers of shape ({n},), got {labels.dtype} {tuple(labels.shape)}")
        low, high = (int(end) for end in torch.aminmax(labels))
        if low < 0 or high >= self.classes:
            raise ModelError(f"the model returned labels from {low} to {high}, but classes={self.classes}")
        return labels.long()


class _Opaque(torch.autograd.Function):
    """Passes answers through and refuses the way back."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, answers: Tensor, access: str) -> Tensor:
        del images
        ctx.access = access
        return answers.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        del grads
        raise UnsupportedError(
            f"this model shows only its {ctx.access}: it was declared so, BlackBox(..., access={ctx.access!r}), and "
            f"has no gradient to give; use attacks that need none"
        )


def _certain(labels: Tensor, classes: int, images: Tensor) -> Tensor:
    known = images.new_full((len(labels), classes), -torch.inf)
    return known.scatter_(1, labels.to(images.device)[:, None], 0.0)


def access_of(model: Model) -> str:
    """The least that a model and its parts show: "gradients" unless a `BlackBox` is among them."""
    parts = model.modules() if isinstance(model, nn.Module) else ()
    boxes = [part.access for part in parts if isinstance(part, BlackBox)]
    return min(boxes, key=ACCESS.index, default="gradients")
