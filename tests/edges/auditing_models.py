"""What the audit tests share: a model with something in front of or behind it, and findings' scripts run again."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

import sparring as sp
from sparring.auditing import Finding, Report, curves, insight, remedies

EPS = 0.15


class Around(nn.Module):
    """A model with something in front of or behind it."""

    def __init__(
        self,
        net: nn.Module,
        before: Callable[[Tensor], Tensor] = lambda x: x,
        after: Callable[[Tensor], Tensor] = lambda z: z,
    ) -> None:
        super().__init__()
        self.net, self.before, self.after = net, before, after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.net(self.before(x)))


class Counted(nn.Module):
    """Counts the images the model is asked about."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.asked = net, 0

    def forward(self, x: Tensor) -> Tensor:
        self.asked += len(x)
        return self.net(x)


class Misled(torch.autograd.Function):
    """The identity, with a gradient that points the wrong way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return -grad


class OnlyAtData(torch.autograd.Function):
    """The identity, with a gradient only where pixels sit on the data's own grey levels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        on_grid = ((x * 16 - (x * 16).round()).abs() < 1e-6).flatten(1).all(1)
        return grad * on_grid.view(-1, 1, 1, 1)


def audited(model: nn.Module, data: Any, eps: float = EPS, *, norm: str = "linf", **options: Any) -> Report:
    """A quick audit with short curves and remedies and without a diagnosis; every finding's script is run on what was
    audited, and has something to say.
    """
    options.setdefault("effort", "quick")
    with (
        mock.patch.object(curves, "STEPS", (1.0, 2.0)),
        mock.patch.object(insight, "SAMPLE", 0),
        mock.patch.object(remedies, "LONG", 20),
        mock.patch.object(remedies, "SEARCH", 1000),
    ):
        report = sp.audit(model, *data, sp.ThreatModel(norm, eps), **options)
    for finding in report.findings:
        said = replayed(finding.replay, model=model, images=data[0], labels=data[1], **options)
        assert said.strip(), finding.code
    return report


def replayed(script: str, **known: Any) -> str:
    """What a script prints, with the names it expects."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(script, dict(known))
    return said.getvalue()


def found(report: Report, code: str) -> list[Finding]:
    """The findings of that code."""
    return [f for f in report.findings if f.code == code]
