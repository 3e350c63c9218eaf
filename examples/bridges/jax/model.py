"""A network written in JAX, and the same as a model that sparring attacks."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import sparring as sp

SIZES = {"conv": (3, 3, 1, 16), "hidden": (1024, 64), "out": (64, 10)}


def classify(weights, images):
    """Logits of images (N, H, W, C), as JAX people have them."""
    dims = ("NHWC", "HWIO", "NHWC")
    features = jax.lax.conv_general_dilated(images, weights["conv"], (1, 1), "SAME", dimension_numbers=dims)
    hidden = jax.nn.relu(features).reshape(len(images), -1) @ weights["hidden"]
    return jax.nn.relu(hidden) @ weights["out"]


def net():
    """What sparring.toml names: the function with the weights that make.py stored beside this file."""
    with np.load(Path(__file__).with_name("weights.npz")) as held:
        weights = {name: jnp.asarray(held[name]) for name in SIZES}
    return sp.bridges.from_jax(classify, weights)
