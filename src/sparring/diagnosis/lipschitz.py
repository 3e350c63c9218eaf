"""Lipschitz constants in l2: of layers as the operators they are, of chains of layers, and of margins from below."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparring.certification.graph import trace
from sparring.certification.layers import Layer as Operation
from sparring.certification.lipschitz import alone, pair_bounds
from sparring.diagnosis.result import Layer, Resolution, Sensitivity
from sparring.diagnosis.taylor import gradient
from sparring.diagnosis.work import by_parts
from sparring.errors import SparringError
from sparring.model import Model, Normalised, OutputAdapter, frozen_eval, hookable, logits_of
from sparring.threat import ThreatModel

ITERATIONS = 500
RIVALS = 20
"""Classes that the leads of a label are looked at over, at most."""
SLACK = 1e-4
"""Power iteration approaches a norm from below; in an upper bound it is raised by this share."""
SCALES = (0.25, 0.5, 1.0, 2.0)
"""Resolutions that the gradient is looked at, in units of the images' own."""
SLOPES: dict[type[nn.Module], float] = {
    nn.ReLU: 1.0,
    nn.ReLU6: 1.0,
    nn.Hardtanh: 1.0,
    nn.Hardsigmoid: 1 / 6,
    nn.Hardswish: 1.5,
    nn.Tanh: 1.0,
    nn.Sigmoid: 0.25,
    nn.Softplus: 1.0,
    nn.SELU: 1.7581,
    nn.GELU: 1.1290,
    nn.SiLU: 1.0999,
    nn.Mish: 1.0890,
    nn.Identity: 1.0,
    nn.Flatten: 1.0,
    nn.Dropout: 1.0,
    nn.Dropout2d: 1.0,
}
"""Largest slope of layers that need no look at their parameters."""
LINEAR = (nn.Conv1d, nn.Conv2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)


def operator_norm(layer: nn.Module, shape: tuple[int, ...]) -> float:
    """The l2 norm of a layer as an operator on one input of `shape`: exact for a matrix, else by power iteration in
    float64 (a convolution with its padding and stride, not its kernel laid out as a matrix). Raises `ValueError` for
    a layer that is not known.
    """
    if isinstance(layer, nn.Linear):
        return float(torch.linalg.matrix_norm(layer.weight.detach().double(), 2))
    if isinstance(layer, LINEAR):
        return _by_power(layer, shape)
    if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)) and layer.running_var is not None:
        scale = torch.rsqrt(layer.running_var.double() + layer.eps)
        return float((scale if layer.weight is None else scale * layer.weight.detach().double()).abs().max())
    if isinstance(layer, nn.MaxPool2d) and _pair(layer.dilation) == (1, 1):
        sides = [_pair(v) for v in (layer.kernel_size, layer.stride)]
        return math.sqrt(math.prod(-(-k // s) for k, s in zip(*sides, strict=True)))
    if isinstance(layer, (nn.LeakyReLU, nn.ELU)):
        return max(1.0, abs(layer.negative_slope if isinstance(layer, nn.LeakyReLU) else layer.alpha))
    if type(layer) in SLOPES:
        return SLOPES[type(layer)]
    raise ValueError(f"{type(layer).__name__} is no layer whose norm is known")


def _by_power(layer: nn.Module, shape: tuple[int, ...]) -> float:
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(1, *shape, generator=generator, dtype=torch.float64)
    weight = getattr(layer, "weight", None)
    copy = layer
    if isinstance(weight, Tensor):
        import copy as copying

        copy = copying.deepcopy(layer).double().cpu().requires_grad_(False)
    zero = copy(torch.zeros_like(vector))
    value, before = 0.0, -1.0
    for _ in range(ITERATIONS):
        vector = (vector / vector.norm().clamp_min(1e-300)).detach().requires_grad_()
        with torch.enable_grad():
            out = copy(vector) - zero
            (vector,) = torch.autograd.grad(out.square().sum() / 2, vector)
        value = float(out.detach().norm())
        if abs(value - before) <= 1e-10 * value:
            break
        before = value
    return value


def _pair(value: Any) -> tuple[int, int]:
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[1]))


def chain(model: Model, image: Tensor) -> list[Layer]:
    """The layers of a model that is a chain of known ones, with their norms. Raises `ValueError` for any other."""
    if not isinstance(model, nn.Module):
        raise ValueError("a function does not show its layers")
    if not hookable(model):
        raise ValueError("TorchScript does not show its layers")
    steps = list(_steps(model, ""))
    parts = [id(step) for _, step in steps if isinstance(step, nn.Module)]
    if len(set(parts)) < len(parts):
        raise ValueError("a layer runs more than once")
    shapes: dict[str, tuple[int, ...]] = {}
    handles = [m.register_forward_pre_hook(_noting(shapes, name)) for name, m in steps if isinstance(m, nn.Module)]
    try:
        with frozen_eval(model), torch.no_grad():
            logits_of(model, image[None])
    finally:
        for handle in handles:
            handle.remove()
    layers = []
    for name, step in steps:
        norm = step if isinstance(step, float) else operator_norm(step, shapes[name])
        layers.append(Layer(name=name, kind="scale" if isinstance(step, float) else type(step).__name__, norm=norm))
    return layers


def _noting(shapes: dict[str, tuple[int, ...]], name: str) -> Any:
    def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        shapes[name] = tuple(inputs[0].shape[1:])

    return hook


def _steps(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module | float]]:
    prefix = f"{name}." if name else ""
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        for child, part in zip(module._modules, module, strict=True):  # named_children leaves out what comes twice
            yield from _steps(part, f"{prefix}{child}")
    elif isinstance(module, Normalised):
        yield f"{prefix}std", float(1 / module.std.min())
        yield from _steps(module.inner, f"{prefix}inner")
    elif isinstance(module, OutputAdapter) and module.kind == "logits" and module.index is None:
        yield from _steps(module.inner, f"{prefix}inner")
    elif any(True for _ in module.children()):
        raise ValueError(f"{type(module).__name__} may join its parts in other ways than one after the other")
    elif not type(module).forward.__module__.startswith("torch.nn."):
        raise ValueError(f"{type(module).__name__} is no layer whose norm is known")
    else:
        yield name, module


def lead_gradients(model: Model, images: Tensor, labels: Tensor) -> Tensor:
    """The largest l2 norm over j of the gradient of f_y - f_j (N,); with more classes than `RIVALS`, over the classes j
    that the model holds most likely.
    """
    return torch.cat(by_parts(lambda x, y: _lead_gradients(model, x, y), images, labels))


def _lead_gradients(model: Model, images: Tensor, labels: Tensor) -> Tensor:
    with torch.enable_grad():
        x = images.detach().clone().requires_grad_()
        logits = logits_of(model, x)
        own = logits.gather(1, labels[:, None])
        rivals = logits.detach().topk(min(RIVALS, logits.shape[1]), 1).indices
        largest = torch.zeros(len(images), dtype=images.dtype, device=images.device)
        for j in range(rivals.shape[1]):
            lead = (own - logits.gather(1, rivals[:, j : j + 1])).sum()
            (grad,) = torch.autograd.grad(lead, x, retain_graph=j < rivals.shape[1] - 1)
            largest = torch.maximum(largest, grad.flatten(1).norm(dim=1))
    return largest.detach()


def sensitivity(model: Model, images: Tensor, labels: Tensor, threat: ThreatModel, *, points: int = 3) -> Sensitivity:
    """How far a small change of the image moves the leads between classes; `points` of each ball are looked at."""
    with frozen_eval(model):
        lower = lead_gradients(model, images, labels)
        _, grad = gradient(model, images, labels, "margin")
        step = threat.steepest_step(images, grad)
        for number in range(1, points):
            moved = images + step * number / max(1, points - 1)
            lower = torch.maximum(lower, lead_gradients(model, moved, labels))
        layers, upper, why = _upper(model, images[:1])
        largest = float(lower.max())
        seen = tuple(_resolutions(model, images, labels))
        return Sensitivity(
            lower=tuple(lower.tolist()),
            layers=tuple(layers),
            upper=upper,
            ratio=None if upper is None or largest == 0 else upper / largest,
            stretches=max(layers, key=lambda layer: layer.norm).name if layers else None,
            why=why,
            resolutions=seen,
            growth=_growth(seen),
        )


def _upper(model: Model, image: Tensor) -> tuple[list[Layer], float | None, str]:
    """Layers, an upper bound of the Lipschitz constant of any lead, and why there is none."""
    try:
        layers = chain(model, image[0])
        product = math.prod(layer.norm * (1 + SLACK * (layer.kind in _POWERED)) for layer in layers)
        return layers, math.sqrt(2) * product, ""
    except (ValueError, KeyError) as error:
        why = str(error)
    try:
        traced = trace(model, image).layers()
        layers = [_named(layer) for layer in traced if len(layer.inputs) == 1]
        return layers, float(pair_bounds(traced, "l2").max()), ""
    except (SparringError, RuntimeError):
        return [], None, why


def _named(layer: Operation) -> Layer:
    return Layer(name=layer.where, kind=type(layer).__name__, norm=alone(layer, "l2"))


_POWERED = frozenset(kind.__name__ for kind in LINEAR)


def _resolutions(model: Model, images: Tensor, labels: Tensor) -> Iterator[Resolution]:
    """The gradient's size with the images made smaller and larger, where the model takes them; else, for smaller ones,
    that of the gradient added up over blocks of pixels.
    """
    if images.dim() != 4:
        return
    _, whole = gradient(model, images, labels, "margin")
    for scale in SCALES:
        blocks, grad = False, whole
        if scale != 1:
            try:
                seen = functional.interpolate(images, scale_factor=scale, mode="nearest")
                _, grad = gradient(model, seen, labels, "margin")
            except Exception:  # noqa: BLE001 - a model of one size may refuse in any way
                side = round(1 / scale)
                if scale > 1 or any(size % side for size in images.shape[2:]):
                    continue
                blocks, grad = True, side**2 * functional.avg_pool2d(whole, side)
        flat = grad.flatten(1)
        l1, l2 = (float(flat.norm(p=p, dim=1).mean()) for p in (1, 2))
        yield Resolution(scale=scale, dimension=flat.shape[1], l1=l1, l2=l2, blocks=blocks)


def _growth(seen: Sequence[Resolution]) -> float | None:
    """The slope of log l1 against log dimension, by least squares; over blocks only where the model takes one size."""
    other = any(not r.blocks and r.scale != 1 for r in seen)
    points = [(math.log(r.dimension), math.log(r.l1)) for r in seen if r.l1 > 0 and not (other and r.blocks)]
    if len(points) < 2:
        return None
    x, y = (sum(part) / len(points) for part in zip(*points, strict=True))
    spread = sum((p[0] - x) ** 2 for p in points)
    return sum((p[0] - x) * (p[1] - y) for p in points) / spread if spread else None
