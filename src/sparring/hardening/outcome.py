"""What comes out of a training run: the model, its history, the card and the pictures."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as packed
from torch import Tensor, nn

from sparring.evaluation.task import Subset
from sparring.files import write_whole
from sparring.hardening.card import ModelCard
from sparring.hardening.data import Images
from sparring.hardening.draws import seed_of
from sparring.hardening.evidence import LOOKED_AT, Audit, audited, bent, in_other_norms, loss_gradients
from sparring.hardening.history import Epoch, as_csv
from sparring.hardening.job import Job
from sparring.hardening.methods import Clean
from sparring.hardening.modules import plain_state
from sparring.hardening.pictures import SHOWN, gradient_picture, history_picture
from sparring.hardening.step import Stepper
from sparring.hardening.trainer import Trainer
from sparring.model import model_name

AUDITED = 1000
"""Images that the final audit attacks, at most."""


@dataclass(frozen=True, eq=False)
class Hardened:
    """The hardened model with its evidence: `history` epoch by epoch, `card` for the archive, pictures as PNG bytes."""

    model: nn.Module
    history: tuple[Epoch, ...]
    card: ModelCard
    pictures: dict[str, bytes]

    def save(self, folder: str | Path) -> Path:
        """Write model.safetensors, card.md, card.json, history.csv and the pictures; returns the folder.

        `sp.load_model("package.module:factory", weights=folder / "model.safetensors")` loads the weights.
        """
        place = Path(folder)
        write_weights(place, self.model)
        write_whole(place / "card.md", self.card.to_markdown().encode())
        write_whole(place / "card.json", self.card.to_json().encode())
        write_whole(place / "history.csv", as_csv(self.history).encode())
        for name, content in self.pictures.items():
            write_whole(place / f"{name}.png", content)
        return place


def write_weights(place: Path, model: nn.Module) -> None:
    """The weights, for `sp.load_model(..., weights=place / "model.safetensors")`."""
    write_whole(place / "model.safetensors", packed(plain_state(model)))


def with_evidence(job: Job, trainer: Trainer, test: tuple[Images, Tensor] | None, effort: str | None) -> Hardened:
    """The best epoch's model, measured beside the given one; `effort` None leaves the measurements out.

    The weights are written first, and the audit keeps its records: neither is lost where the measuring is interrupted.
    """
    cost = _cost(job, trainer)
    model = job.handed_back(trainer.finish())
    if job.out is not None and job.workers.leads:
        write_weights(job.out, model)
    before = copy.deepcopy(job.given).to(job.workers.device).eval()
    images, labels = _tested(job, test)
    few = images[0 : min(LOOKED_AT, len(images))].to(job.workers.device)
    known = labels[: len(few)].to(job.workers.device)
    audits: list[Audit | None] = [None, None]
    if effort is not None:
        records = None if job.out is None else job.out / "audit"
        audits = [audited(m, images, labels, job.threat, effort, job.seed, records) for m in (before, model)]
    inside = effort is not None
    shown = few[:SHOWN], known[:SHOWN]
    pictures = {
        "history": history_picture(trainer.history),
        "gradients": gradient_picture(
            shown[0], loss_gradients(before, *shown), loss_gradients(model, *shown), job.threat.bounds
        ),
    }
    spent = sum(epoch.seconds + epoch.watch_seconds for epoch in trainer.history)
    card = ModelCard(
        **_facts(job, trainer, model, len(labels), None if test is None else len(test[1])),
        hours=max(spent, 0.0) / 3600,
        cost=cost,
        before=audits[0],
        after=audits[1],
        bend_before=bent(before, few, known, job.threat) if inside else None,
        bend_after=bent(model, few, known, job.threat) if inside else None,
        other_norms=tuple(in_other_norms(before, model, few, known, job.threat, job.seed)) if inside else (),
    )
    return Hardened(model, tuple(trainer.history), card, pictures)


def _facts(job: Job, trainer: Trainer, model: nn.Module, tested: int, given: int | None) -> dict[str, Any]:
    from sparring import __version__

    weights = hashlib.sha256(packed(plain_state(model))).hexdigest()
    shape = tuple(job.split.images[0:1].shape[1:])
    all_of = len(job.split.validation) if given is None else given
    drawn = f"{tested} of {all_of}, drawn at random," if tested < all_of else f"{tested}"
    where = f"{drawn} {'validation images (they also chose the best epoch)' if given is None else 'test images'}"
    box = "" if job.threat.bounds == (0.0, 1.0) else f" in {job.threat.bounds}"
    return {
        "model": model_name(job.given),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "weights": weights,
        "threat": job.threat.key(),
        "threat_text": f"{job.threat.norm} eps {job.threat.eps_text}{box}",
        "method": str(job.method),
        "final_method": str(trainer.method),
        "paper": job.method.paper,
        "recipe": job.recipe.told(),
        "seed": job.seed,
        "data": {
            "digest": job.digest,
            "shape": list(shape),
            "train": len(job.split.train),
            "validation": len(job.split.validation),
            "watched": len(job.split.watched),
            "tested_on": where,
        },
        "best_epoch": trainer.best.step // trainer.per_epoch,
        "history": tuple(trainer.history),
        "changes": tuple(e.note for e in trainer.history if "back to epoch" in e.note),
        "versions": {"sparring": __version__, "torch": torch.__version__},
    }


def _tested(job: Job, test: tuple[Images, Tensor] | None) -> tuple[Images, Tensor]:
    """At most `AUDITED` images in a random order: those of a folder come class by class."""
    images, labels = (job.split.images, job.split.labels) if test is None else (test[0], test[1].cpu())
    rows = job.split.validation if test is None else torch.arange(len(labels))
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed_of(job.seed, "audit")))
    rows = rows[order[:AUDITED]]
    return images[rows] if isinstance(images, Tensor) else Subset(images, rows.tolist()), labels[rows]


def _cost(job: Job, trainer: Trainer, repeats: int = 3) -> float:
    """Seconds of an epoch over those of a normal one, from medians of alternating steps on a copy of the model."""
    module = copy.deepcopy(trainer.module)
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    rows = job.split.train[: trainer.per_step * trainer.method.copies]
    images, labels = (part.to(job.workers.device) for part in job.split.read(rows))
    stepper = Stepper(module.train(), module, job.workers, job.threat, job.seed, trainer.stepper.standard)
    ticks: dict[bool, list[float]] = {True: [], False: []}
    plain = dataclasses.replace(job.recipe, awp=0.0, grad_align=0.0, hat=0.0)
    for turn in range(2 * (repeats + 1)):
        normal = turn % 2 == 0
        method, recipe = (Clean(), plain) if normal else (trainer.method, trainer.recipe)
        pieces = method.copies
        started = _now(job.workers.device)
        for x, y in zip(images.chunk(pieces), labels.chunk(pieces), strict=True):
            stepper.gradients(method, recipe, x, y, turn, 1.0)
        for parameter in parameters:
            parameter.grad = None
        ticks[normal].append(_now(job.workers.device) - started)
    return statistics.median(ticks[False][1:]) / max(statistics.median(ticks[True][1:]), 1e-9)


def _now(device: torch.device) -> float:
    """Seconds of a clock, once the device has done what it was given: a GPU only queues it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
