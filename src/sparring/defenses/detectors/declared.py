"""A detector from the plain values that `sparring.toml` and saved files hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from sparring.defenses.detectors.base import Detector
from sparring.defenses.transforms import Transform, parse
from sparring.errors import InputError, unknown


def detector_from(declared: Mapping[str, Any]) -> Detector:
    """The detector that `{"kind": "feature_squeezing", "squeezers": ["bit_depth:bits=1", "median"]}` names.

    Raises `InputError` for an unknown kind or key and for values the detector refuses.
    """
    from sparring.defenses.detectors import DETECTORS

    values = dict(declared)
    name = values.pop("kind", None)
    if name not in DETECTORS:
        raise InputError(unknown("detector", name, list(DETECTORS)))
    kind = DETECTORS[name]
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key, value in values.items():
        if key not in fields:
            raise InputError(unknown(f"setting of {name}", key, list(fields)))
        if isinstance(value, (list, tuple)):
            transforms = "Transform" in str(fields[key].type)
            values[key] = tuple(parse(v) if transforms and not isinstance(v, Transform) else v for v in value)
    try:
        return kind(**values)
    except TypeError as error:
        raise InputError(f"{name}: {error}") from error
