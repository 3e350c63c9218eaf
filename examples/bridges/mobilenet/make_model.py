"""MobileNetV2 from keras.applications with random weights and its softmax head, saved as mobilenet.keras.

With `weights="imagenet"` (which downloads them) instead of None, every command of the tutorial stays the same. Random
weights give every picture the same answer unless the batch norms know what they normalise, so they see a few pictures.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import torch

import sparring as sp


def make(path: str = "mobilenet.keras", seed: int = 0) -> None:
    """Build, settle the batch norms on four photographs, save."""
    keras.utils.set_random_seed(seed)
    model = keras.applications.MobileNetV2(weights=None)
    photographs = torch.cat([sp.load_image(name, size=224) for name in ("chelsea", "coffee", "rocket", "astronaut")])
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0  # take the statistics of this one batch
    with torch.no_grad():
        model((photographs.permute(0, 2, 3, 1) - 0.5) / 0.5, training=True)
    kernel, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([20 * kernel, bias])  # as confident as a trained one
    model.save(path)


if __name__ == "__main__":
    make()
