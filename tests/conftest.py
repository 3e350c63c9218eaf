"""Fixtures for everything: one thread, and a small convolutional net trained on scikit-learn's digits."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import pytest
import torch
from tests.helpers_core import digits, small_net, train
from torch import Tensor, nn

torch.set_num_threads(1)
if find_spec("absl") is not None:  # Keras and JAX bring it; its handler closes the stream that it found, pytest's own
    from absl import logging as absl_logging

    absl_logging.get_absl_handler().python_handler.stream = sys.__stderr__


@pytest.fixture(scope="session")
def digits_data() -> tuple[Tensor, Tensor]:
    """Held-out digits: images (N, 1, 8, 8) in [0, 1] and their labels."""
    images, labels = digits()
    return images[1000:], labels[1000:]


@pytest.fixture(scope="session")
def digits_net() -> nn.Module:
    """A small net, about 97 % right on `digits_data`; don't change it."""
    images, labels = digits()
    return train(small_net(), images[:1000], labels[:1000])
