"""The same answers with a gradient that goes around what blocks it (BPDA; Athalye, Carlini & Wagner 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparring.diagnosis.blockers import record
from sparring.diagnosis.fits import Joint, Spread, affine, affine_fit, spread_fit
from sparring.errors import ModelError
from sparring.surrogates import joined

ENTRANCES = ("skip", "spread")
"""Kinds of detours that lead from the images."""


@dataclass(frozen=True)
class Detour:
    """Where the gradient leaves the model's own way, backward only.

    kind "skip": whatever stands between the images and the input of submodule `to` is taken for an affine map per
    pixel, fitted to the images. kind "spread": for one function per channel, passed by its smoothed slope. kind
    "through": submodule `to` itself is passed by its smoothed slope, central differences of `width` standard deviations
    of its input, where it works element by element; else as the identity, or an affine map. kind "bridge": what runs
    between the output of submodule `start` and the input of `to` ("": the output of the model) is passed by the
    smoothed slope of the elementwise function that fits it; `cut` where that code takes no tensor with a gradient. kind
    "open": gradients are recorded in all submodules, also in those that run under no_grad; `to` says nothing.
    """

    to: str
    kind: str
    width: float = 0.5
    start: str = ""
    cut: bool = False

    def __str__(self) -> str:
        if self.kind == "open":
            return "no_grad"
        wide = "" if self.kind == "skip" else f", width {self.width:g}"
        if self.kind == "bridge":
            return f"{self.start} to {self.to or 'the output'}{wide}"
        return f"before {self.to}{wide}" if self.kind in ENTRANCES else f"{self.to}{wide}"


class Detoured(nn.Module):
    """`inner` with detours: forward bit for bit what it was. The fits are made on `images` (N, ...) once. Only where a
    bridge to the output `shows_logits` do passes with gradients return those, for the same decisions. others: the same
    model with other detours that help, too.
    """

    def __init__(self, inner: nn.Module, detours: Sequence[Detour], images: Tensor) -> None:
        super().__init__()
        self.inner, self.detours = inner, tuple(detours)
        self._fits: dict[str, Tensor] = {}
        self._spreads: dict[str, Spread] = {}
        self._elementwise: dict[str, bool] = {}
        self._joints: dict[str, Joint] = {}
        self.shows_logits = False
        self.others: list[Detoured] = []  # a list hides them: they are no part of the model
        with torch.no_grad():
            self._pass(images, images, fitting=True)

    @property
    def ways(self) -> str:
        """The detours in words."""
        return ", ".join(f"{detour.kind} {str(detour)!r}" for detour in self.detours)

    def extra_repr(self) -> str:
        """What the digest of the model must tell apart."""
        return f"detours={self.detours!r}"

    def forward(self, images: Tensor) -> Tensor:
        """The true model's output."""
        if not torch.is_grad_enabled() or not images.requires_grad:
            output: Tensor = self.inner(images)
            return output
        skips = any(detour.kind in ENTRANCES for detour in self.detours)
        return self._pass(images.detach() if skips else images, images, fitting=False)

    def _pass(self, given: Tensor, images: Tensor, *, fitting: bool) -> Tensor:
        handles: list[Any] = []
        met: set[str] = set()
        try:
            for detour in self.detours:
                module = self.inner.get_submodule(detour.to)
                if detour.kind == "open":
                    parts = () if fitting else self.inner.modules()
                    handles += [part.register_forward_pre_hook(record) for part in parts]
                    continue
                if detour.kind in ENTRANCES:
                    handles.append(module.register_forward_pre_hook(self._skip(detour, images, met, fitting)))
                elif detour.kind == "bridge":
                    handles += self._bridge(detour, met, fitting)
                else:
                    before, after = self._through(detour, met, fitting)
                    handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
            output: Tensor = self.inner(given)
        finally:
            for handle in handles:
                handle.remove()
        idle = [detour.to or "the output" for detour in self.detours if detour.kind != "open" and detour.to not in met]
        if idle:
            raise ModelError(f"the model never ran its submodule {idle[0]!r}, so a detour there does nothing")
        return output

    def _skip(self, detour: Detour, images: Tensor, met: set[str], fitting: bool) -> Any:
        name = detour.to

        def hook(_module: nn.Module, inputs: tuple[Any, ...]) -> Any:
            if name in met:
                return None
            met.add(name)
            if fitting:
                if detour.kind == "skip":
                    self._fits[name] = affine_fit(images, inputs[0])
                else:
                    self._spreads[name] = spread_fit(images, inputs[0])
                return None
            if detour.kind == "skip":
                soft = affine(images, self._fits[name], inputs[0])
            else:
                soft = self._spreads[name].soft(images, detour.width)
            return (joined(inputs[0], soft), *inputs[1:])

        return hook

    def _bridge(self, detour: Detour, met: set[str], fitting: bool) -> list[Any]:
        start, held = self.inner.get_submodule(detour.start), list[Tensor]()

        def leave(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            held.append(output)
            return output.detach() if detour.cut else output

        def arrive(exact: Tensor) -> Tensor:
            met.add(detour.to)
            h = held.pop().reshape(exact.shape)
            if fitting:
                self._joints[detour.to] = Joint.fitted(h, exact)
                self.shows_logits |= detour.to == "" and torch.equal(h.argmax(1), exact.argmax(1))
                return exact
            if self.shows_logits and detour.to == "":
                return torch.where((h.argmax(1) == exact.argmax(1)).unsqueeze(1), h, joined(exact, h))
            return joined(exact, self._joints[detour.to].slope(h.detach(), detour.width) * h)

        handles: list[Any] = [start.register_forward_hook(leave)]
        if detour.to == "":
            return [*handles, self.inner.register_forward_hook(lambda _module, _inputs, output: arrive(output))]
        module = self.inner.get_submodule(detour.to)
        return [*handles, module.register_forward_pre_hook(lambda _module, given: (arrive(given[0]), *given[1:]))]

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


class Averaged(nn.Module):
    """The answers of the first of several models that answer alike, with the mean of all their gradients."""

    def __init__(self, models: Sequence[Detoured]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, images: Tensor) -> Tensor:
        """The true model's output."""
        if not torch.is_grad_enabled() or not images.requires_grad:
            output: Tensor = self.models[0](images)
            return output
        found = [model(images) for model in self.models]
        return joined(found[0].detach(), torch.stack(found).mean(0))


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
