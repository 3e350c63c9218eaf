"""What goes over the wire: pictures into requests, responses into scores or labels."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from sparring.bridges.http.declaration import Declaration
from sparring.errors import ConfigError, EndpointError, unknown

PLACEHOLDERS = ("{png}", "{data_url}", "{array}", "{array_hwc}", "{bytes_hwc}")
EXACT = ("{array}", "{array_hwc}")
"""Those that send float32; the others send whole grey levels, 0 to 255."""


@dataclass(frozen=True)
class Request:
    """A request as httpx takes it: path behind the declared url, and content, json or files."""

    url: str
    options: dict[str, Any]


def as_sent(declared: Declaration, pictures: np.ndarray) -> np.ndarray:
    """What of float32 `pictures` (N, C, H, W) reaches the other side: grey levels uint8, or the numbers themselves."""
    exact = declared.protocol == "v2" and declared.datatype == "FP32"
    if isinstance(declared.body, dict):
        exact = any(kind in repr(declared.body) for kind in EXACT)
    return pictures if exact else np.rint(pictures * 255).clip(0, 255).astype(np.uint8)


def request(declared: Declaration, pictures: np.ndarray) -> Request:
    """The request for pictures (N, C, H, W) as `as_sent` gave them."""
    url = declared.filled(declared.url)
    if declared.protocol == "v2":
        version = "" if declared.version is None else f"/versions/{declared.version}"
        url = f"{url.rstrip('/')}/v2/models/{declared.model}{version}/infer"
        data = pictures if declared.layout == "NCHW" else pictures.transpose(0, 2, 3, 1)
        tensor = {"name": declared.tensor, "shape": list(data.shape), "datatype": declared.datatype}
        return Request(url, {"json": {"inputs": [tensor | {"data": data.ravel().tolist()}]}})
    if declared.upload is not None:
        return Request(url, {"files": {declared.upload: ("picture.png", _png(pictures[0]), "image/png")}})
    if isinstance(declared.body, str):
        if declared.body != "{png}":
            raise ConfigError(f'a body of text must be "{{png}}", the bare file, got {declared.body!r}')
        return Request(url, {"content": _png(pictures[0]), "headers": {"content-type": "image/png"}})
    body = _filled(declared.body, pictures)
    return Request(url, {"json": body})


def holds_a_picture(template: object) -> bool:
    """Is there a placeholder anywhere in it?"""
    if isinstance(template, str):
        return any(kind in template for kind in PLACEHOLDERS)
    parts = template.values() if isinstance(template, Mapping) else template if isinstance(template, list) else ()
    return any(holds_a_picture(part) for part in parts)


def repeats(template: object) -> bool:
    """Is there a list of one placeholder, which is filled with one entry per picture?"""
    if isinstance(template, list) and len(template) == 1 and holds_a_picture(template[0]):
        return True
    parts = template.values() if isinstance(template, Mapping) else template if isinstance(template, list) else ()
    return any(repeats(part) for part in parts)


def _filled(template: Any, pictures: np.ndarray) -> Any:
    if isinstance(template, Mapping):
        return {key: _filled(value, pictures) for key, value in template.items()}
    if isinstance(template, list):
        if len(template) == 1 and holds_a_picture(template[0]):
            return [_filled(template[0], pictures[i : i + 1]) for i in range(len(pictures))]
        return [_filled(value, pictures) for value in template]
    if not isinstance(template, str) or not holds_a_picture(template):
        return template
    return _encoded(template, pictures[0])


def _encoded(text: str, picture: np.ndarray) -> Any:
    if text in EXACT or text == "{bytes_hwc}":
        return (picture if text == "{array}" else picture.transpose(1, 2, 0)).tolist()
    png = base64.b64encode(_png(picture)).decode()
    return text.replace("{data_url}", f"data:image/png;base64,{png}").replace("{png}", png)


def _png(picture: np.ndarray) -> bytes:
    """An 8-bit PNG of a picture (C, H, W), one channel or three."""
    if picture.shape[0] not in (1, 3):
        raise ConfigError(f"a PNG has 1 or 3 channels, the images have {picture.shape[0]}: send {{array}} instead")
    stream = io.BytesIO()
    Image.fromarray(picture[0] if len(picture) == 1 else picture.transpose(1, 2, 0)).save(stream, "png")
    return stream.getvalue()


def scores(declared: Declaration, reply: Any, n: int) -> np.ndarray:
    """Scores (n, K) or labels as (n, 1), float64, of a decoded reply. Raises `EndpointError` for another shape."""
    if declared.protocol == "v2":
        rows = _v2(declared, reply, n)
    else:
        found = _at(reply, declared.response.split(".") if declared.response else [], declared.response)
        rows = found if "*" in declared.response.split(".") else [found]
    if not isinstance(rows, list) or len(rows) != n:
        raise EndpointError(
            f"{declared.host} gave {len(rows) if isinstance(rows, list) else 'no list of'} answers to {n} pictures; "
            'for several pictures mark their place in the path, response = "predictions.*"'
        )
    one = _label if declared.answers == "label" else _row
    try:
        answers = np.array([one(declared, row) for row in rows], dtype=np.float64)
    except (TypeError, ValueError, OverflowError, AttributeError) as error:
        raise EndpointError(f"{declared.host} gave no numbers: {_short(rows[0])}") from error
    if answers.ndim != 2:
        raise EndpointError(f"{declared.host} gave scores of shape {answers.shape[1:]} per picture, expected a list")
    if answers.shape[1] < 2 and one is _row:
        raise EndpointError(
            f"{declared.host} gave {answers.shape[1]} scores per picture, {_short(rows[0])}: every class needs one"
        )
    return answers


def _v2(declared: Declaration, reply: Any, n: int) -> Any:
    output = _at(reply, ["outputs", "0"], "outputs.0")
    if declared.response:
        parts = [part for part in reply["outputs"] if isinstance(part, Mapping)]
        named = [part for part in parts if part.get("name") == declared.response]
        if not named:
            known = [str(part.get("name"))[:80] for part in parts]
            raise EndpointError(f"{declared.host}: {unknown('output', declared.response, known)}")
        output = named[0]
    try:
        data = np.asarray(_at(output, ["data"], "data"))
    except ValueError as error:
        raise EndpointError(f"{declared.host} gave rows of several lengths: {_short(output)}") from error
    return data.reshape(n, -1).tolist() if data.size and data.size % n == 0 else data.tolist()


def _at(found: Any, path: Sequence[str], whole: str) -> Any:
    for place, key in enumerate(path):
        if key == "*" and isinstance(found, list):
            return [_at(entry, path[place + 1 :], whole) for entry in found]
        try:
            found = found[int(key)] if isinstance(found, list) else found[key]
        except (KeyError, IndexError, TypeError, ValueError):
            there = ", ".join(map(str, found)) if isinstance(found, Mapping) else _short(found)
            raise EndpointError(f"the answer has no {whole!r}: at {key!r} there is {there}") from None
    return found


def _row(declared: Declaration, row: Any) -> list[float]:
    """Numbers in order; or by class name, a mapping or a list of entries with label and score."""
    if isinstance(row, list) and row and all(isinstance(part, Mapping) for part in row):
        row = {part.get("label"): part.get("score") for part in row}
    if isinstance(row, Mapping):
        if declared.names is None:
            raise EndpointError(f"{declared.host} answers by class name: declare names, in the order of your labels")
        missing = [name for name in declared.names if name not in row]
        if missing:
            raise EndpointError(
                f"{declared.host} left out {len(missing)} of {len(declared.names)} classes, such as {missing[0]!r}: "
                'where only the best are told, declare answers = "label"'
            )
        row = [row[name] for name in declared.names]
    if isinstance(row, str) or any(isinstance(value, bool) for value in row):
        raise TypeError
    numbers = [float(value) for value in row]
    if any(math.isnan(value) or value == math.inf for value in numbers):
        raise EndpointError(f"{declared.host} answered NaN or infinity: {_short(row)}")
    if declared.answers == "probabilities" and (min(numbers, default=0) < 0 or sum(numbers) == 0):
        raise EndpointError(f'{declared.host} answered no probabilities, declare answers = "scores": {_short(row)}')
    return numbers


def _label(declared: Declaration, found: Any) -> list[float]:
    if isinstance(found, list) and found and isinstance(found[0], Mapping):
        found = max(found, key=lambda part: float(part.get("score", 0))).get("label")
    if isinstance(found, list):
        found = found[0] if len(found) == 1 else int(np.argmax(found))
    if isinstance(found, str) and declared.names is not None:
        if found not in declared.names:
            raise EndpointError(f"{declared.host}: {unknown('class', found, list(declared.names))}")
        return [declared.names.index(found)]
    if isinstance(found, bool) or int(found) != float(found):
        raise TypeError
    label = int(found)
    if not 0 <= label < (declared.count or 0):
        raise EndpointError(f"{declared.host} answered label {_short(label)}, but there are {declared.count} classes")
    return [label]


def _short(found: object) -> str:
    text = repr(found)
    return text if len(text) <= 80 else text[:77] + "..."
