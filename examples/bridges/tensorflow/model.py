"""A network written in TensorFlow, and the same as a model that sparring attacks."""

from pathlib import Path

import numpy as np
import tensorflow as tf

import sparring as sp

SIZES = {"conv": (3, 3, 1, 16), "hidden": (1024, 64), "out": (64, 10)}


def classify(weights, images):
    """Logits of images (N, H, W, C), as TensorFlow people have them."""
    features = tf.nn.relu(tf.nn.conv2d(images, weights["conv"], 1, "SAME"))
    hidden = tf.nn.relu(tf.reshape(features, (-1, SIZES["hidden"][0])) @ weights["hidden"])
    return hidden @ weights["out"]


def net():
    """What sparring.toml names: the function with the weights that make.py stored beside this file."""
    with np.load(Path(__file__).with_name("weights.npz")) as held:
        weights = {name: tf.Variable(held[name]) for name in SIZES}
    return sp.bridges.from_tensorflow(lambda images: classify(weights, images))
