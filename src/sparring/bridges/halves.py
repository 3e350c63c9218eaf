"""A JAX function and its way back as two compiled programs, with as little as possible handed from one to the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

COSTLY = ("dot_general", "conv_general_dilated")
"""Their results are kept for the way back. Anything else is computed again there, which costs less than storing it."""


@dataclass(frozen=True)
class Halves:
    """`forward(parameters, images)` gives scores and what is kept; `backward(parameters, kept, grads)` the gradient of
    the images.
    """

    forward: Callable[[Any, Any], tuple[Any, list[Any]]]
    backward: Callable[[Any, list[Any], Any], Any]


def halved(run: Callable[[Any, Any], Any], parameters: Any, images: Any) -> Halves:
    """The halves of `run(parameters, images)`, for values of these shapes.

    A compiled program copies whatever it returns, so parameters and constants, which both halves know, stay out of
    what is kept.
    """
    import jax

    spared = jax.checkpoint(run, policy=lambda primitive, *_, **__: primitive.name in COSTLY)
    pieces: list[Any] = []  # of the way back, in order: where it stands among the parameters, a constant, or None

    def whole(parameters: Any, images: Any) -> tuple[Any, list[Any]]:
        scores, pullback = jax.vjp(lambda x: spared(parameters, x), images)
        own = {id(leaf): place for place, leaf in enumerate(jax.tree.leaves(parameters))}
        leaves, tree = jax.tree.flatten(pullback)
        given = [isinstance(leaf, jax.core.Tracer) for leaf in leaves]
        pieces[:] = [own.get(id(leaf)) if new else _Constant(leaf) for leaf, new in zip(leaves, given, strict=True)]
        trees[:] = [tree]
        return scores, [leaf for leaf, piece in zip(leaves, pieces, strict=True) if piece is None]

    trees: list[Any] = []
    program, shapes = jax.make_jaxpr(whole, return_shape=True)(parameters, images)
    unrounded = _unrounded(program)

    def forward(parameters: Any, images: Any) -> Any:
        found = unrounded(*jax.tree.leaves((parameters, images)))
        return jax.tree.unflatten(jax.tree.structure(shapes), found)

    def backward(parameters: Any, kept: list[Any], grads: Any) -> Any:
        own, rest = jax.tree.leaves(parameters), iter(kept)
        leaves = [
            next(rest) if piece is None else piece.value if isinstance(piece, _Constant) else own[piece]
            for piece in pieces
        ]
        return jax.tree.unflatten(trees[0], leaves)(grads)[0]

    return Halves(jax.jit(forward), jax.jit(backward))


@dataclass(frozen=True, eq=False)
class _Constant:
    value: Any


def _unrounded(program: Any) -> Callable[..., list[Any]]:
    """The traced `program` as a function, without its roundings of float32 to float32: JAX writes one behind every
    value that is kept, and each would be one more pass over it.
    """
    from jax.extend.core import jaxpr_as_fun

    same: dict[Any, Any] = {}
    steps = []
    for step in program.jaxpr.eqns:
        inputs = [same.get(of, of) if _is_variable(of) else of for of in step.invars]
        if _rounds_nothing(step):
            same[step.outvars[0]] = inputs[0]
        else:
            steps.append(step.replace(invars=inputs))
    outputs = [same.get(of, of) if _is_variable(of) else of for of in program.jaxpr.outvars]
    found: Callable[..., list[Any]] = jaxpr_as_fun(
        program.replace(jaxpr=program.jaxpr.replace(eqns=steps, outvars=outputs))
    )
    return found


def _is_variable(of: Any) -> bool:
    from jax.extend.core import Var

    return isinstance(of, Var)


def _rounds_nothing(step: Any) -> bool:
    if step.primitive.name != "reduce_precision" or str(step.invars[0].aval.dtype) != "float32":
        return False
    return (step.params["exponent_bits"], step.params["mantissa_bits"]) == (8, 23)
