"""Adversarials made elsewhere: believed only as far as box, budget and model bear them out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.helpers_core import Linear, generator, pictures
from torch import Tensor, nn

import sparring as sp
from sparring.black_box import BlackBox
from sparring.errors import InputError

THREAT = sp.ThreatModel("linf", 0.1)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return Linear(16, 3, dtype=torch.float32)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return pictures(30, 1, 4, 4)


@pytest.fixture(scope="module")
def labels(model: nn.Module, images: Tensor) -> Tensor:
    """Three of them wrong to begin with."""
    right = model(images).argmax(1)
    return torch.where(torch.arange(30) % 10 == 7, (right + 1) % 3, right)


@pytest.fixture(scope="module")
def made(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return sp.attacks.PGD(steps=10)(model, images, sp.Untargeted(labels), THREAT)


def expected(model: nn.Module, images: Tensor, labels: Tensor, made: Tensor, threat: sp.ThreatModel) -> Tensor:
    """Which images stand, by hand."""
    with torch.no_grad():
        right, held = model(images).argmax(1) == labels, model(made).argmax(1) == labels
    return right & (held | ~threat.contains(images, made))


def test_the_verdict_is_that_of_the_model(model: nn.Module, images: Tensor, labels: Tensor, made: Tensor) -> None:
    result = sp.verify(model, images, labels, THREAT, made)
    standing = expected(model, images, labels, made, THREAT)
    assert 0 < int(standing.sum()) < 27
    assert [r.broken_by is None and r.prediction == r.label for r in result.records] == standing.tolist()
    assert result.stages[0].attack == "given"
    assert result.stages[0].rejected == 0
    assert (result.stages[0].forwards, result.stages[0].backwards) == (27, 0), "one look at each image that was right"
    for index, adversarial in result.adversarials.items():
        assert torch.equal(adversarial, made[index])
        assert not standing[index]


def test_what_is_not_allowed_does_not_count(model: nn.Module, images: Tensor, labels: Tensor, made: Tensor) -> None:
    """Too far, out of the box, on masked pixels, not a number: each is counted as rejected, and breaks nothing."""
    broken = [r.index for r in sp.verify(model, images, labels, THREAT, made).records if r.broken_by]
    far, outside, silent = made.clone(), made.clone(), made.clone()
    far[broken] += 0.01 * (far[broken] - images[broken]).sign()
    far = far.clamp(0, 1)
    outside[broken] = outside[broken] - 1e-4 * (outside[broken] < 1e-4)
    silent[broken, 0, 0, 0] = torch.nan
    assert bool((outside < 0).any())
    for bad in (far, outside, silent):
        result = sp.verify(model, images, labels, THREAT, bad)
        standing = expected(model, images, labels, bad, THREAT)
        assert result.stages[0].rejected > 0
        assert [r.broken_by is None and r.prediction == r.label for r in result.records] == standing.tolist()
    mask = torch.zeros(4, 4, dtype=torch.bool)
    result = sp.verify(model, images, labels, sp.ThreatModel("linf", 0.1, mask=mask), made)
    assert result.robust_accuracy == result.clean_accuracy
    assert result.stages[0].rejected >= len(broken)


def test_float64_and_rounded_adversarials(model: nn.Module, images: Tensor, labels: Tensor, made: Tensor) -> None:
    """More digits than the images hold are rounded; 8-bit rounding that leaves the ball is caught."""
    plain = sp.verify(model, images, labels, THREAT, made)
    assert sp.verify(model, images, labels, THREAT, made.double()).records == plain.records
    rounded = (made * 255).round() / 255
    result = sp.verify(model, images, labels, THREAT, rounded)
    assert result.stages[0].rejected == int(
        (~THREAT.contains(images, rounded))[model(images).argmax(1) == labels].sum()
    )
    assert result.stages[0].rejected > 0


def test_any_threat(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    for norm, eps in (("l2", 0.5), ("l1", 2.0), ("l0", 4)):
        threat = sp.ThreatModel(norm, eps)
        made = sp.attacks.PGD(steps=10)(model, images, sp.Untargeted(labels), threat)
        result = sp.verify(model, images, labels, threat, made)
        standing = expected(model, images, labels, made, threat)
        assert [r.broken_by is None and r.prediction == r.label for r in result.records] == standing.tolist()
    patch = sp.perturbations.Patch(0.25)
    painted = images.clone()
    painted[..., 1:3, 1:3] = 1 - images[..., 1:3, 1:3].round()
    assert sp.verify(model, images, labels, patch, painted).stages[0].rejected == 0


def test_targets(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    targets = (labels + 1) % 3
    made = sp.attacks.PGD(steps=10)(model, images, sp.Targeted(targets), THREAT)
    result = sp.verify(model, images, labels, THREAT, made, targets=targets)
    reached = (model(made).argmax(1) == targets) & (model(images).argmax(1) == labels)
    assert {r.index for r in result.records if r.broken_by} == set(reached.nonzero().flatten().tolist())
    assert result.targeted


def test_what_broke_one_model_on_another(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """`Evaluation.adversarials` goes in as it is: a transfer attack. Images without one stay as they are."""
    first = sp.evaluate(model, images, labels, THREAT, attacks=["pgd:steps=10"])
    other = Linear(16, 3, seed=1)
    same = sp.verify(model, images, labels, THREAT, first.adversarials)
    assert same.robust_accuracy == first.robust_accuracy
    moved = sp.verify(other, images, labels, THREAT, first.adversarials)
    standing = expected(other, images, labels, first.adversarials.stack(images), THREAT)
    assert [r.broken_by is None and r.prediction == r.label for r in moved.records] == standing.tolist()


def test_the_same_image_twice(model: nn.Module, images: Tensor, labels: Tensor, made: Tensor) -> None:
    """All that was made for an image is tried on each of its copies, in any order; the rest is untouched."""
    plain = sp.verify(model, images, labels, THREAT, made)
    broken = next(r.index for r in plain.records if r.broken_by)
    twice, answers = torch.cat([images, images[[broken]]]), torch.cat([labels, labels[[broken]]])
    for pair in ((made[broken], images[broken]), (images[broken], made[broken]), (images[broken] + 0.3, made[broken])):
        candidates = torch.cat([made, made[:1]])
        candidates[broken], candidates[30] = pair
        result = sp.verify(model, twice, answers, THREAT, candidates)
        assert result.records[broken].broken_by
        assert result.records[30].broken_by
        assert [bool(r.broken_by) for r in result.records[:30]] == [bool(r.broken_by) for r in plain.records]


def test_pieces_and_boxes(images: Tensor) -> None:
    """Read in pieces, in another box, by a model that shows labels only."""
    model = Linear(16, 3)
    wide = images * 2 - 1
    labels, threat = model(wide).argmax(1), sp.ThreatModel("linf", 0.3, bounds=(-1, 1))
    made = sp.attacks.PGD(steps=10)(model, wide, sp.Untargeted(labels), threat)

    class Reader:
        def __init__(self, whole: Tensor) -> None:
            self.whole = whole

        def __len__(self) -> int:
            return len(self.whole)

        def __getitem__(self, part: slice) -> Tensor:
            return self.whole[part]

    plain = sp.verify(model, wide, labels, threat, made)
    assert plain.robust_accuracy < 1
    assert sp.verify(model, Reader(wide), labels, threat, Reader(made)).records == plain.records
    blind = BlackBox(model, access="labels")
    assert sp.verify(blind, wide, labels, threat, made).robust_accuracy == plain.robust_accuracy


def test_records_are_those_of_these_adversarials(
    model: nn.Module, images: Tensor, labels: Tensor, made: Tensor, tmp_path: Path
) -> None:
    """A finished run is read back; other adversarials are another run."""
    first = sp.verify(model, images, labels, THREAT, made, out=tmp_path)
    assert sp.verify(model, images, labels, THREAT, made, out=tmp_path).records == first.records
    assert len(list(tmp_path.iterdir())) == 1
    unchanged = sp.verify(model, images, labels, THREAT, images, out=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    assert unchanged.robust_accuracy == unchanged.clean_accuracy > first.robust_accuracy


def test_nothing_is_changed(model: nn.Module, images: Tensor, labels: Tensor, made: Tensor) -> None:
    before = images.clone(), made.clone(), torch.get_rng_state()
    sp.verify(model, images, labels, THREAT, made)
    assert torch.equal(images, before[0])
    assert torch.equal(made, before[1])
    assert torch.equal(torch.get_rng_state(), before[2])


def test_unusable_adversarials_are_refused(model: nn.Module, images: Tensor, labels: Tensor, made: Tensor) -> None:
    """Rejected one by one, all of these would leave a robust accuracy that nothing was held against."""
    bad = [
        (made[:-1], "one per image"),
        (made[0:0], "one per image"),
        (3, "one per image"),
        (made.flatten(1), "shape"),
        ((made * 255).byte(), "float"),
        (made * 255, "divided by 255"),
        (made * 5 - 2.5, "unit"),
        ({30: made[0]}, "image 30"),
        ({-1: made[0]}, "image -1"),
        ({0: made[:1]}, "shape"),
    ]
    for adversarials, message in bad:
        with pytest.raises(InputError, match=message):
            sp.verify(model, images, labels, THREAT, adversarials)  # type: ignore[arg-type]


def test_adversarials_in_another_order_are_not_believed(
    model: nn.Module, images: Tensor, labels: Tensor, made: Tensor
) -> None:
    order = torch.randperm(30, generator=generator(2))
    result = sp.verify(model, images, labels, THREAT, made[order])
    assert result.stages[0].rejected > 20
