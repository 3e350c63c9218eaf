"""Soundness: no certified image is ever broken, whatever the network and the attack."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from tests.helpers_core import digits, forked_seed, pictures, train
from torch import Tensor, nn

import sparring as sp
from sparring.attacks import APGD, ATTACKS, PGD, Attack, Square
from sparring.certification.bounds import intervals, lower_bound, tightened
from sparring.certification.graph import trace, values
from sparring.certification.region import Domain


class Mixed(nn.Module):
    """Everything at once: normalisation, batch norm, residual, concatenation, both pools, four activations."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with forked_seed(seed):
            self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, groups=2)
            self.norm = nn.BatchNorm2d(4)
            self.norm.running_mean = torch.randn(4) / 4
            self.norm.running_var = torch.rand(4) + 0.5
            self.head = nn.Linear(2 * 4 * 2 * 2, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first((x - 0.4) / 0.3)))
        x = x + nn.functional.gelu(self.second(x))
        x = nn.functional.max_pool2d(x, 3, 2, 1)
        x = torch.cat([torch.tanh(x), 2 - nn.functional.silu(x)], 1)
        out: Tensor = self.head(nn.functional.avg_pool2d(x, 2).flatten(1))
        return out


def nets() -> list[nn.Module]:
    found: list[nn.Module] = [Mixed(seed).eval() for seed in range(3)]
    for seed in range(3):
        with forked_seed(seed):
            found.append(
                nn.Sequential(
                    nn.Conv2d(1, 6, 3, 2, 1),
                    nn.ReLU(),
                    nn.MaxPool2d(2),
                    nn.Flatten(),
                    nn.Linear(24, 8),
                    nn.LeakyReLU(),
                    nn.Linear(8, 5),
                ).eval()
            )
    return found


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("net", nets(), ids=lambda net: type(net).__name__)
def test_bounds_hold_at_random_and_extreme_points(net: nn.Module, norm: str) -> None:
    images = pictures(8, 1, 8, 8)
    rows = torch.eye(5).unsqueeze(0)
    for eps in (0.02, 0.2):
        threat = sp.ThreatModel(norm, eps * (4 if norm == "l2" else 1))
        layers = trace(net, images).layers()
        domain = Domain.build(threat, images)
        with torch.no_grad():
            known = tightened(layers, domain)
            both = [lower_bound(layers, known, len(layers) - 1, s * rows, domain) for s in (1, -1)]
            ranges = [intervals(layers, domain)[-1], known[-1], (both[0], -both[1])]
            g = torch.Generator().manual_seed(0)
            for trial in range(30):
                noise = torch.rand(images.shape, generator=g) * 2 - 1
                noise = noise.sign() if trial % 2 else noise
                reach = (
                    threat.eps
                    if norm == "linf"
                    else threat.eps * noise / noise.flatten(1).norm(dim=1)[:, None, None, None]
                )
                moved = (images + (reach * noise if norm == "linf" else reach)).clamp(0, 1)
                seen = values(layers, moved)
                for low, high in ranges:
                    assert bool((seen[-1] >= low - 1e-6).all() and (seen[-1] <= high + 1e-6).all())
                for place, (low, high) in enumerate(known):
                    assert bool((seen[place] >= low - 1e-5).all() and (seen[place] <= high + 1e-5).all()), layers[place]


def attacked(net: nn.Module, images: Tensor, labels: Tensor, threat: sp.ThreatModel) -> Tensor:
    found = sp.evaluate(
        net,
        images,
        labels,
        threat,
        attacks=[PGD(steps=20, loss="margin"), APGD(steps=25, loss="margin"), Square(queries=60)],
    )
    return torch.tensor([r.broken_by is not None for r in found.records])


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_no_certified_image_is_broken(norm: str, digits_net: nn.Module) -> None:
    images, labels = digits()
    images, labels = images[1000:1100], labels[1000:1100]
    with forked_seed(0):
        smooth = nn.Sequential(nn.Conv2d(1, 6, 3, 2, 1), nn.GELU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(24, 10))
    train(smooth, *(part[:1000] for part in digits()), 10)
    shown = broken_at_all = 0
    for net in (digits_net, smooth):
        for eps in (0.02, 0.05) if norm == "linf" else (0.1, 0.3):
            threat = sp.ThreatModel(norm, eps)
            certificates = [
                sp.certify(net, images, labels, threat, method=m) for m in ("ibp", "crown-ibp", "crown", "lipschitz")
            ]
            proved = torch.stack([c.certified for c in certificates]).any(0)
            broken = attacked(net, images, labels, threat)
            assert not bool((proved & broken).any())
            shown, broken_at_all = shown + int(proved.sum()), broken_at_all + int(broken.sum())
            assert int(certificates[2].certified.sum()) >= int(certificates[1].certified.sum())
    assert shown > 100
    assert broken_at_all > 20


def test_slopes_can_only_help(digits_net: nn.Module, digits_data: tuple[Tensor, Tensor]) -> None:
    images, labels = (part[:20] for part in digits_data)
    threat = sp.ThreatModel("linf", 0.05)
    plain, better = (sp.certify(digits_net, images, labels, threat, slopes=n) for n in (0, 10))
    assert bool((better.lower >= plain.lower - 1e-5).all())
    assert bool((better.lower > plain.lower + 1e-3).any())


CHEAP = {"steps": 20, "queries": 150, "restarts": 1, "search_steps": 2, "draws": 4}
"""What attacks may cost here at most: nothing falls, so every one of them sees every image."""


def every_attack(norm: str) -> list[Attack]:
    """All of the table that need no second model."""
    found = []
    for name, kind in ATTACKS.items():
        if norm in kind.threats and name != "transfer":
            known = {field.name: field.default for field in dataclasses.fields(kind) if field.name in CHEAP}
            found.append(kind(**{key: min(value, CHEAP[key]) for key, value in known.items()}))
    return found


def subjects() -> dict[str, Callable[[], nn.Module]]:
    """Random nets, and nets trained on digits."""
    found: dict[str, Callable[[], nn.Module]] = {
        f"{type(net).__name__}{i}": lambda net=net: net
        for i, net in enumerate(nets())  # type: ignore[misc]
    }

    def learnt(activation: type[nn.Module], seed: int) -> nn.Module:
        with forked_seed(seed):
            conv = nn.Conv2d(1, 6, 3, 2, 1)
            net = nn.Sequential(conv, activation(), nn.Flatten(), nn.Linear(96, 16), activation(), nn.Linear(16, 10))
        train(net, *(part[:1000] for part in digits()), 10)
        return net.eval()

    found |= {f"trained {kind.__name__}": lambda kind=kind: learnt(kind, 5) for kind in (nn.ReLU, nn.Tanh)}  # type: ignore[misc]
    return found


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", subjects())
def test_every_attack_leaves_what_is_certified(name: str, norm: str) -> None:
    """All attacks of the table, on images certified at three budgets at which some are and some are not."""
    net, images = subjects()[name](), pictures(96, 1, 8, 8, seed=7)
    with torch.no_grad():
        labels = net(images).argmax(1)
    wide = sp.ThreatModel(norm, 0.25 if norm == "linf" else 1.5)
    radius = sp.certify(net, images, labels, wide, radius=8).radius
    assert radius is not None
    cases = 0
    for share in (0.2, 0.5, 0.8):
        threat = sp.ThreatModel(norm, float(radius.quantile(share)))
        proofs = [sp.certify(net, images, labels, threat, method=m) for m in ("ibp", "crown-ibp", "crown", "lipschitz")]
        proved = torch.stack([proof.certified for proof in proofs]).any(0)
        found = sp.evaluate(net, images[proved], labels[proved], threat, attacks=every_attack(norm))
        assert len(found.stages) >= 16
        assert not [record.index for record in found.records if record.broken_by is not None]
        cases += int(proved.sum())
    assert cases >= 120
