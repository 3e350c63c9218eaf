"""Which recorded activation becomes which curve."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from sparring.certification.curves import SMOOTH, Curve, ReLU, Shape
from sparring.certification.layers import Layer
from sparring.certification.reading import Reading
from sparring.errors import UnsupportedError


def _curve(r: Reading, apply: Callable[[Tensor], Tensor], shape: Shape) -> Layer:
    return r.made(Curve, (r.only(0),), apply=apply, form=shape)


def _relu(r: Reading) -> Layer:
    return r.made(ReLU, (r.only(0),))


def _leaky(r: Reading) -> Layer:
    slope = float(r.arg(1, 0.01))
    if slope < 0:
        raise UnsupportedError("a leaky ReLU with a negative slope")
    return _curve(r, lambda x: functional.leaky_relu(x, slope), Shape(0.0, max(1.0, slope), (0.0,)))


def _clipped(r: Reading) -> Layer:
    low, high = r.arg(1, -1.0), r.arg(2, 1.0)
    low, high = -math.inf if low is None else float(low), math.inf if high is None else float(high)
    kinks = tuple(k for k in (low, high) if math.isfinite(k))
    return _curve(r, lambda x: x.clamp(low, high), Shape(0.0, 1.0, kinks))


def _elu(r: Reading) -> Layer:
    alpha, scale, inner = (float(r.arg(i, 1.0)) for i in (1, 2, 3))
    if min(alpha, scale, inner) < 0:
        raise UnsupportedError("ELU with a negative parameter")
    steepest = scale * max(1.0, alpha * inner)
    return _curve(
        r, lambda x: torch.ops.aten.elu(x, alpha, scale, inner), Shape(alpha * scale * inner**2, steepest, (0.0,))
    )


def _celu(r: Reading) -> Layer:
    alpha = float(r.arg(1, 1.0))
    if alpha <= 0:
        raise UnsupportedError("CELU with a negative parameter")
    return _curve(r, lambda x: functional.celu(x, alpha), Shape(1 / alpha, 1.0, (0.0,)))


def _softplus(r: Reading) -> Layer:
    beta, threshold = float(r.arg(1, 1.0)), float(r.arg(2, 20.0))
    if beta <= 0 or threshold < 20:  # from there on it is the identity: a step of at most exp(-threshold) / beta
        raise UnsupportedError("softplus with a negative beta or a threshold below 20")
    return _curve(r, lambda x: functional.softplus(x, beta, threshold), Shape(beta / 4, 1.0))


LOWEST_GELU = {"none": -0.7517915, "tanh": -0.7524614}


def _gelu(r: Reading) -> Layer:
    how = r.step.kwargs.get("approximate", "none")
    return _curve(r, lambda x: functional.gelu(x, approximate=how), Shape(0.82, 1.14, (), LOWEST_GELU[how]))


def _clipped_below(r: Reading) -> Layer:
    low = float(r.arg(1, 0.0))
    return _curve(r, lambda x: x.clamp_min(low), Shape(0.0, 1.0, (low,)))


def _clipped_above(r: Reading) -> Layer:
    high = float(r.arg(1))
    return _curve(r, lambda x: x.clamp_max(high), Shape(0.0, 1.0, (high,)))


ACTIVATIONS: dict[str, Callable[[Reading], Layer]] = {
    "aten.relu": _relu,
    "aten.leaky_relu": _leaky,
    "aten.hardtanh": _clipped,
    "aten.clamp": lambda r: _clipped(r) if len(r.step.args) > 2 else _clipped_below(r),
    "aten.clamp_min": _clipped_below,
    "aten.clamp_max": _clipped_above,
    "aten.elu": _elu,
    "aten.celu": _celu,
    "aten.softplus": _softplus,
    "aten.gelu": _gelu,
    **{f"aten.{name}": partial(_curve, apply=apply, shape=shape) for name, (apply, shape) in SMOOTH.items()},
}
"""Name of an operation to what makes a layer of it."""
