"""The Open Inference Protocol, version 2: JSON and binary tensors to images, answers to either."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparring.guard.engine import Engine, Shape
from sparring.guard.reading import json_of
from sparring.guard.refusal import RefusedError

HEADER = "inference-header-content-length"
TYPES: dict[str, np.dtype[Any]] = {
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "FP16": np.dtype("<f2"),
    "UINT8": np.dtype("u1"),
}


def metadata(engine: Engine, name: str, version: str, scores: bool) -> dict[str, Any]:
    """What `GET /v2/models/NAME` answers."""
    outputs = [
        {"name": "label", "datatype": "INT64", "shape": [-1]},
        {"name": "confidence", "datatype": "FP32", "shape": [-1]},
        {"name": "abstained", "datatype": "BOOL", "shape": [-1]},
    ]
    if scores:
        outputs.append({"name": "scores", "datatype": "FP32", "shape": [-1, engine.classes]})
    return {
        "name": name,
        "versions": [version],
        "platform": "sparring_guard",
        "inputs": [{"name": "images", "datatype": "FP32", "shape": [-1, *engine.shape]}],
        "outputs": outputs,
    }


def read(body: bytes, header_length: str | None, shape: Shape, most: int) -> tuple[Tensor, dict[str, Any]]:
    """Images (N, C, H, W) and the request's JSON. Raises `RefusedError` 400 for whatever breaks the protocol."""
    said, raw = _split(body, header_length)
    inputs = said.get("inputs") if isinstance(said, dict) else None
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise RefusedError(400, "tensor", "exactly one input is needed: the images")
    given: dict[str, Any] = inputs[0]
    kind, dims = given.get("datatype"), given.get("shape")
    if not isinstance(kind, str) or kind not in TYPES:
        raise RefusedError(400, "tensor", f"datatype must be one of {', '.join(TYPES)}")
    if not isinstance(dims, list) or not all(type(extent) is int for extent in dims) or tuple(dims[1:]) != shape:
        raise RefusedError(400, "tensor", f"shape must be [N, {', '.join(map(str, shape))}]")
    if not 1 <= dims[0] <= most:
        raise RefusedError(413 if dims[0] > most else 400, "images", f"send 1 to {most} images in one request")
    values = _values(given, raw, TYPES[kind], prod(dims)).reshape(dims)
    with np.errstate(all="ignore"):  # what overflows is refused below
        values = values.astype(np.float32)  # a copy: what was received cannot be written to
        if kind == "UINT8":
            values /= 255
    if not (values.min() >= 0 and values.max() <= 1):  # so for NaN, which is its own least and most
        raise RefusedError(400, "range", "images must be finite and lie in [0, 1]")
    return torch.from_numpy(values), said


def write(
    said: Mapping[str, Any], name: str, version: str, tensors: Mapping[str, np.ndarray], trace: str
) -> tuple[bytes, dict[str, str]]:
    """The answer's body and headers: JSON, or JSON with raw tensors behind it for outputs that asked for binary."""
    wanted = said.get("outputs")
    asked = {str(o.get("name")): o for o in wanted if isinstance(o, dict)} if isinstance(wanted, list) else {}
    unknown = [output for output in asked if output not in tensors]
    if unknown:
        raise RefusedError(400, "outputs", f"outputs are {', '.join(tensors)}")
    everything = _flag(said, "binary_data_output")
    outputs, raw = [], b""
    for output, values in tensors.items():
        if asked and output not in asked:
            continue
        entry: dict[str, Any] = {"name": output, "datatype": _named(values.dtype), "shape": list(values.shape)}
        if _flag(asked.get(output, {}), "binary_data", everything):
            data = np.ascontiguousarray(values).tobytes()
            entry["parameters"] = {"binary_data_size": len(data)}
            raw += data
        else:
            entry["data"] = values.ravel().tolist()
        outputs.append(entry)
    answer: dict[str, Any] = {"model_name": name, "model_version": version, "id": _id(said, trace), "outputs": outputs}
    text = json.dumps(answer).encode()
    if not raw:
        return text, {"Content-Type": "application/json"}
    return text + raw, {"Content-Type": "application/octet-stream", HEADER: str(len(text))}


def _split(body: bytes, header_length: str | None) -> tuple[Any, bytes]:
    if header_length is None:
        return json_of(body), b""
    if not header_length.isdecimal() or len(header_length) > 12 or int(header_length) > len(body):
        raise RefusedError(400, "tensor", "the header's length is not that of the JSON")
    end = int(header_length)
    return json_of(body[:end]), body[end:]


def _values(given: Mapping[str, Any], raw: bytes, kind: np.dtype[Any], count: int) -> np.ndarray:
    parameters = given.get("parameters")
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if size is not None:
        if size != len(raw) or len(raw) != count * kind.itemsize:
            raise RefusedError(400, "tensor", "the binary data is not as long as its shape and datatype say")
        return np.frombuffer(raw, dtype=kind)
    data = given.get("data")
    if raw or not isinstance(data, list):
        raise RefusedError(400, "tensor", "the input needs data, or binary data and its size")
    try:
        values = np.asarray(data, dtype=np.float64).ravel()
    except (ValueError, TypeError, OverflowError):
        raise RefusedError(400, "tensor", "data must be numbers, all rows of one length") from None
    if values.size != count:
        raise RefusedError(400, "tensor", "data is not as long as its shape says")
    if kind.kind == "u" and not bool(((values >= 0) & (values <= 255) & (values == np.rint(values))).all()):
        raise RefusedError(400, "range", "UINT8 data must be whole numbers from 0 to 255")
    return values


def _flag(holder: object, name: str, default: bool = False) -> bool:
    parameters = holder.get("parameters") if isinstance(holder, Mapping) else None
    value = parameters.get(name) if isinstance(parameters, dict) else None
    return value if isinstance(value, bool) else default


def _id(said: Mapping[str, Any], trace: str) -> str:
    given = said.get("id")
    return given if isinstance(given, str) and len(given) <= 128 else trace


def _named(kind: np.dtype[Any]) -> str:
    return {"int64": "INT64", "float32": "FP32", "bool": "BOOL"}[kind.name]
