"""How much work a bound is, counted before it is done."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sparring.certification.layers import Conv, Dense, Layer


def multiplications(layers: Sequence[Layer]) -> float:
    """Those of one row of coefficients on its way from the logits to the image, about those of a forward pass; a layer
    without weights counts eight per value.
    """
    total = 0.0
    for layer in layers:
        each = 8.0
        if isinstance(layer, Dense):
            each += layer.weight.shape[1]
        if isinstance(layer, Conv):
            each += layer.weight[0].numel()
        total += each * math.prod(layer.shape)
    return total
