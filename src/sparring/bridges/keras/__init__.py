"""Keras 3 models, whatever their backend: in memory or from a .keras file."""

from sparring.bridges.keras.model import KerasModel, from_keras, open_keras

__all__ = ["KerasModel", "from_keras", "open_keras"]
