"""Transforms in front of a model: one file each, and the table that text, tests and documentation read."""

from sparring.defenses.transforms.base import Transform
from sparring.defenses.transforms.bit_depth import BitDepth
from sparring.defenses.transforms.chain import Chain
from sparring.defenses.transforms.colour8 import Colour8
from sparring.defenses.transforms.gaussian_blur import GaussianBlur
from sparring.defenses.transforms.jpeg import JPEG
from sparring.defenses.transforms.median import Median
from sparring.defenses.transforms.noise import Noise
from sparring.defenses.transforms.non_local_means import NonLocalMeans
from sparring.defenses.transforms.resize_back import ResizeBack
from sparring.defenses.transforms.resize_pad import ResizePad
from sparring.defenses.transforms.spec import format_transform, parse_transform
from sparring.defenses.transforms.total_variation import TotalVariation

TRANSFORMS: dict[str, type[Transform]] = {
    "jpeg": JPEG,
    "gaussian_blur": GaussianBlur,
    "median": Median,
    "bit_depth": BitDepth,
    "colour8": Colour8,
    "resize_pad": ResizePad,
    "resize_back": ResizeBack,
    "noise": Noise,
    "total_variation": TotalVariation,
    "non_local_means": NonLocalMeans,
}
"""Name to class. A new transform is one new file and one line here."""


def parse(text: str) -> Transform:
    """A transform from its text form, `jpeg:quality=75`, or a chain, `bit_depth:bits=3+median`.

    >>> parse("jpeg:quality=40").quality
    40
    """
    return parse_transform(text, TRANSFORMS)


__all__ = [
    "JPEG",
    "TRANSFORMS",
    "BitDepth",
    "Chain",
    "Colour8",
    "GaussianBlur",
    "Median",
    "Noise",
    "NonLocalMeans",
    "ResizeBack",
    "ResizePad",
    "TotalVariation",
    "Transform",
    "format_transform",
    "parse",
]
