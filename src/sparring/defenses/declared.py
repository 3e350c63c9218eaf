"""From the plain values of `sparring.toml`'s [stack] to transforms, a policy, and a fitted stack."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

from torch import Tensor

from sparring.defenses.detectors import Detector, detector_from
from sparring.defenses.policy import Policy
from sparring.defenses.stack import Stack
from sparring.defenses.transforms import TRANSFORMS, Transform, parse
from sparring.errors import InputError, unknown
from sparring.model import Model
from sparring.threat import Threat


def transforms_from(declared: Sequence[Mapping[str, Any]]) -> tuple[Transform, ...]:
    """The transforms that `[{"kind": "jpeg", "quality": 75}]` names. Raises `InputError` for anything unknown."""
    return tuple(_transform(dict(entry)) for entry in declared)


def _transform(values: dict[str, Any]) -> Transform:
    name = values.pop("kind", None)
    if name not in TRANSFORMS:
        raise InputError(unknown("transform", name, list(TRANSFORMS)))
    kind = TRANSFORMS[name]
    fields, hints = {field.name for field in dataclasses.fields(kind)}, get_type_hints(kind)
    for key, value in values.items():
        if key not in fields:
            raise InputError(unknown(f"setting of {name}", key, sorted(fields)))
        if isinstance(value, str) and hints[key] is not str:
            return parse(f"{name}:" + ",".join(f"{k}={v}" for k, v in values.items()))  # fractions, "8/255"
    return kind(**values)


def policy_from(flagged: str, quorum: int, purifier: Sequence[str]) -> Policy:
    """The policy that [stack] declares."""
    return Policy(flagged=flagged, quorum=quorum, purifier=tuple(parse(text) for text in purifier))


@dataclass(frozen=True)
class Layers:
    """A declared stack before its detectors are fitted: transforms, detectors with false-positive rates, policy."""

    transforms: tuple[Transform, ...]
    detectors: tuple[tuple[Detector, float], ...]
    policy: Policy

    @classmethod
    def of(cls, declared: Mapping[str, Any]) -> Layers:
        """From the keys of [stack]. Raises `InputError` for unknown kinds and settings."""
        detectors = []
        for entry in declared.get("detectors", ()):
            values = dict(entry)
            fpr = values.pop("fpr", 0.05)
            if isinstance(fpr, bool) or not isinstance(fpr, (int, float)) or not 0 < fpr < 1:
                raise InputError(f"fpr of {values.get('kind')} must lie between 0 and 1, got {fpr!r}")
            detectors.append((detector_from(values), float(fpr)))
        policy = policy_from(declared.get("flagged", "reject"), declared.get("quorum", 1), declared.get("purifier", ()))
        return cls(transforms_from(declared.get("transforms", ())), tuple(detectors), policy)

    def fitted(
        self, model: Model, images: Tensor, labels: Tensor | None, threat: Threat | None, seed: int = 0
    ) -> tuple[Stack, float]:
        """The stack around `model` with its detectors fitted on clean `images`, and the seconds that took."""
        start = time.perf_counter()
        detectors = [
            detector.fit(model, images, fpr=fpr, labels=labels, threat=threat, seed=seed)
            for detector, fpr in self.detectors
        ]
        return Stack(model, self.transforms, detectors, self.policy), time.perf_counter() - start
