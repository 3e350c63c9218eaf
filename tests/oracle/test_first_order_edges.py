"""The first-order picture where it is easily wrong: a masked attacker, bends of either sign, a step that overshoots."""

import pytest
import torch
from torch import nn

import sparring as sp
from sparring.auditing.report import Curve, CurvePoint, Interval
from sparring.auditing.strength import not_growing
from sparring.diagnosis.taylor import first_order, top_curvature
from sparring.estimate import proportion


class Saddle(nn.Module):
    """Margin x'Ax / 2 of two classes: the loss "margin" bends by minus A for class 0."""

    def __init__(self, sizes):
        super().__init__()
        self.register_buffer("sizes", torch.tensor(sizes))

    def forward(self, x):
        value = (self.sizes.to(x) * x.flatten(1) ** 2).sum(1) / 2
        return torch.stack([value, torch.zeros_like(value)], 1)


@pytest.mark.parametrize("sizes", [(3.0, -3.0, 1.0, 0.0), (2.0, -1.9, 1.8, 0.5)])
def test_curvature_is_found_where_two_signs_are_as_large(sizes):
    images = torch.rand(3, 1, 2, 2, dtype=torch.float64)
    found = top_curvature(Saddle(sizes), images, torch.zeros(3, dtype=torch.int64), "margin", iterations=400)
    torch.testing.assert_close(found.abs(), torch.full_like(found, max(map(abs, sizes))), rtol=1e-5, atol=0)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_unclipped_line_counts_only_what_may_change(norm):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).double()
    images, labels = torch.full((5, 1, 2, 2), 0.5, dtype=torch.float64), torch.zeros(5, dtype=torch.int64)
    mask = torch.tensor([[[True, False], [False, True]]])
    lines = first_order(model, images, labels, sp.ThreatModel(norm, 0.05, mask=mask), loss="margin", top=0).lines
    for line in lines:  # inside the box the best step is all of the dual norm
        assert line.clipped == pytest.approx(line.unclipped, abs=1e-9)
        assert line.unclipped[-1] > line.unclipped[0]


@pytest.mark.parametrize(("attack", "raised"), [("fgsm", False), ("quick attacks", True)])
def test_one_step_that_overshoots_is_no_masking(attack, raised):
    shares = zip((0.0, 0.1, 0.3), (0.98, 0.40, 0.38), strict=True)
    points = tuple(CurvePoint(eps=e, accuracy=Interval.of(proportion(round(100 * s), 100))) for e, s in shares)
    assert bool(not_growing([Curve(attack=attack, norm="linf", points=points)], 0.1)) is raised
