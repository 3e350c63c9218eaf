"""Trains the network of model.py on scikit-learn's digits, in JAX alone, and stores its weights."""

import jax
import jax.numpy as jnp
import numpy as np
from model import SIZES, classify

import sparring as sp


def make(path: str = "weights.npz", steps: int = 100, rate: float = 0.1) -> None:
    """Gradient descent with momentum on all images at once."""
    images, labels = sp.load_data("digits", split="train")
    x, y = jnp.asarray(images.permute(0, 2, 3, 1).numpy()), jnp.asarray(labels.numpy())
    rng = np.random.default_rng(0)
    weights = {name: jnp.asarray(rng.normal(size=s) * np.prod(s[:-1]) ** -0.5, "float32") for name, s in SIZES.items()}

    def loss(weights):
        return -jax.nn.log_softmax(classify(weights, x))[jnp.arange(len(y)), y].mean()

    @jax.jit
    def step(weights, speed):
        speed = jax.tree.map(lambda v, g: 0.9 * v - rate * g, speed, jax.grad(loss)(weights))
        return jax.tree.map(jnp.add, weights, speed), speed

    speed = jax.tree.map(jnp.zeros_like, weights)
    for _ in range(steps):
        weights, speed = step(weights, speed)
    np.savez(path, **{name: np.asarray(value) for name, value in weights.items()})


if __name__ == "__main__":
    make()
