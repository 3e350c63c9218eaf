"""A stack in a folder: `stack.json` and one file per fitted detector. The model is not in it; its digest is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sparring.defenses.detectors import load_detector
from sparring.defenses.policy import Policy
from sparring.defenses.stack import Stack
from sparring.defenses.transforms import parse
from sparring.errors import DataError, SparringError
from sparring.files import write_whole
from sparring.model import Model

SCHEMA = 1


def save_stack(stack: Stack, folder: str | Path) -> Path:
    """Write the stack to `folder`, `stack.json` last. Raises `InputError` where it can't."""
    folder = Path(folder)
    names = [f"detector{i}.safetensors" for i in range(len(stack.detectors))]
    for name, fitted in zip(names, stack.detectors, strict=True):
        fitted.save(folder / name)
    policy = stack.policy
    said: dict[str, Any] = {
        "schema": SCHEMA,
        "transforms": [str(transform) for transform in stack.transforms],
        "detectors": names,
        "policy": {"flagged": policy.flagged, "quorum": policy.quorum, "purifier": [str(t) for t in policy.purifier]},
    }
    write_whole(folder / "stack.json", (json.dumps(said, indent=2) + "\n").encode())
    return folder


def load_stack(folder: str | Path, model: Model) -> Stack:
    """Read a stack and put it around `model`.

    Raises `DataError` for a folder that holds none or a damaged one, `InputError` for a model that the detectors were
    not fitted to.
    """
    folder = Path(folder)
    file = folder / "stack.json"
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        schema, transforms = said["schema"], [parse(text) for text in said["transforms"]]
        given = said["policy"]
        policy = Policy(
            flagged=given["flagged"], quorum=given["quorum"], purifier=tuple(parse(text) for text in given["purifier"])
        )
        names = [str(name) for name in said["detectors"]]
    except OSError as error:
        raise DataError(f"there is no stack in {folder}: {error.strerror} (stack.json)") from error
    except (ValueError, KeyError, TypeError, AttributeError, SparringError) as error:
        raise DataError(f"{file} does not describe a stack: {error}; save it again") from error
    if schema != SCHEMA or any(Path(name).name != name for name in names):
        raise DataError(f"{file} was saved by another version of sparring or names files elsewhere; save it again")
    return Stack(model, transforms, [load_detector(folder / name) for name in names], policy)
