"""Bounds beside what is known of them: a grid of all inputs, the image alone, logits as coarse as their rounding."""

from __future__ import annotations

import itertools

import pytest
import torch
from tests.helpers_core import forked_seed, pictures
from torch import Tensor, nn

import sparring as sp
from sparring.certification.bounds import margins, tightened, with_better_slopes
from sparring.certification.graph import trace
from sparring.certification.region import Domain
from sparring.errors import UnsupportedError


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.4), ("l2", 0.5)])
def test_better_slopes_stay_below_every_margin_of_a_grid(norm: str, eps: float) -> None:
    """Two pixels, so that a grid sees the whole region; at no number of steps does a bound pass the least margin."""
    with forked_seed(3):
        sizes = (2, 8, 8, 8, 3)
        parts = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
        net = nn.Sequential(nn.Flatten(), *parts[:-1]).double().requires_grad_(False)
    for weight in net.parameters():
        weight.mul_(2)
    images = pictures(2, 1, 1, 2, dtype=torch.float64)
    labels, ticks = net(images).argmax(1), torch.linspace(-eps, eps, 151, dtype=torch.float64)
    moves = torch.cartesian_prod(ticks, ticks)
    moves = moves[moves.norm(dim=1) <= eps] if norm == "l2" else moves
    seen = [net((image.view(2) + moves).clamp(0, 1).view(-1, 1, 1, 2)) for image in images]
    least = torch.stack([(z[:, [y]] - z).scatter(1, z.new_full((len(z), 1), int(y)).long(), 9e9).min()
                         for z, y in zip(seen, labels, strict=True)])  # fmt: skip
    layers = trace(net, images).layers()
    domain = Domain.build(sp.ThreatModel(norm, eps), images)
    with torch.no_grad():
        known = tightened(layers, domain)
        plain = margins(layers, known, labels, domain, "crown").amin(1)
        found = [with_better_slopes(layers, known, labels, domain, steps).amin(1) for steps in (1, 40)]
    assert all(bool((plain <= bound + 1e-12).all() and (bound <= least + 1e-9).all()) for bound in found)
    assert bool((found[1] > plain).any())


@pytest.mark.parametrize("wide", [4, 3])
def test_the_bounds_of_an_image_do_not_depend_on_its_neighbours(wide: int) -> None:
    """Neighbours share passes; `wide` kernels of the second convolution go by windows or by whole pictures."""
    with forked_seed(0):
        convs = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, wide, 1, 1), nn.ReLU(), nn.MaxPool2d(2, 1)]
        net = nn.Sequential(*convs, nn.Flatten(), nn.LazyLinear(12), nn.ReLU(), nn.Linear(12, 5))
        net(torch.zeros(1, 1, 8, 8))
    net, images = net.double().eval(), pictures(6, 1, 8, 8, dtype=torch.float64)
    images[3:] = 0.5 + 0.01 * images[3:]  # with fewer signs open
    threat = sp.ThreatModel("linf", 0.04)
    labels = net(images).argmax(1)
    alone, together = (sp.certify(net, images, labels, threat, batch_size=n).lower for n in (1, 6))
    assert torch.allclose(alone, together, atol=1e-9)


@pytest.mark.parametrize(("beta", "threshold"), [(1.0, 1.0), (-1.0, 20.0)])
def test_a_softplus_that_jumps_or_bends_the_other_way_is_named(beta: float, threshold: float) -> None:
    images, labels = pictures(2, 1, 2, 2), torch.zeros(2, dtype=torch.int64)
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Softplus(beta, threshold), nn.Linear(3, 2))
    with pytest.raises(UnsupportedError, match=r"softplus .* in 2 \(Softplus\)"):
        sp.certify(net, images, labels, sp.ThreatModel("linf", 0.1))


class Offset(nn.Module):
    """Logits a·x and 0, both far above their difference."""

    def forward(self, x: Tensor) -> Tensor:
        total = x.flatten(1).sum(1, keepdim=True) - 2
        return torch.cat([total, 0 * total], 1) + 1000.0


def test_a_lipschitz_radius_loses_what_rounding_may_have_added() -> None:
    """A margin of 0.03 between logits of 1,000 is known to 0.02, no better: the radius is a third of margin / ‖w‖."""
    images = torch.full((1, 1, 2, 2), 0.5 + 0.03 / 4)
    found = sp.certify(
        Offset().eval(), images, torch.tensor([0]), sp.ThreatModel("l2", 0.001), method="lipschitz"
    ).radius
    assert found is not None
    assert 0 <= float(found[0]) <= 0.6 * 0.03 / 2
