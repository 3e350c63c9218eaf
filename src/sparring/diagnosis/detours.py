"""The same answers with a gradient that goes around what blocks it (BPDA; Athalye, Carlini & Wagner 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparring.errors import ModelError
from sparring.surrogates import joined


@dataclass(frozen=True)
class Detour:
    """Where the gradient leaves the model's own way, backward only.

    kind "skip": whatever stands between the images and the input of submodule `to` is taken for an affine map per
    pixel, fitted to the images. kind "through": submodule `to` itself is passed by its smoothed slope, central
    differences of `width` standard deviations of its input, where it works element by element; else as the identity,
    or an affine map.
    """

    to: str
    kind: str
    width: float = 0.5

    def __str__(self) -> str:
        return f"before {self.to}" if self.kind == "skip" else self.to


class Detoured(nn.Module):
    """`inner` with detours: forward bit for bit what it was. The fits are made on `images` (N, ...) once."""

    def __init__(self, inner: nn.Module, detours: Sequence[Detour], images: Tensor) -> None:
        super().__init__()
        self.inner, self.detours = inner, tuple(detours)
        self._fits: dict[str, Tensor] = {}
        self._elementwise: dict[str, bool] = {}
        with torch.no_grad():
            self._pass(images, images, fitting=True)

    def extra_repr(self) -> str:
        """What the digest of the model must tell apart."""
        return f"detours={self.detours!r}"

    def forward(self, images: Tensor) -> Tensor:
        """The true model's output."""
        if not torch.is_grad_enabled() or not images.requires_grad:
            output: Tensor = self.inner(images)
            return output
        skips = any(detour.kind == "skip" for detour in self.detours)
        return self._pass(images.detach() if skips else images, images, fitting=False)

    def _pass(self, given: Tensor, images: Tensor, *, fitting: bool) -> Tensor:
        handles: list[Any] = []
        met: set[str] = set()
        try:
            for detour in self.detours:
                module = self.inner.get_submodule(detour.to)
                if detour.kind == "skip":
                    handles.append(module.register_forward_pre_hook(self._skip(detour.to, images, met, fitting)))
                else:
                    before, after = self._through(detour, met, fitting)
                    handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
            output: Tensor = self.inner(given)
        finally:
            for handle in handles:
                handle.remove()
        idle = [detour.to for detour in self.detours if detour.to not in met]
        if idle:
            raise ModelError(f"the model never ran its submodule {idle[0]!r}, so a detour there does nothing")
        return output

    def _skip(self, name: str, images: Tensor, met: set[str], fitting: bool) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Any, ...]) -> Any:
            if name in met:
                return None
            met.add(name)
            if fitting:
                self._fits[name] = affine_fit(images, inputs[0])
                return None
            return (joined(inputs[0], affine(images, self._fits[name], inputs[0])), *inputs[1:])

        return hook

    def _through(self, detour: Detour, met: set[str], fitting: bool) -> tuple[Any, Any]:
        held: list[Tensor] = []

        def before(_module: nn.Module, inputs: tuple[Any, ...]) -> Any:
            held.append(inputs[0])
            return (inputs[0].detach(), *inputs[1:])

        def after(module: nn.Module, _inputs: Any, output: Any) -> Any:
            met.add(detour.to)
            h = held.pop()
            if fitting:
                self._elementwise[detour.to] = works_element_by_element(module, h.detach())
                if not self._elementwise[detour.to] and h.shape != output.shape:
                    self._fits[detour.to] = affine_fit(h.detach(), output.detach())
                return None
            if self._elementwise[detour.to]:
                return joined(output, smoothed_slope(module, h.detach(), detour.width) * h)
            if h.shape == output.shape:
                return joined(output, h)
            return joined(output, affine(h, self._fits[detour.to], output))

        return before, after


def smoothed_slope(module: nn.Module, at: Tensor, width: float) -> Tensor:
    """Central differences of an elementwise module over `width` standard deviations of `at`, same shape."""
    with torch.no_grad():
        step = width * at.std().clamp_min(1e-6)
        slope: Tensor = (module.forward(at + step) - module.forward(at - step)) / (2 * step)
    return slope


def works_element_by_element(module: nn.Module, at: Tensor) -> bool:
    """Does each output number depend on the input number in the same place only? Tried with half of them changed."""
    with torch.no_grad():
        plain = module.forward(at.clone())
        if not isinstance(plain, Tensor) or plain.shape != at.shape:
            return False
        half = torch.arange(at.numel(), device=at.device).reshape(at.shape) * 2654435761 % 8192 < 4096
        moved = module.forward(torch.where(half, at.mean() + 2 * at.std() * at.sign() + 0.1, at))
        return bool(torch.equal(moved[~half], plain[~half]))


def affine_fit(source: Tensor, wanted: Tensor) -> Tensor:
    """Least-squares weights (C' , C + 1) of a map from the channels of `source` (N, C, H, W), resized, to those of
    `wanted`, pixel by pixel. Raises `ModelError` where either is no picture.
    """
    if source.dim() != 4 or wanted.dim() != 4:
        raise ModelError("only pictures (N, C, H, W) have an affine map per pixel")
    x = _resized(source, wanted).permute(0, 2, 3, 1).flatten(0, 2).double()
    x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
    y = wanted.permute(0, 2, 3, 1).flatten(0, 2).double()
    square = x.T @ x + 1e-6 * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    weights: Tensor = torch.linalg.solve(square, x.T @ y).T
    return weights


def affine(source: Tensor, weights: Tensor, like: Tensor) -> Tensor:
    """The fitted map of `source`, shaped like `like`."""
    mapped = torch.einsum("oc,nchw->nohw", weights[:, :-1].to(source), _resized(source, like))
    return mapped + weights[:, -1].to(source).view(1, -1, 1, 1)


def explained(source: Tensor, wanted: Tensor) -> float:
    """Share of the variance of `wanted` that the affine map of `source` explains; 0 where there is none."""
    if source.dim() != 4 or wanted.dim() != 4 or len(source) != len(wanted):
        return 0.0
    left = (affine(source, affine_fit(source, wanted), wanted) - wanted).double().square().mean()
    return 1 - float(left / wanted.double().var().clamp_min(1e-12))


def _resized(source: Tensor, like: Tensor) -> Tensor:
    if source.shape[2:] == like.shape[2:]:
        return source
    return functional.interpolate(source, size=like.shape[2:], mode="bilinear", align_corners=False)
