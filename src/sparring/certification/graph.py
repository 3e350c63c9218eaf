"""From a plain PyTorch model to layers that bounds can pass through; what they cannot is named."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparring.certification.layers import Input, Layer
from sparring.certification.readers import read
from sparring.certification.reading import Reading
from sparring.certification.tape import Ref, Step, record
from sparring.errors import UnsupportedError
from sparring.model import frozen_eval, logits_of

CHECKED = 3


@dataclass(frozen=True, eq=False)
class Graph:
    """What a model computes on images of `shape` (C, H, W), recorded once; the weights are read anew by `layers`."""

    steps: tuple[Step, ...]
    output: Ref

    def layers(self) -> list[Layer]:
        """The layers in order, the input first, the logits last. With gradients enabled they follow from the weights.

        Raises `UnsupportedError` that names what bounds cannot pass.
        """
        values: dict[int, Any] = {}
        places: dict[tuple[int, int | None], int] = {}
        layers: list[Layer] = []
        missing: dict[str, None] = {}
        for index, step in enumerate(self.steps):
            if step.live and index > self.output.index:
                continue
            if not step.live:
                values[index] = step.args[0] if step.call is None else _called(step, values)
                continue
            if step.call is None:
                layers.append(Input((), step.shape[1:], "the input"))
                places[index, None] = 0
                continue
            try:
                layers.append(read(Reading(step, values, places, layers)))
            except UnsupportedError as error:
                missing.setdefault(f"{error} in {step.where}")
                continue
            places[index, None] = places[index, 0] = len(layers) - 1
        if missing:
            raise UnsupportedError(
                f"no bounds for: {', '.join(missing)}. Supported: linear, 2-d convolution, batch norm in eval, ReLU, "
                "other common activations, average and max pooling, reshape, mean, add, subtract, scale by a constant, "
                'cat; method="smoothing" works for any model'
            )
        end = places.get((self.output.index, self.output.item))
        if end != len(layers) - 1:
            raise UnsupportedError("the logits are not the last thing that the model computes from its input")
        return layers


def trace(model: object, images: Tensor, *, bounds: tuple[float, float] = (0.0, 1.0), check: bool = True) -> Graph:
    """Record `model` on two images like `images` (N, C, H, W), and `check` the record against the model on others, some
    of them drawn from the box `bounds`.

    Raises `UnsupportedError` for what is no `nn.Module`, decides by values, or computes what bounds cannot pass.
    """
    if not isinstance(model, nn.Module):
        raise UnsupportedError(
            f"bounds need the model's code, an nn.Module, got {type(model).__name__}: "
            'method="smoothing" asks only for its answers'
        )
    refuse_stacks(model)
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise UnsupportedError(
            "bounds need the model's Python code, and TorchScript hides it: load the weights into the module that it "
            'was made from, or use method="smoothing"'
        )
    example = images[:1].detach().expand(2, *images.shape[1:]).contiguous()
    with frozen_eval(model):
        if check:
            with torch.no_grad():
                logits_of(model, example.clone())  # says what is wrong with other answers than logits
        steps, output = record(model, example)
        if output is None or not steps[output.index].live:
            raise UnsupportedError("the model's logits do not follow from its input by operations that can be followed")
        graph = Graph(tuple(steps), output)
        if check:
            _check(model, graph, images[:CHECKED], bounds)
    return graph


def refuse_stacks(model: object) -> None:
    """Raise `UnsupportedError` where a part of `model` is a stack of defenses."""
    parts = model.modules() if isinstance(model, nn.Module) else [model]
    if any(getattr(type(part), "is_stack", False) for part in parts):
        raise UnsupportedError("a certificate for a model does not cover a stack around it: certify the model alone")


def values(layers: list[Layer], images: Tensor) -> list[Tensor]:
    """What every layer computes on these images."""
    found: list[Tensor] = []
    for layer in layers:
        found.append(layer.value(*(found[i] for i in layer.inputs) if layer.inputs else (images,)))
    return found


@torch.no_grad()
def _check(model: nn.Module, graph: Graph, images: Tensor, bounds: tuple[float, float]) -> None:
    """The record and the model must agree on images that it was not made from, and on another number of them."""
    draws = torch.rand((CHECKED, *images.shape[1:]), generator=torch.Generator().manual_seed(0))
    probe = torch.cat([(bounds[0] + (bounds[1] - bounds[0]) * draws).to(images), images.detach()])
    ours, theirs = values(graph.layers(), probe)[-1], model(probe)
    scale, tolerance = float(theirs.abs().max().clamp_min(1e-12)), math.sqrt(torch.finfo(theirs.dtype).eps)
    if ours.shape != theirs.shape or not torch.allclose(ours, theirs, rtol=tolerance, atol=tolerance * scale):
        raise UnsupportedError(
            "the recorded model computes something else than the model: it depends on the batch, draws at random, or "
            "decides by the values of its input"
        )


def _called(step: Step, known: dict[int, Any]) -> Any:
    def filled(thing: Any) -> Any:
        if isinstance(thing, Ref):
            value = known[thing.index]
            return value if thing.item is None else value[thing.item]
        if isinstance(thing, (list, tuple)):
            return type(thing)(filled(part) for part in thing)
        return thing

    return step.call(*filled(step.args), **{key: filled(value) for key, value in step.kwargs.items()})
