"""TensorFlow functions as models: traced once, with TensorFlow's own gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from sparring.bridges.through import Foreign, Pullback
from sparring.errors import InputError, MissingExtraError

LINE = 64
"""Bytes; what TensorFlow's kernels want memory to be aligned to."""


class TensorFlowModel(Foreign):
    """What `from_tensorflow` returns.

    One graph, traced once per image shape, holds the scores and their way back to the images. It is run in two halves
    that meet at a cut. (A tape around a `tf.function` would differentiate all of its weights as well.)
    """

    def __init__(self, function: Callable[[Any], Any], layout: str) -> None:
        super().__init__(layout)
        self._function = function
        self._halves: dict[tuple[int, ...], Halves] = {}

    def __deepcopy__(self, memo: Any) -> TensorFlowModel:
        """A copy calls the same function: TensorFlow's variables are not copied."""
        return TensorFlowModel(self._function, self.layout)

    def scores(self, images: Tensor) -> Tensor:
        """Logits (N, K)."""
        given = self._turned(images)
        return _to_torch(self._of(given).scores(_to_tensorflow(given)))

    def traced(self, images: Tensor) -> tuple[Tensor, Pullback]:
        """Logits, and the way back to `images`."""
        given = self._turned(images)
        halves = self._of(given)
        scores, *cut = halves.forward(_to_tensorflow(given))
        return _to_torch(scores), lambda grads: self._back(_to_torch(halves.backward(_to_tensorflow(grads), *cut)))

    def second(self, images: Tensor, grads: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
        """Exact second derivatives, by two tapes; rarely asked, so not compiled."""
        tensorflow = _library()
        parts = self._turned(images), grads, self._turned(direction)
        given, cotangent, along = (_to_tensorflow(part) for part in parts)
        with tensorflow.GradientTape(watch_accessed_variables=False) as outer:
            outer.watch([given, cotangent])
            with tensorflow.GradientTape(watch_accessed_variables=False) as inner:
                inner.watch(given)
                scores = self._function(given)
            back = inner.gradient(scores, given, output_gradients=cotangent)
        zero = tensorflow.UnconnectedGradients.ZERO
        found = outer.gradient(back, [given, cotangent], output_gradients=along, unconnected_gradients=zero)
        return self._back(_to_torch(found[0])), _to_torch(found[1])

    def _turned(self, images: Tensor) -> Tensor:
        """In the layout that the function takes. torch does it at a third of what it costs inside of the graph."""
        turns = self.layout == "NHWC" and images.dim() == 4
        return images.permute(0, 2, 3, 1).contiguous() if turns else images

    def _back(self, images: Tensor) -> Tensor:
        return images.permute(0, 3, 1, 2) if self.layout == "NHWC" and images.dim() == 4 else images

    def _of(self, images: Tensor) -> Halves:
        shape = tuple(images.shape[1:])
        if shape not in self._halves:
            self._halves[shape] = _halved(self._function, shape)
        return self._halves[shape]


@dataclass(frozen=True)
class Halves:
    """Images to scores; images to scores and the values at the cut; these and the scores' gradient to the images'."""

    scores: Callable[..., Any]
    forward: Callable[..., Any]
    backward: Callable[..., Any]


def _halved(function: Callable[[Any], Any], shape: tuple[int, ...]) -> Halves:
    tensorflow = _library()

    def whole(images: Any, grads: Any) -> tuple[Any, Any]:
        scores = tensorflow.convert_to_tensor(function(images))
        (back,) = tensorflow.gradients(scores, images, grad_ys=tensorflow.reshape(grads, tensorflow.shape(scores)))
        return scores, tensorflow.zeros_like(images) if back is None else back

    inputs = [tensorflow.TensorSpec([None, *shape]), tensorflow.TensorSpec([None, None])]
    graph = tensorflow.compat.v1.wrap_function(whole, inputs)
    (images, grads), (scores, back) = graph.inputs[:2], graph.outputs
    operations = graph.graph.get_operations()
    early, late = _after(images.op, operations), _after(grads.op, operations)
    used = (tensor for operation in operations if operation in late for tensor in operation.inputs)
    cut = list({tensor.ref(): tensor for tensor in used if tensor.op in early - late}.values())
    parts = ([images], scores), ([images], [scores, *cut]), ([grads, *cut], back)
    return Halves(*(_compiled(graph.prune(given, wanted), given) for given, wanted in parts))


def _compiled(function: Any, inputs: Iterable[Any]) -> Callable[..., Any]:
    """`function` optimised for such `inputs`, and called without looking at each of them again: of a deep net they are
    hundreds, and TensorFlow's look in Python then costs a seventh of the gradient.
    """
    tensorflow = _library()
    specs = [tensorflow.TensorSpec(tensor.shape, tensor.dtype) for tensor in inputs]
    ready = tensorflow.function(function).get_concrete_function(*specs)
    flat = getattr(ready, "_call_flat", None)  # not public; the public call does the same, slower
    return ready if flat is None else lambda *given: flat(list(given), ready.captured_inputs)


def _after(start: Any, operations: Iterable[Any]) -> set[Any]:
    """The operations that wait for `start`, whose values they use or not; `operations` in the order they were made."""
    found = {start}
    for operation in operations:
        if not found.isdisjoint([*(tensor.op for tensor in operation.inputs), *operation.control_inputs]):
            found.add(operation)
    return found


def from_tensorflow(function: Callable[[Any], Any], *, layout: str = "NHWC") -> TensorFlowModel:
    """A TensorFlow function of images to logits as a model of ours, with TensorFlow's gradients.

    function: called with images (N, H, W, C), or (N, C, H, W) for layout "NCHW"; a Keras model or a `tf.Module` with
    `__call__` will do. It is traced once per image shape, so what it does in Python happens then only.

    Raises `InputError` for what is not callable, `MissingExtraError` without the extra "tensorflow".
    """
    if not callable(function):
        raise InputError(f"function must be callable, images to logits, got {type(function).__name__}")
    return TensorFlowModel(function, layout)


def _library() -> ModuleType:
    try:
        import tensorflow
    except ImportError:
        raise MissingExtraError("a TensorFlow model", "tensorflow") from None
    return tensorflow  # type: ignore[no-any-return]


def _to_tensorflow(tensor: Tensor) -> Any:
    """Without a copy, unless the memory begins where TensorFlow ends the program: its kernels read whole lines, and
    arrays of numpy and slices often begin elsewhere.
    """
    aligned = tensor if tensor.data_ptr() % LINE == 0 else tensor.clone()
    capsule = torch.to_dlpack(aligned)  # type: ignore[attr-defined]
    return _library().experimental.dlpack.from_dlpack(capsule)


def _to_torch(value: Any) -> Tensor:
    shared: Tensor = torch.utils.dlpack.from_dlpack(_library().experimental.dlpack.to_dlpack(value))
    return shared
