"""Records what a model computes: every tensor operation between the input and the logits, and where it stands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from sparring.errors import UnsupportedError

ASKS = ("aten._local_scalar_dense", "aten.is_nonzero", "aten.equal")
"""Operations that hand values to Python."""
LEAVES = (Tensor.numpy, Tensor.tolist, Tensor.__array__, Tensor.__dlpack__)
"""Those that no operation is seen of."""


@dataclass(frozen=True)
class Ref:
    """The result of step `index`, or its part `item` where it returns several."""

    index: int
    item: int | None = None


@dataclass(frozen=True, eq=False)
class Step:
    """One operation: its function, its arguments (`Ref` for what was computed before), the module it stands in, the
    shape of its result, and whether it follows from the input (else from weights alone).
    """

    call: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    where: str
    shape: tuple[int, ...]
    live: bool

    @property
    def name(self) -> str:
        """Such as "aten.relu"; the in-place form goes by the same name."""
        return str(self.call.overloadpacket).rstrip("_")


class Tape(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the steps between some tensors and what follows from them. A step's result keeps its tensor alive."""

    def __init__(self, weights: Iterator[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps: list[Step] = []
        self.where: list[str] = []
        self._known: dict[int, tuple[Ref, Tensor]] = {}
        self._written: set[int] = set()
        self._stale: list[tuple[Ref, Tensor]] = []  # kept alive, so that no other tensor takes their memory
        for weight in weights:
            self.leaf(weight, live=False)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Asked by torch; yes would import its compiler (two seconds) to keep it away from what no compiler sees."""
        return False

    def leaf(self, tensor: Tensor, *, live: bool) -> Ref:
        """A tensor that nothing computes: the input, or a weight."""
        ref = Ref(len(self.steps))
        self.steps.append(Step(None, (tensor,), {}, "", tuple(tensor.shape), live))
        self._known[id(tensor)] = (ref, tensor)
        return ref

    def found(self, tensor: object) -> Ref | None:
        """Where a tensor comes from; None for constants."""
        entry = self._known.get(id(tensor))
        return None if entry is None or entry[1] is not tensor else entry[0]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, and write it down if it has to do with the input or a weight."""
        kwargs = kwargs or {}
        given = (self._translated(args), {key: self._translated(value) for key, value in kwargs.items()})
        used = list(_refs((given[0], list(given[1].values()))))
        live = any(self.steps[ref.index].live for ref in used)
        if live and str(func.overloadpacket) in ASKS:
            raise self.asked(str(func.overloadpacket))
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise UnsupportedError(
                f"{self._place()} draws at random ({func.overloadpacket}): bounds need a model that always computes "
                "the same"
            )
        result = func(*args, **kwargs)
        if live and func._schema.is_mutable:
            self._overwritten(func, args)
        if used:
            self._note(func, given, result, live)
        return result

    def asked(self, operation: str) -> UnsupportedError:
        """What to raise where values leave for Python."""
        return UnsupportedError(
            f"{self._place()} decides by the values of its input ({operation}): bounds need a model that computes the "
            "same for every image"
        )

    def _overwritten(self, func: Any, args: tuple[Any, ...]) -> None:
        """Forget what else looks at the memory that `func` has written to: it is no longer what was recorded."""
        for slot, arg in zip(func._schema.arguments, args, strict=False):
            if isinstance(arg, Tensor) and slot.alias_info is not None and slot.alias_info.is_write:
                memory = _memory(arg)
                self._written.add(memory)
                self._stale += [entry for entry in self._known.values() if _memory(entry[1]) == memory]
                for _, tensor in self._stale:
                    self._known.pop(id(tensor), None)

    def _note(self, func: Any, given: tuple[Any, Any], result: Any, live: bool) -> None:
        parts = result if isinstance(result, (tuple, list)) else [result]
        first = next((part for part in parts if isinstance(part, Tensor)), None)
        if first is None:
            return
        index = len(self.steps)
        self.steps.append(Step(func, tuple(given[0]), given[1], self._place(), tuple(first.shape), live))
        for item, part in enumerate(parts):
            if isinstance(part, Tensor):
                ref = Ref(index, item if isinstance(result, (tuple, list)) else None)
                self._known[id(part)] = (ref, part)

    def _translated(self, thing: Any) -> Any:
        if isinstance(thing, Tensor):
            ref = self.found(thing)
            if ref is None and _memory(thing) in self._written:
                raise UnsupportedError(
                    f"{self._place()} reads what was changed in place through another view of it: make a copy there"
                )
            return ref or thing
        if isinstance(thing, (list, tuple)):
            return type(thing)(self._translated(part) for part in thing)
        return thing

    def _place(self) -> str:
        return self.where[-1] if self.where else "the model"


class _Leaving(TorchFunctionMode):
    """Sees values leave for Python without an operation."""

    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self.tape = tape

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the function, unless it takes values of something that follows from the input."""
        ref = self.tape.found(args[0]) if func in LEAVES and args else None
        if ref is not None and self.tape.steps[ref.index].live:
            raise self.tape.asked(f"Tensor.{func.__name__}")
        return func(*args, **(kwargs or {}))


def _memory(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _refs(thing: Any) -> Iterator[Ref]:
    if isinstance(thing, Ref):
        yield thing
    elif isinstance(thing, (list, tuple)):
        for part in thing:
            yield from _refs(part)


def record(model: nn.Module, example: Tensor) -> tuple[list[Step], Ref | None]:
    """The steps of one call of `model` on `example` (N, C, H, W) and where the logits come from (None: from nowhere
    that can be seen). The input is the last leaf among the steps.
    """
    tape = Tape(iter(model.parameters()))
    tape.leaf(example, live=True)
    with _named(model, tape), torch.no_grad(), _Leaving(tape), tape:
        output = model(example)
    return tape.steps, tape.found(output)


@contextmanager
def _named(model: nn.Module, tape: Tape) -> Iterator[None]:
    """While the model runs, the tape knows in which of its modules."""

    def enter(name: str) -> Any:
        return lambda *_: tape.where.append(name)

    hooks = []
    for name, module in model.named_modules():
        label = f"{name or 'the model'} ({type(module).__name__})"
        hooks.append(module.register_forward_pre_hook(enter(label)))
        hooks.append(module.register_forward_hook(lambda *_: tape.where.pop() and None))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
