"""One checked call of `harden`: who trains what, on what, where, and under which key it can be gone on with."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparring.batching import Plan, plan
from sparring.errors import InputError, UnsupportedError
from sparring.hardening.data import Images, Split, data_digest, split
from sparring.hardening.inner import check_inner
from sparring.hardening.method import Method
from sparring.hardening.modules import freeze
from sparring.hardening.parallel import Workers
from sparring.hardening.progress import TrainingProgress
from sparring.hardening.recipe import Recipe, check_together
from sparring.hardening.trainer import Trainer
from sparring.hardening.trial import check_learns
from sparring.model import device_of, model_digest
from sparring.threat import ThreatModel


@dataclass(frozen=True, eq=False)
class Job:
    """One checked call of `harden`."""

    given: nn.Module
    split: Split
    threat: ThreatModel
    method: Method
    recipe: Recipe
    seed: int
    out: Path | None
    workers: Workers
    channels_last: bool
    one_thread: bool
    digest: str

    @classmethod
    def build(
        cls,
        model: nn.Module,
        data: tuple[Images, Tensor],
        threat: ThreatModel,
        how: tuple[Method, Recipe],
        seed: int,
        out: str | Path | None,
    ) -> Job:
        """Check everything that can be checked before the work begins."""
        if not isinstance(model, nn.Module):
            raise InputError(f"model must be an nn.Module, to be trained, got {type(model).__name__}")
        if any(getattr(part, "attacked_only", False) for part in model.modules()):
            raise UnsupportedError(
                "a bridge to another framework, file or service gives gradients of images at most, not of weights: "
                "harden the network in torch, or train it where it lives on what sparring's attacks give"
            )
        if not isinstance(threat, ThreatModel):
            raise InputError(f'threat must be a ThreatModel, such as ThreatModel("linf", "8/255"), got {threat!r}')
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise InputError(f"seed must be a whole number from 0 to 2**63 - 1, got {seed!r}")
        method, recipe = how
        parts = split(data, threat, recipe.validation, recipe.watch, seed)
        frozen = copy.deepcopy(model)
        freeze(frozen, recipe.freeze)
        device = device_of(model)
        recipe = recipe.sized(method, len(parts.train))
        check_together(method, recipe, threat, frozen, device.type)
        check_inner(getattr(method, "inner", None), threat)
        workers = Workers(device)
        check_learns(frozen, parts, method, recipe, workers)
        how_called = plan(model, data[0][0:2].to(device))
        last = how_called.channels_last if recipe.channels_last is None else recipe.channels_last
        place = None if out is None else Path(out)
        digest = data_digest(*data)
        return cls(model, parts, threat, method, recipe, seed, place, workers, last, how_called.one_thread, digest)

    @property
    def cuda(self) -> list[int]:
        """The GPUs whose random state is to be left as it was."""
        device = self.workers.device
        return [device.index or 0] if device.type == "cuda" else []

    def threads(self) -> Any:
        """As many threads as pay for this model."""
        return Plan(1, self.channels_last, self.one_thread).running()

    def trainer(self, report: Callable[[TrainingProgress], None]) -> Trainer:
        """A trainer on a copy of the model, at the beginning or where an earlier one stopped."""
        module = copy.deepcopy(self.given).to(self.workers.device)
        standard = copy.deepcopy(module).eval() if self.recipe.hat else None
        return Trainer(
            formatted(module, torch.channels_last) if self.channels_last else module,
            self.split,
            self.threat,
            self.method,
            self.recipe,
            seed=self.seed,
            workers=self.workers,
            standard=standard,
            out=self.out,
            key=self._key(),
            report=report if self.workers.leads else lambda _: None,
        )

    def handed_back(self, module: nn.Module) -> nn.Module:
        """The trained module with the flags and the layout of the given one."""
        flags = {name: parameter.requires_grad for name, parameter in self.given.named_parameters()}
        for name, parameter in module.named_parameters():
            parameter.grad = None
            parameter.requires_grad_(flags[name])
        return formatted(module, torch.contiguous_format).eval()

    def _key(self) -> str:
        """Whatever must be the same for a state to be gone on from."""
        from sparring import __version__

        first = self.split.images[0:1]
        shape = tuple(first.shape[1:])
        parts = (
            __version__,
            model_digest(self.given, shape, self.threat.bounds, None if first.dtype == torch.float32 else first),
            self.digest,
            self.threat.key(),
            str(self.method),
            self.recipe.told(),
            self.seed,
            self.workers.size,
        )
        return hashlib.sha256(repr(parts).encode()).hexdigest()


def formatted(module: nn.Module, layout: torch.memory_format) -> nn.Module:
    """The module with its weights in this layout."""
    made: nn.Module = module.to(memory_format=layout)  # type: ignore[call-overload]
    return made
