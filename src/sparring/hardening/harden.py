"""The public call: a model in, a hardened copy and its evidence out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparring.evaluation.effort import chosen_plan
from sparring.hardening.data import Images
from sparring.hardening.history import Epoch
from sparring.hardening.job import Job
from sparring.hardening.method import Method
from sparring.hardening.outcome import Hardened, with_evidence
from sparring.hardening.progress import TrainingProgress
from sparring.hardening.recipe import chosen
from sparring.hardening.trial import check_test
from sparring.threat import ThreatModel


class HardeningInterrupted(KeyboardInterrupt):
    """Ctrl-C during training or the final audit. `model` is the best so far (None before the first epoch's end),
    `history` its epochs.
    """

    def __init__(self, model: nn.Module | None, history: tuple[Epoch, ...]) -> None:
        super().__init__("hardening interrupted")
        self.model, self.history = model, history


def harden(
    model: nn.Module,
    data: tuple[Images, Tensor],
    threat: ThreatModel,
    *,
    method: str | Method = "fast",
    epochs: int | None = None,
    seed: int = 0,
    test: tuple[Images, Tensor] | None = None,
    effort: str | None = "standard",
    out: str | Path | None = None,
    progress: Callable[[TrainingProgress], None] | None = None,
    **settings: Any,
) -> Hardened:
    """Adversarial training: a copy of `model` that withstands `threat`, with the evidence. `model` stays as it is.

    data: images (N, C, H, W) in the threat's box and labels (N,). method: a preset, "fast", "pgd" or "trades"; or any
    of `sparring.hardening.METHODS` as text, "pgd:steps=10", or as an object. settings: fields of
    `sparring.hardening.Recipe`, such as lr=1e-3, awp=0.005 or freeze=("features.*",). epochs: None for those of the
    preset, 20 of `fast` and 15 of the others.
    test: images and labels for the final audit at `effort` (None for no audit); without them it is done on the
    validation images, which also chose the best epoch. out: a folder for the state, from which the same call goes on
    exactly after a kill (the final audit, too), and in the end for weights, card and pictures.

    Under torchrun several processes train together (extra `distributed`). Raises `InputError`, `UnsupportedError`,
    `RecordsError` for an `out` that belongs to another run, and `HardeningInterrupted` on Ctrl-C.
    """
    changes = settings if epochs is None else {"epochs": epochs, **settings}
    job = Job.build(model, data, threat, chosen(method, changes), seed, out)
    if effort is not None:
        chosen_plan(None, effort)
    if test is not None:
        check_test(model, test, threat)
    with torch.random.fork_rng(devices=job.cuda), job.threads():
        trainer = job.trainer(progress or (lambda _: None))
        try:
            trainer.run()
            hardened = with_evidence(job, trainer, test, effort)
        except KeyboardInterrupt:
            done = bool(trainer.best.step)
            best = job.handed_back(trainer.finish()) if done else None
            raise HardeningInterrupted(best, tuple(trainer.history)) from None
    if out is not None and job.workers.leads:
        hardened.save(out)
    return hardened
