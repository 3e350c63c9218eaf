"""ONNX files written node by node."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Writer:
    """Collects nodes, each of which reads the one before it, and weights."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.last = "images"

    def weight(self, value: Any, kind: Any = np.float32) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value, dtype=kind), name))
        return name

    def add(self, operator: str, *inputs: str, first: str | None = None, **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        reads = [self.last if first is None else first, *inputs]
        self.nodes.append(helper.make_node(operator, [r for r in reads if r != "none"], [name], **attributes))
        self.last = name
        return name

    def model(self, shape: Sequence[int | str], classes: int = 3, opset: int = 17) -> Any:
        images = helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)
        scores = helper.make_tensor_value_info(self.last, TensorProto.FLOAT, [shape[0], classes])
        graph = helper.make_graph(self.nodes, "net", [images], [scores], self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)

    def save(self, path: Path, shape: Sequence[int | str] = ("n", 1, 8, 8), **keys: Any) -> Path:
        onnx.save(self.model(shape, **keys), str(path))
        return path


def convolutional(path: Path, *, softmax: bool = False, batch: int | str = "n", fixed: bool = False) -> Path:
    """conv, batch norm, relu, max pool, residual conv, average pool, linear."""
    rng, w = np.random.default_rng(0), Writer()
    w.add("Conv", w.weight(rng.normal(size=(4, 1, 3, 3)) * 0.5), w.weight(rng.normal(size=4)), pads=[1, 1, 1, 1])
    w.add("BatchNormalization", *(w.weight(np.abs(rng.normal(size=4)) + 0.5) for _ in range(4)))
    w.add("Relu")
    kept = w.add("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    w.add("Conv", w.weight(rng.normal(size=(4, 2, 3, 3)) * 0.3), auto_pad="SAME_UPPER", group=2)
    w.add("Add", kept)
    w.add("LeakyRelu", alpha=0.2)
    w.add("AveragePool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    w.add("Reshape", w.weight([1 if fixed else 0, -1], np.int64))
    w.add("Gemm", w.weight(rng.normal(size=(3, 16))), w.weight(rng.normal(size=3)), transB=1)
    if softmax:
        w.add("Softmax", axis=-1)
    return w.save(path, (batch, 1, 8, 8))
