"""Trains the network of model.py on scikit-learn's digits, in TensorFlow alone, and stores its weights."""

import numpy as np
import tensorflow as tf
from model import SIZES, classify

import sparring as sp


def make(path: str = "weights.npz", steps: int = 100, rate: float = 0.1) -> None:
    """Gradient descent with momentum on all images at once."""
    images, labels = sp.load_data("digits", split="train")
    x, y = tf.constant(images.permute(0, 2, 3, 1).numpy()), tf.constant(labels.numpy())
    rng = np.random.default_rng(0)
    weights = {
        name: tf.Variable(rng.normal(size=s) * np.prod(s[:-1]) ** -0.5, dtype="float32") for name, s in SIZES.items()
    }
    speed = {name: tf.Variable(tf.zeros_like(value)) for name, value in weights.items()}

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, classify(weights, x)))
        for name, gradient in tape.gradient(loss, weights).items():
            speed[name].assign(0.9 * speed[name] - rate * gradient)
            weights[name].assign_add(speed[name])

    for _ in range(steps):
        step()
    np.savez(path, **{name: value.numpy() for name, value in weights.items()})


if __name__ == "__main__":
    make()
