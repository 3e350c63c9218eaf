"""All rounds of `sparring guard spar`: which images are worth attacking, and every attack on them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparring.errors import InputError, UnsupportedError
from sparring.guard.events.store import Store
from sparring.guard.spar.calm import false_alarms
from sparring.guard.spar.session import KINDS, Bout, Ring, spar, summary
from sparring.model import Model, frozen_eval, logits_of
from sparring.threat import ThreatModel

BENIGN = "benign"
Result = dict[str, tuple[dict[str, float | int | None], list[Bout]]]


def rounds(
    model: Model,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    *,
    url: str,
    attacks: Sequence[str] = (),
    queries: int = 300,
    seconds: float = 60.0,
    token: str = "",
    store: Store | None = None,
) -> Result:
    """One session per image and attack, of the images that `model` classifies rightly; the others are the cover of the
    careful attacker. "benign": as many sessions without an attack, from `images`. Raises `UnsupportedError` for another
    norm than linf.
    """
    if threat.norm != "linf":
        raise UnsupportedError(f"sparring works in linf, not in {threat.norm}: give --norm linf")
    with frozen_eval(model), torch.no_grad():
        logits = logits_of(model, images)
    right = logits.argmax(1) == labels
    if not bool(right.any()):
        raise InputError("the model is wrong on every image: there is nothing to attack")
    ring = Ring(url, logits.shape[1], threat.eps, queries, seconds, token)
    found: Result = {}
    for number, kind in enumerate(attacks or (*KINDS, BENIGN)):
        first = number * len(labels)
        if kind == BENIGN:
            found[kind] = (false_alarms(ring, images, store, sessions=int(right.sum()), first=first), [])
            continue
        bouts = spar(ring, kind, images[right], labels[right], store, cover=images, first=first)
        found[kind] = (summary(bouts), bouts)
    return found
