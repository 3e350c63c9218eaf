"""What certificates refuse."""

from __future__ import annotations

import pytest
import torch
from tests.helpers_core import pictures
from torch import Tensor, nn

import sparring as sp
from sparring.defenses import Stack
from sparring.defenses import transforms as t
from sparring.errors import UnsupportedError

LABELS = torch.zeros(2, dtype=torch.int64)


class Named(nn.Module):
    """A model with a part that happens to be called a stack."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.stack(x)


def test_a_stack_is_refused_and_a_part_of_that_name_is_not() -> None:
    images, threat = pictures(2, 1, 4, 4), sp.ThreatModel("linf", 0.01)
    assert len(sp.certify(Named().eval(), images, LABELS, threat, method="ibp").certified) == 2
    guarded = Stack(Named().eval(), [t.BitDepth(bits=4)]).as_model()
    for method in ("ibp", "crown", "lipschitz"):
        with pytest.raises(UnsupportedError, match="stack"):
            sp.certify(guarded, images, LABELS, threat, method=method)


@pytest.mark.parametrize("norm", ["l1", "l0"])
def test_norms_without_bounds_are_named(norm: str) -> None:
    with pytest.raises(UnsupportedError, match=norm):
        sp.certify(Named().eval(), pictures(2, 1, 4, 4), LABELS, sp.ThreatModel(norm, 1))
