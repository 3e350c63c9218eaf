"""One re-audit: the stack that is served, attacked as its declaration says, and what came of every image."""

from __future__ import annotations

import hashlib
import json
import secrets
from pathlib import Path

import torch
from torch import Tensor

from sparring.auditing import audit
from sparring.defenses import Stack, evaluate_stack
from sparring.errors import ConfigError
from sparring.evaluation.evaluation import survived
from sparring.guard.events.store import Row, Store
from sparring.guard.events.tables import REAUDITS
from sparring.guard.reaudits.comparison import accepted, compared, empty
from sparring.loading import Dataset
from sparring.rng import digests
from sparring.threat import ThreatModel


def reaudited(
    stack: Stack,
    digest: str,
    data: Dataset,
    threat: ThreatModel,
    store: Store,
    *,
    images: int,
    effort: str,
    key: str = "",
    report: Path | None = None,
) -> Row:
    """Attack `stack`, compare with the re-audit that was accepted for the same task, store and return the row.

    images: so many of `data`, always the same ones. key: of the row that was claimed for it. report: where the audit's
    HTML goes, for a stack without detectors (one with detectors is attacked as a whole, which has no such report).
    """
    if not len(data.labels):
        raise ConfigError("[data] holds no images: there is nothing to audit the served stack on")
    rows = torch.randperm(len(data.labels), generator=torch.Generator().manual_seed(0))[:images].sort().values
    chosen = torch.cat([data.images[row : row + 1] for row in rows.tolist()])
    labels, names = data.labels[rows], [name.hex()[:16] for name in digests(chosen)]
    stood = dict(zip(names, _stood(stack, chosen, labels, threat, effort, report), strict=True))
    said = (
        f"{sorted(zip(names, labels.tolist(), strict=True))}|{threat.norm}|{threat.eps_text}|{threat.bounds}|{effort}"
    )
    task = hashlib.sha256(said.encode()).hexdigest()[:32]
    before = accepted(store, task)
    found = compared(stood, before)
    row = {
        **empty(key or f"{digest[:16]}-{secrets.token_hex(8)}", digest, "done"),
        "task": task,
        "stood": json.dumps(stood),
        "share": sum(stood.values()) / len(stood),
        "verdict": found.said,
        "worse": found.worse,
        "accepted": before is None,
    }
    with store.begin() as connection:
        store.put(REAUDITS, row, connection)
    return row


def _stood(
    stack: Stack, images: Tensor, labels: Tensor, threat: ThreatModel, effort: str, report: Path | None
) -> list[int]:
    """1 for each image that no attack turned; with detectors: turned, and answered all the same."""
    if stack.detectors:
        outcome = evaluate_stack(stack, images, labels, threat, effort=effort)
        return [int(record.adaptive < 0.5) for record in outcome.records]
    model = stack.as_model() if stack.transforms else stack.model
    found = audit(model, images, labels, threat, effort=effort, model_label="the served stack")
    if report is not None:
        found.save(report)
    return [int(survived(record)) for record in found.evaluation.records]
