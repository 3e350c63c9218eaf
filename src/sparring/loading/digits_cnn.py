"""`digits-cnn`: a small convolutional network, trained on scikit-learn's digits on first use, then cached.

Plain training without any defense: it is accurate and fragile, which is what the demonstrations need.
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sparring.errors import InputError
from sparring.files import write_whole
from sparring.loading.cache import cache_folder

SHAPE = (1, 8, 8)


@dataclass(frozen=True)
class Recipe:
    """How the network is trained: Adam (Kingma & Ba 2015) with a cosine-decayed learning rate."""

    data: str = "digits, the 1000 training images"
    epochs: int = 20
    batch_size: int = 50
    learning_rate: float = 4e-3
    seed: int = 0


RECIPE = Recipe()


def digits_cnn() -> nn.Module:
    """The untrained network: images (N, 1, 8, 8) to logits (N, 10), 22 954 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    ).float()


def digits_cnn_weights() -> dict[str, Tensor]:
    """The trained weights: from the cache, else trained now (seconds on one core) and cached.

    A cache file that cannot be read is trained anew; a cache that cannot be written is a warning, not an error.
    """
    try:
        path = _cache_path()
        cached = _from_cache(path)
        if cached is not None:
            return cached
    except InputError as error:
        return _trained_uncached(error)
    weights = _trained()
    try:
        write_whole(path, save(weights))
    except InputError as error:
        _warn(error)
    return weights


def _cache_path() -> Path:
    """The name carries a digest of architecture and recipe: a changed one is trained anew."""
    identity = f"{_untouched_network()}|{RECIPE}".encode()
    return cache_folder() / f"digits-cnn-{hashlib.sha256(identity).hexdigest()[:16]}.safetensors"


def _from_cache(path: Path) -> dict[str, Tensor] | None:
    expected = {name: (tensor.shape, tensor.dtype) for name, tensor in _untouched_network().state_dict().items()}
    try:
        weights = load(path.read_bytes())
    except (OSError, SafetensorError):
        return None
    found = {name: (tensor.shape, tensor.dtype) for name, tensor in weights.items()}
    fine = found == expected and all(bool(tensor.isfinite().all()) for tensor in weights.values())
    return weights if fine else None


def _untouched_network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        return digits_cnn()


def _trained_uncached(error: InputError) -> dict[str, Tensor]:
    weights = _trained()
    _warn(error)
    return weights


def _warn(error: InputError) -> None:
    warnings.warn(f"digits-cnn was trained but not cached, the next run trains again: {error}", stacklevel=2)


def _trained() -> dict[str, Tensor]:
    """Train from the recipe. Global random state, thread count and gradient mode are as before, afterwards."""
    from sparring.loading.data import load_data

    images, labels = load_data("digits", split="train", lazy=False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # one core, so that sums are made in one order
    try:
        with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
            torch.manual_seed(RECIPE.seed)
            network = digits_cnn()
            _fit(network, images[:].clone(), labels.clone())
    finally:
        torch.set_num_threads(threads)
    return {name: tensor.detach() for name, tensor in network.state_dict().items()}


def _fit(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    optimizer = torch.optim.Adam(network.parameters(), lr=RECIPE.learning_rate)
    steps = RECIPE.epochs * -(-len(images) // RECIPE.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(RECIPE.epochs):
        for batch in torch.split(torch.randperm(len(images)), RECIPE.batch_size):
            loss = cross_entropy(network(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
