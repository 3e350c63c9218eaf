"""Fixtures for everything: one thread, a small convolutional net trained on scikit-learn's digits, a browser."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

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


@pytest.fixture(scope="module")  # while it is open, no other event loop can run
def browser() -> Iterator[Any]:
    """Chromium, driven by Playwright; its camera is a moving test picture."""
    chromium = shutil.which("chromium")
    if chromium is None:
        reason = "chromium is missing: run scripts/system-packages.sh"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", *camera])
        yield opened
        opened.close()
