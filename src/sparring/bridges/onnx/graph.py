"""An ONNX file, read without trust: plain data, no path out of its folder, no operators of strangers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from sparring.errors import DataError, MissingExtraError, ModelError
from sparring.loading.limits import MAX_BYTES, MAX_PIXELS
from sparring.loading.paths import existing_file
from sparring.loading.reason import reason

DOMAINS = ("", "ai.onnx", "ai.onnx.ml")
ENDLESS = ("Loop", "Scan", "SequenceMap")
"""Nothing ends them before they are done, which the file decides; classifiers of images have none."""


@dataclass(frozen=True)
class Node:
    """One operator: its name, the names of what it reads and gives, its attributes as plain values."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Graph:
    """What the file says: nodes in order, weights by name, the input with its shape (None: any), the output."""

    path: Path
    nodes: tuple[Node, ...]
    weights: Mapping[str, Tensor]
    input: str
    shape: tuple[int | None, ...]
    output: str
    opset: int
    digest: str

    @property
    def last(self) -> Node | None:
        """The operator that gives the output."""
        return next((node for node in reversed(self.nodes) if self.output in node.outputs), None)


def library(name: str) -> ModuleType:
    """Onnx or onnxruntime. Raises `MissingExtraError` without it."""
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError:
        raise MissingExtraError("an ONNX model", "onnx") from None


def read_graph(path: Path) -> Graph:
    """The graph of an .onnx file. Raises `DataError` for a file that is broken, too large, or reaches outside of its
    folder, `ModelError` for a graph that is no classifier of images.
    """
    onnx = library("onnx")
    existing_file(path, "the ONNX file")
    _check_size(path, path.stat().st_size)
    content = path.read_bytes()
    try:
        model = onnx.load_model_from_string(content)
        graph = model.graph
        digest = hashlib.sha256(content)
        tensors = [*graph.initializer, *_inner_tensors(graph), *_sparse(graph.sparse_initializer)]
        for place in sorted({place for tensor in tensors for place in _places(tensor)}):
            digest.update(_beside(path, place).read_bytes())
        opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    except (DataError, ModelError):
        raise
    except Exception as error:  # the parser meets arbitrary bytes
        raise DataError(f"{path} is no ONNX file: {reason(error)}; copy or export it again") from error
    foreign = sorted({node.domain for node in _nodes(graph) if node.domain not in DOMAINS})
    if foreign or model.functions:
        raise ModelError(f"{path} uses operators of its own ({', '.join(foreign) or 'functions'}): export plain ONNX")
    endless = sorted({node.op_type for node in _nodes(graph) if node.op_type in ENDLESS})
    if endless:
        raise ModelError(f"{path} has loops ({', '.join(endless)}), which may run forever: export it without them")
    name, shape = _only_input(path, graph)
    if not graph.output:
        raise ModelError(f"{path} has no output")
    return Graph(
        path=path,
        nodes=tuple(_node(onnx, node) for node in graph.node),
        weights={tensor.name: _tensor(onnx, tensor, path) for tensor in graph.initializer},
        input=name,
        shape=shape,
        output=graph.output[0].name,
        opset=opset,
        digest=digest.hexdigest(),
    )


def _check_size(path: Path, size: int) -> None:
    if size > MAX_BYTES:
        raise DataError(f"{path} is {size} bytes; at most {MAX_BYTES} are read")


def _nodes(graph: Any) -> Iterator[Any]:
    """All nodes, also those of the bodies of loops and branches."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                yield from _nodes(body)


def _inner_tensors(graph: Any) -> Iterator[Any]:
    for node in _nodes(graph):
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            yield from _sparse([attribute.sparse_tensor, *attribute.sparse_tensors])
            for body in (attribute.g, *attribute.graphs):
                yield from (*body.initializer, *_sparse(body.sparse_initializer))


def _sparse(tensors: Iterable[Any]) -> Iterator[Any]:
    """The plain tensors that sparse ones are made of."""
    for tensor in tensors:
        yield from (tensor.values, tensor.indices)


def _places(tensor: Any) -> Sequence[str]:
    """Names of the files that hold a tensor's numbers outside of the ONNX file."""
    return [entry.value for entry in tensor.external_data if entry.key == "location"]


def _beside(path: Path, place: str) -> Path:
    """The file `place` in the folder of `path`, and nowhere else."""
    file = path.parent / place
    if "/" in place or "\\" in place or place in ("", ".", "..") or file.is_symlink():
        raise DataError(
            f"{path} keeps weights in {place!r}, which is not a plain file beside it: refused. Export the model into "
            "one file, or into files of one folder"
        )
    existing_file(file, "the weights file")
    _check_size(file, file.stat().st_size)
    return file


def _only_input(path: Path, graph: Any) -> tuple[str, tuple[int | None, ...]]:
    known = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in known]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise ModelError(f"{path} has the inputs {names}: a classifier takes one, images (N, C, H, W)")
    kind = inputs[0].type.tensor_type
    if kind.elem_type != 1:
        raise ModelError(f"{path} takes no float32 images; export it with float32 inputs")
    sides = tuple(side.dim_value if side.HasField("dim_value") else None for side in kind.shape.dim)
    if prod(side for side in sides if side is not None) > MAX_PIXELS or any(
        side is not None and side < 1 for side in sides
    ):
        raise ModelError(
            f"{path} takes inputs of the shape {sides}; at most {MAX_PIXELS} numbers are given to it at once"
        )
    return inputs[0].name, sides


def _node(onnx: ModuleType, node: Any) -> Node:
    values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    plain = {name: _plain(onnx, value) for name, value in values.items()}
    return Node(node.op_type, tuple(node.input), tuple(node.output), plain)


def _plain(onnx: ModuleType, value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, onnx.TensorProto) and not value.external_data:
        return torch.from_numpy(onnx.numpy_helper.to_array(value).copy())
    return list(value) if not isinstance(value, (int, float)) and hasattr(value, "__len__") else value


def _tensor(onnx: ModuleType, tensor: Any, path: Path) -> Tensor:
    try:
        array = onnx.numpy_helper.to_array(tensor, base_dir=str(path.parent))
        return torch.from_numpy(array.copy())
    except Exception as error:  # a tensor may lie about its shape, its type or its file
        raise DataError(f"{path}: the weight {tensor.name!r} cannot be read: {reason(error)}") from error
