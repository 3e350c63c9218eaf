"""An ONNX graph rebuilt in torch, so that it has gradients."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparring.bridges.onnx.graph import Graph, Node
from sparring.bridges.onnx.operators import OPERATORS
from sparring.errors import SparringError, UnsupportedError


class Rebuilt(nn.Module):
    """Images (N, C, H, W) to the graph's output; without a softmax at its end, if `open_ended`.

    Raises `UnsupportedError` that names every operator it does not know.
    """

    def __init__(self, graph: Graph, open_ended: bool = True) -> None:
        super().__init__()
        unknown = sorted({node.operator for node in graph.nodes if node.operator not in OPERATORS})
        if unknown:
            raise UnsupportedError(f"the operators {', '.join(unknown)} have no counterpart here")
        several = [node.operator for node in graph.nodes if len([o for o in node.outputs if o]) > 1]
        wanted = {name for node in graph.nodes for name in node.inputs} | {graph.output}
        if any(name in wanted for node in graph.nodes for name in node.outputs[1:]):
            raise UnsupportedError(f"operators with several outputs ({', '.join(sorted(set(several)))})")
        if graph.opset < 7:
            raise UnsupportedError(f"ONNX opset {graph.opset}; 7 and later are known")
        last = graph.last
        self.removed = last.operator if open_ended and last is not None and last.operator in ENDS else None
        self._nodes = tuple(node for node in graph.nodes if node is not last) if self.removed else graph.nodes
        self._output = last.inputs[0] if self.removed and last is not None else graph.output
        self._input, self._opset = graph.input, graph.opset
        self._places: dict[str, str] = {}
        for number, (name, tensor) in enumerate(graph.weights.items()):
            self._places[name] = f"weight_{number}"
            self.register_buffer(self._places[name], tensor)
        self._uses = _last_uses(self._nodes)
        self.batch = graph.shape[0]

    def extra_repr(self) -> str:
        """What the digest of the model must tell apart: the graph; its weights are buffers."""
        return " > ".join(f"{node.operator}({dict(node.attributes)!r})" for node in self._nodes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K); of a graph made for one batch size, piece by piece."""
        if self.batch is None or self.batch == len(images):
            return self._run(images)
        parts = torch.split(images, self.batch)
        missing = self.batch - len(parts[-1])
        filled = [*parts[:-1], torch.cat([parts[-1], parts[-1][:1].expand(missing, *images.shape[1:])])]
        return torch.cat([self._run(part) for part in filled])[: len(images)]

    def _run(self, images: Tensor) -> Tensor:
        known: dict[str, Tensor | None] = {name: getattr(self, place) for name, place in self._places.items()}
        known |= {self._input: images, "": None}
        for number, node in enumerate(self._nodes):
            inputs = [known[name] for name in node.inputs]
            while inputs and inputs[-1] is None:
                inputs.pop()
            try:
                known[node.outputs[0]] = OPERATORS[node.operator]({"opset": self._opset, **node.attributes}, *inputs)
            except SparringError:
                raise
            except (RuntimeError, TypeError, ValueError, KeyError, IndexError) as error:
                raise UnsupportedError(f"{node.operator} as it is used here ({error})") from error
            for name in self._uses.get(number, ()):
                if name != self._output:
                    known[name] = None
        output = known[self._output]
        if output is None:
            raise UnsupportedError("a graph whose output nothing gives")
        return output


ENDS = ("Softmax", "LogSoftmax")
"""Last operators that logits are read in front of."""


def _last_uses(nodes: tuple[Node, ...]) -> dict[int, list[str]]:
    """After which node a value is needed no more."""
    last = {name: number for number, node in enumerate(nodes) for name in (*node.inputs, *node.outputs) if name}
    uses: dict[int, list[str]] = {}
    for name, number in last.items():
        uses.setdefault(number, []).append(name)
    return uses


def differs(rebuilt: Tensor, original: Tensor) -> bool:
    """Are the rebuilt scores others than onnxruntime's, by more than rounding?"""
    if not bool(original.isfinite().all()):
        return True
    scale = float(original.abs().max().clamp_min(1e-6))
    return rebuilt.shape != original.shape or not torch.allclose(rebuilt, original, rtol=1e-3, atol=1e-4 * scale)
