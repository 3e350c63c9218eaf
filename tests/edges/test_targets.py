"""Choosing a target per image: never the label, always the same, whatever the batch."""

from __future__ import annotations

import pytest
import torch
from tests.helpers_core import Linear, generator, pictures
from torch import Tensor, nn

import sparring as sp
from sparring.attacks import FGSM
from sparring.errors import InputError
from sparring.targets import RULES, least_likely, runner_up

HOW = list(RULES)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return Linear(16, 5)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return pictures(40, 1, 4, 4)


@pytest.fixture(scope="module")
def labels(model: nn.Module, images: Tensor) -> Tensor:
    """Half of them what the model says, half anything: then the label may be the least likely class itself."""
    drawn = torch.randint(0, 5, (40,), generator=generator(3))
    return torch.where(torch.arange(40) % 2 == 0, model(images).argmax(1), drawn)


def test_least_likely_and_runner_up_by_sorting(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    logits = model(images).detach()
    ranked = [[k for k in row.argsort().tolist() if k != y] for row, y in zip(logits, labels.tolist(), strict=True)]
    assert sp.choose_targets(model, images, labels).tolist() == [row[0] for row in ranked]
    assert sp.choose_targets(model, images, labels, "least-likely").tolist() == [row[0] for row in ranked]
    assert sp.choose_targets(model, images, labels, "runner-up").tolist() == [row[-1] for row in ranked]
    assert bool((logits.argmin(1) == labels).any()), "the test meets a label that is the least likely class"


@pytest.mark.parametrize("how", HOW)
def test_never_the_label(how: str, model: nn.Module, images: Tensor, labels: Tensor) -> None:
    targets = sp.choose_targets(model, images, labels, how)
    assert targets.dtype == torch.int64
    assert targets.shape == labels.shape
    assert bool((targets != labels).all())
    assert bool(((targets >= 0) & (targets < 5)).all())


@pytest.mark.parametrize("how", HOW)
def test_neither_order_nor_batch_matters(how: str, model: nn.Module, images: Tensor, labels: Tensor) -> None:
    whole = sp.choose_targets(model, images, labels, how)
    order = torch.randperm(40, generator=generator(1))
    assert torch.equal(sp.choose_targets(model, images[order], labels[order], how), whole[order])
    for size in (1, 3, 8):
        assert torch.equal(sp.choose_targets(model, images, labels, how, batch_size=size), whole)
    alone = [sp.choose_targets(model, images[i : i + 1], labels[i : i + 1], how) for i in range(5)]
    assert torch.equal(torch.cat(alone), whole[:5])


def test_random_targets_follow_the_seed_and_cover_all_classes(model: nn.Module) -> None:
    images = pictures(600, 1, 4, 4, seed=5)
    labels = torch.arange(600) % 5
    first, again, other = (sp.choose_targets(model, images, labels, "random", seed=s) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    for label in range(5):
        counts = first[labels == label].bincount(minlength=5)
        assert counts[label] == 0
        assert counts[[k for k in range(5) if k != label]].min() > 12, "about 30 each"


def test_two_classes_leave_no_choice() -> None:
    model, images = Linear(16, 2), pictures(10, 1, 4, 4)
    labels = torch.arange(10) % 2
    for how in HOW:
        assert torch.equal(sp.choose_targets(model, images, labels, how), 1 - labels)


def test_images_are_read_in_pieces(model: nn.Module) -> None:
    images, labels = pictures(600, 1, 4, 4, seed=5), torch.arange(600) % 5

    class Reader:
        longest = 0

        def __len__(self) -> int:
            return 600

        def __getitem__(self, part: slice) -> Tensor:
            found = images[part]
            self.longest = max(self.longest, len(found))
            return found

    for how in HOW:
        reader = Reader()
        assert torch.equal(sp.choose_targets(model, reader, labels, how), sp.choose_targets(model, images, labels, how))
        assert reader.longest < 600


def test_leaves_no_trace(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Dropout(0.9), nn.Linear(8, 5)).train()
    state = torch.get_rng_state()
    first = sp.choose_targets(net, images, labels)
    assert torch.equal(first, sp.choose_targets(net, images, labels)), "dropout is off"
    assert net.training
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert torch.equal(state, torch.get_rng_state())


def test_one_rule_for_everybody(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """FGSM's least likely class is the same function: one step towards it raises it, and never the label."""
    found = FGSM(aim="least_likely")(model, images, sp.Untargeted(labels), sp.ThreatModel("linf", 0.1))
    targets = sp.choose_targets(model, images, labels)
    reached = FGSM()(model, images, sp.Targeted(targets), sp.ThreatModel("linf", 0.1))
    assert torch.equal(found, reached)


def test_targets_serve_an_evaluation(digits_net: nn.Module, digits_data: tuple[Tensor, Tensor]) -> None:
    images, labels = (part[:80] for part in digits_data)
    threat, shares = sp.ThreatModel("linf", 0.1), {}
    for how in HOW:
        targets = sp.choose_targets(digits_net, images, labels, how)
        result = sp.evaluate(digits_net, images, labels, threat, attacks=["pgd:steps=15,loss=margin"], targets=targets)
        assert result.targeted
        shares[how] = float(result.robust_accuracy)
    assert shares["runner-up"] < shares["random"] <= shares["least-likely"]


def test_nan_never_wins() -> None:
    logits = torch.tensor([[1.0, torch.nan, 0.0, 2.0], [torch.inf, 3.0, -torch.inf, 1.0]])
    labels = torch.tensor([3, 0])
    assert least_likely(logits, labels).tolist() == [2, 2]
    assert runner_up(logits, labels).tolist() == [0, 1]


def test_unusable_input_is_refused(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    with pytest.raises(InputError, match="least-likely"):
        sp.choose_targets(model, images, labels, "least_likely")
    with pytest.raises(InputError, match="how"):
        sp.choose_targets(model, images, labels, 3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="one per image"):
        sp.choose_targets(model, images, labels[:-1])
    with pytest.raises(InputError, match="does not exist"):
        sp.choose_targets(model, images, labels + 3)
    with pytest.raises(InputError, match="divide by 255"):
        sp.choose_targets(model, images * 255, labels)
    with pytest.raises(InputError, match="seed"):
        sp.choose_targets(model, images, labels, "random", seed=-1)
    with pytest.raises(InputError, match="NaN"):
        sp.choose_targets(lambda x: model(x) * torch.nan, images, labels)
    assert bool((sp.choose_targets(model, images * 2 - 1, labels, bounds=(-1, 1)) != labels).all())
