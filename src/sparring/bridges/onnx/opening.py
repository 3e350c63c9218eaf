"""From an .onnx file to a model: with gradients where its graph can be rebuilt, else a black box."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from sparring.black_box import BlackBox
from sparring.bridges.onnx.graph import Graph, read_graph
from sparring.bridges.onnx.rebuilt import Rebuilt, differs
from sparring.bridges.onnx.scores import OnnxScores
from sparring.errors import InputError, ModelError, UnsupportedError

ANY = 32
"""Stands in for a side that the file leaves open."""


class OnnxModel(nn.Module):
    """What `open_onnx` returns: `inner`, and what is to be known of it."""

    attacked_only = True

    def __init__(self, inner: nn.Module, said: tuple[str, ...]) -> None:
        super().__init__()
        self.inner, self._said = inner, said

    def remarks(self) -> tuple[str, ...]:
        """How the file became a model."""
        return self._said

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K)."""
        output: Tensor = self.inner(images)
        return output


def open_onnx(path: str | Path, gradients: bool | None = None) -> OnnxModel:
    """The classifier in an .onnx file.

    gradients: True wants them or an `UnsupportedError` that names the operators in the way; False takes onnxruntime's
    scores; None tries. A rebuilt graph must give onnxruntime's scores on random images, else it is not used. A softmax
    at the end is removed (with gradients) or undone by a logarithm.

    Raises `DataError` for files that are broken or reach outside of their folder, `ModelError` for graphs that are no
    image classifier, `MissingExtraError` without the extra "onnx".
    """
    if gradients not in (None, True, False):
        raise InputError(f"gradients must be True, False or None, got {gradients!r}")
    graph = read_graph(Path(path))
    scores = OnnxScores(graph)
    probe = _probe(graph)
    known = scores(probe)
    if known.dim() != 2 or known.shape[1] < 1:
        raise ModelError(f"{path} gives the shape {tuple(known.shape)} for {len(probe)} images, expected (N, classes)")
    ending = f" Its last {graph.last.operator} was" if graph.last is not None and scores.inverted else ""
    if gradients is not False:
        try:
            rebuilt = _rebuilt(graph, probe, scores)
            said = f"{graph.path.name} was rebuilt in torch and gives onnxruntime's scores, so it has gradients."
            return OnnxModel(rebuilt, (said + (f"{ending} removed: logits are attacked." if ending else ""),))
        except UnsupportedError as error:
            if gradients:
                raise UnsupportedError(f"{path} has no gradients: {error}; gradients=False takes its scores") from error
            why = f"{graph.path.name} runs in onnxruntime and shows only scores: {error}."
    else:
        why = f"{graph.path.name} runs in onnxruntime and shows only scores, as asked."
    return OnnxModel(BlackBox(scores), (why + (f"{ending} undone by a logarithm." if ending else ""),))


def _probe(graph: Graph) -> Tensor:
    sides = [side or (ANY if place > 1 else 3 if place else 2) for place, side in enumerate(graph.shape)]
    if len(sides) < 2:
        raise ModelError(f"{graph.path} takes inputs of shape {graph.shape}, expected images (N, C, H, W)")
    return torch.rand(sides, generator=torch.Generator().manual_seed(0))


def _rebuilt(graph: Graph, probe: Tensor, scores: OnnxScores) -> Rebuilt:
    with torch.no_grad():
        whole = Rebuilt(graph, open_ended=False)(probe)
        original = scores(probe).exp() if scores.inverted else scores(probe)
        if differs(whole, original):
            raise UnsupportedError("the graph rebuilt in torch gives other scores than onnxruntime")
        rebuilt = Rebuilt(graph)
        logits = rebuilt(probe)
        batch, rebuilt.batch = rebuilt.batch, None  # it may take any number of images, whatever it declares
        try:
            free = not differs(rebuilt(torch.cat([probe, probe])), torch.cat([logits, logits]))
        except UnsupportedError:
            free = False
        rebuilt.batch = None if free else batch
    return rebuilt
