"""A small diagnosis in every audit: why the model falls, on a few images, at a bounded cost."""

from __future__ import annotations

import torch
from torch import nn

from sparring.auditing.preflight import Preflight
from sparring.auditing.request import Request
from sparring.black_box import access_of
from sparring.diagnosis.diagnose import diagnose
from sparring.diagnosis.lipschitz import RIVALS
from sparring.diagnosis.result import Diagnosis
from sparring.diagnosis.taylor import DUAL
from sparring.diagnosis.work import forward_multiplications
from sparring.errors import SparringError
from sparring.model import device_of, hookable
from sparring.threat import ThreatModel

SAMPLE = 16
"""Images that are looked at, at most."""
WORK = 2e11
"""Multiplications that it may take, a few seconds on one core; a model too large for a single image gets none."""
PASSES, PER_CLASS = 750, 12
"""Forward passes that one image takes about, a backward pass being two; and those more per class."""


def diagnosed(request: Request, ready: Preflight) -> Diagnosis | None:
    """The diagnosis of a sample; None where there is none to be had: no gradients, a chosen class, random answers, a
    threat without a first-order picture, a plain function, a model too large.
    """
    threat, model = request.threat, request.model
    fitting = isinstance(threat, ThreatModel) and threat.norm in DUAL and threat.eps > 0 and request.targets is None
    shown = ready.differentiable and access_of(model) == "gradients"
    random = "random-outputs" in {f.code for f in ready.findings}
    if not SAMPLE or not fitting or not shown or random or not isinstance(model, nn.Module) or not hookable(model):
        return None
    first = request.images[0:1]
    work = forward_multiplications(model, first.to(device_of(model, first)))
    sample = min(SAMPLE, int(WORK // (work * (PASSES + PER_CLASS * min(RIVALS, ready.classes)))))
    if sample < 1:
        return None
    try:
        with torch.random.fork_rng(devices=[]):
            found = diagnose(
                model, request.images, request.labels, threat, sample=sample, landscapes=0, seed=request.seed
            )
    except (SparringError, RuntimeError):  # the audit's numbers do not hang on it
        return None
    return found.model_copy(update={"seconds": 0.0, "model": request.model_name})
