"""JAX functions as models: JAX's own gradients, no copies where none are needed, few compilations."""

from __future__ import annotations

import copy
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import sparring as sp
from sparring.bridges import from_jax
from sparring.bridges.halves import halved
from sparring.bridges.jax import SMALL, _to_jax, _to_torch, padded_size
from sparring.diagnosis.taylor import curvature_along
from sparring.errors import InputError, UnsupportedError

CALLS: list[int] = []


def parameters() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    sizes = {"conv": (3, 3, 1, 4), "hidden": (256, 16), "out": (16, 10)}
    return {name: jnp.asarray(rng.normal(size=size) / size[0] ** 0.5, jnp.float32) for name, size in sizes.items()}


def net(weights: dict[str, Any], images: Any) -> Any:
    CALLS.append(images.shape[0])  # runs while JAX traces, once per compiled shape
    dims = ("NHWC", "HWIO", "NHWC")
    features = jax.lax.conv_general_dilated(images, weights["conv"], (1, 1), "SAME", dimension_numbers=dims)
    hidden = jnp.tanh(jax.nn.relu(features).reshape(images.shape[0], -1) @ weights["hidden"])
    return 4 * hidden @ weights["out"]


def by_hand(weights: dict[str, Any], x: np.ndarray, labels: np.ndarray, eps: float) -> Any:
    """FGSM as one writes it in JAX."""

    def loss(images: Any) -> Any:
        return -jax.nn.log_softmax(net(weights, images))[jnp.arange(len(labels)), labels].sum()

    return jnp.clip(x + eps * jnp.sign(jax.grad(loss)(x)), 0, 1)


def images(n: int) -> torch.Tensor:
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def test_fgsm_equals_fgsm_written_in_jax() -> None:
    weights, x = parameters(), images(512)
    model = from_jax(net, weights)
    labels = model(x).argmax(1)
    found = sp.attacks.FGSM()(model, x, sp.Untargeted(labels), sp.ThreatModel("linf", 0.03))
    hwc = x.permute(0, 2, 3, 1).numpy()
    own = by_hand(weights, hwc, labels.numpy(), 0.03)
    theirs, ours = (np.asarray(net(weights, p)).argmax(1) for p in (own, found.permute(0, 2, 3, 1).numpy()))
    assert (theirs == ours).mean() >= 0.999
    assert 0.1 < (theirs != labels.numpy()).mean() < 1
    assert np.abs(np.asarray(own) - found.permute(0, 2, 3, 1).numpy()).max() < 1e-6


def test_logits_and_gradients_are_exact_in_every_layout_and_dtype() -> None:
    weights = parameters()
    nhwc = from_jax(net, weights)
    nchw = from_jax(lambda w, x: net(w, x.transpose(0, 2, 3, 1)), weights, layout="NCHW")
    x = images(5).double().requires_grad_()
    ones, others = nhwc(x), nchw(x)
    assert ones.dtype == torch.float64
    assert torch.allclose(ones, others)
    (a,), (b,) = (torch.autograd.grad(z.square().sum(), x) for z in (ones, others))
    assert torch.allclose(a, b, atol=1e-5)
    strided = x.detach().float().contiguous(memory_format=torch.channels_last)
    assert torch.allclose(nhwc(strided).double(), ones, atol=1e-5)


def test_shrinking_batches_compile_a_few_times_only() -> None:
    model = from_jax(net, parameters())
    CALLS.clear()
    for n in range(8, 0, -1):
        assert model(images(n)).shape == (n, 10)
    assert len(CALLS) <= 6
    assert {padded_size(n) for n in range(1, 9)} == set(CALLS)
    x = images(5)
    assert torch.allclose(model(x), torch.cat([model(one[None]) for one in x]), atol=1e-5)


def test_what_both_halves_know_is_not_handed_over() -> None:
    """A compiled program copies what it returns: results of convolutions and products go, weights stay."""
    weights, x = parameters(), images(4).permute(0, 2, 3, 1).numpy()
    halves = halved(net, weights, x)
    scores, kept = halves.forward(weights, x)
    assert sorted(value.shape for value in kept) == [(4, 8, 8, 4), (4, 16)]
    assert "reduce_precision" not in str(jax.make_jaxpr(halves.forward)(weights, x))
    known = jax.vjp(lambda z: net(weights, z), x)[1](scores)[0]
    assert np.allclose(halves.backward(weights, kept, scores), known, atol=1e-5)
    doubled = {name: 2 * value for name, value in weights.items()}
    scores, kept = halves.forward(doubled, x)
    known = jax.vjp(lambda z: net(doubled, z), x)[1](scores)[0]
    assert np.allclose(halves.backward(doubled, kept, scores), known, rtol=1e-4, atol=1e-4)
    alone = halved(lambda _, z: net(weights, z), None, x)
    assert len(alone.forward(None, x)[1]) == 2, "weights the function holds itself are known too"


@pytest.mark.parametrize("kind", ["relu", "pool", "norm", "scan", "bfloat16"])
def test_gradients_of_every_kind_of_layer(kind: str) -> None:
    w = jnp.asarray(np.random.default_rng(0).normal(size=(64, 64)), jnp.float32)

    def layer(x: Any) -> Any:
        if kind == "pool":
            return jax.lax.reduce_window(x.reshape(-1, 8, 8), -jnp.inf, jax.lax.max, (1, 2, 2), (1, 1, 1), "SAME")
        if kind == "norm":
            return (x - x.mean(1, keepdims=True)) / jnp.sqrt(x.var(1, keepdims=True) + 1e-3)
        if kind == "scan":
            return jax.lax.scan(lambda h, _: (jnp.tanh(h @ w / 8), None), x, None, length=3)[0]
        if kind == "bfloat16":
            return (jnp.tanh(x.astype(jnp.bfloat16)) @ w.astype(jnp.bfloat16)).astype(jnp.float32)
        return jax.nn.relu(x @ w)

    def function(x: Any) -> Any:
        return jnp.sin(layer(x.reshape(x.shape[0], -1)).reshape(x.shape[0], -1))

    model, x = from_jax(function, layout="NCHW"), images(4)
    z = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(model(z).sum(), z)
    known = np.asarray(jax.grad(lambda x: function(x).sum())(jnp.asarray(x.numpy())))
    rounding = 1e-2 if kind == "bfloat16" else 1e-4
    assert np.allclose(grad.numpy(), known, atol=rounding * np.abs(known).max())
    assert np.abs(known).max() > 0


def test_memory_is_shared_where_it_can_be() -> None:
    tensor = torch.rand(4, 8, 8, 1)
    assert _to_jax(tensor).__array_interface__["data"][0] == tensor.data_ptr()
    array = jnp.ones(SMALL)
    assert _to_torch(array).data_ptr() == array.unsafe_buffer_pointer()


def test_a_change_of_the_images_after_the_forward_pass_does_not_change_the_gradient() -> None:
    """Attacks change their points in place; what is kept for the way back must not follow."""
    model, x = from_jax(lambda images: (images**3).reshape(images.shape[0], -1)), images(2)
    z = x.clone().requires_grad_()
    scores = model(z)
    with torch.no_grad():
        z.zero_()
    (grad,) = torch.autograd.grad(scores.sum(), z)
    assert torch.allclose(grad, 3 * x**2, atol=1e-6)


def test_images_are_not_changed_and_a_copy_works() -> None:
    model, x = from_jax(net, parameters()), images(3)
    before = x.clone()
    x.requires_grad_()
    model(x).sum().backward()
    assert x.equal(before)
    assert copy.deepcopy(model)(before).equal(model(before))


def test_an_audit_works_and_tells_two_models_apart() -> None:
    model, x = from_jax(net, parameters()), images(32)
    labels = model(x).argmax(1)
    evaluation = sp.evaluate(model, x, labels, sp.ThreatModel("linf", 0.02), attacks=["pgd:steps=3"])
    assert evaluation.robust_accuracy < 1
    scaled = from_jax(lambda x: 2 * net(parameters(), x))
    digests = {sp.model.model_digest(m, (1, 8, 8)) for m in (model, scaled, from_jax(net, parameters()))}
    assert len(digests) == 2


def test_what_is_no_function_is_refused() -> None:
    with pytest.raises(InputError, match="callable"):
        from_jax(3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="layout"):
        from_jax(net, parameters(), layout="HWC")
    with pytest.raises(UnsupportedError, match="not of weights"):
        sp.harden(from_jax(net), (images(4), torch.zeros(4).long()), sp.ThreatModel("linf", 0.1), method="fast")


def test_second_derivatives_come_through() -> None:
    """Curvature of the loss, beside the same network in torch."""
    weight = torch.randn(64, 10, generator=torch.Generator().manual_seed(0))
    model = from_jax(lambda w, x: jnp.tanh(x.reshape(x.shape[0], -1) @ w), jnp.asarray(weight.numpy()))
    own = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10, bias=False), torch.nn.Tanh())
    own[1].weight.data = weight.T.contiguous()
    x, direction = images(5), images(10)[5:]
    labels = own(x).argmax(1)
    ours, theirs = (curvature_along(m, x, labels, "cross_entropy", direction) for m in (model, own))
    assert torch.allclose(ours, theirs, atol=1e-4 * float(theirs.abs().max()))
    assert theirs.abs().min() > 0
