"""Backward pass differentiable approximation (Athalye, Carlini & Wagner 2018, arXiv:1802.00420)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sparring.errors import InputError, ModelError, unknown
from sparring.model import model_name

Surrogate = Callable[..., Tensor] | str
IDENTITY = "identity"


def bpda(model: nn.Module, surrogates: Mapping[str, Surrogate]) -> nn.Module:
    """A copy of `model` for gradient attacks: the same answers, but gradients that pass through surrogates.

    surrogates: name of a submodule (`model.named_modules()`) -> a differentiable stand-in, called with the submodule's
    arguments, or "identity" where input and output have one shape. Forward the submodule itself is run, bit for bit;
    backward, its stand-in. `model` stays as it is, and later changes to it do not reach the copy. Attack the copy, and
    verify what is found on `model` or on the copy: they answer alike.

    Raises `InputError` for a submodule that does not exist; the copy raises `ModelError` where a surrogate has another
    shape than what it stands for, or where the model never runs the submodule as a module.

    >>> model = nn.Sequential(nn.Flatten(), nn.Hardtanh(), nn.Linear(4, 2))
    >>> images = torch.full((1, 1, 2, 2), 2.0, requires_grad=True)  # Hardtanh is flat there
    >>> soft = bpda(model, {"1": "identity"})
    >>> bool((soft(images) == model(images)).all())
    True
    >>> bool(torch.autograd.grad(soft(images)[:, 0].sum(), images)[0].any())
    True
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"bpda names submodules, so model must be a torch.nn.Module, got {type(model).__name__}")
    if not surrogates:
        raise InputError('surrogates is empty: name at least one submodule, such as {"jpeg": "identity"}')
    known = [name for name, _ in model.named_modules() if name]
    for name, surrogate in surrogates.items():
        if name not in known:
            raise InputError(unknown("submodule", name, known))
        if not callable(surrogate) and surrogate != IDENTITY:
            raise InputError(f'the surrogate of {name!r} must be a function or "identity", got {surrogate!r}')
        if inside := [other for other in surrogates if other.startswith(f"{name}.")]:
            raise InputError(f"{inside[0]!r} lies inside {name!r}, which has a surrogate already: name one of them")
    return BPDA(copy.deepcopy(model), surrogates)


class BPDA(nn.Module):
    """What `bpda` returns: `inner`, with some submodules replaced by pairs of the true one and its surrogate."""

    def __init__(self, inner: nn.Module, surrogates: Mapping[str, Surrogate]) -> None:
        super().__init__()
        self.inner = inner
        self.pairs: dict[str, _Pair] = {}
        for name, surrogate in surrogates.items():
            parent, _, child = name.rpartition(".")
            pair = _Pair(name, inner.get_submodule(name), surrogate)
            setattr(inner.get_submodule(parent), child, pair)
            self.pairs[name] = pair

    def forward(self, images: Tensor) -> Tensor:
        """The true model's output."""
        for pair in self.pairs.values():
            pair.ran = False
        output: Tensor = self.inner(images)
        idle = [name for name, pair in self.pairs.items() if not pair.ran]
        if idle:
            raise ModelError(f"the model never ran its submodule {idle[0]!r}, so the surrogate for it does nothing")
        return output


class _Pair(nn.Module):
    """`true` forward, `surrogate` backward."""

    def __init__(self, name: str, true: nn.Module, surrogate: Surrogate) -> None:
        super().__init__()
        self.name, self.true, self.surrogate, self.ran = name, true, surrogate, False

    def extra_repr(self) -> str:
        """What the digest of the model must tell apart."""
        surrogate = self.surrogate
        return f"surrogate={surrogate if isinstance(surrogate, str) else model_name(surrogate)}"

    def forward(self, *inputs: Any, **options: Any) -> Tensor:
        self.ran = True
        with torch.no_grad():
            exact = self.true(*(x.clone() if isinstance(x, Tensor) else x for x in inputs), **options)
        if not torch.is_grad_enabled():
            return exact  # type: ignore[no-any-return]
        soft = inputs[0] if isinstance(self.surrogate, str) else self.surrogate(*inputs, **options)
        if soft.shape != exact.shape:
            raise ModelError(
                f"the surrogate of {self.name!r} returned shape {tuple(soft.shape)}, "
                f"the submodule {tuple(exact.shape)}: they must agree"
            )
        return joined(exact, soft)


def joined(exact: Tensor, soft: Tensor) -> Tensor:
    """The value of `exact` with the gradient of `soft`, same shape."""
    result: Tensor = _Join.apply(exact, soft)  # type: ignore[no-untyped-call]
    return result


class _Join(torch.autograd.Function):
    """The value of one tensor with the gradient of another."""

    @staticmethod
    def forward(ctx: Any, exact: Tensor, soft: Tensor) -> Tensor:
        """`exact`, as a tensor of its own."""
        del ctx, soft
        return exact.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        """All of the gradient to `soft`."""
        del ctx
        return None, grads[0]
