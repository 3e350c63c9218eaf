"""What every training method promises, run over the table."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tests.helpers_core import measured, pictures, small_net
from torch import Tensor, nn

from sparring.errors import InputError, UnsupportedError
from sparring.hardening import METHODS, Batch, Method, parse_method
from sparring.hardening.draws import Draws
from sparring.threat import ThreatModel

BUDGETS = {"linf": 0.1, "l2": 0.6, "l1": 2.0}
IMAGES = pictures(12, 1, 8, 8, seed=3)
LABELS = torch.arange(12) % 10
CASES = [(name, norm) for name, kind in METHODS.items() for norm in BUDGETS if norm in kind.threats]


class Normed(nn.Module):
    """A net with batch norm and dropout, to see which mode it was called in."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.drop = nn.Dropout(0.5)
        self.net = small_net()

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.net(self.drop(self.norm(images)))
        return out


def batch(model: nn.Module, norm: str = "linf", seed: int = 0) -> Batch:
    threat = ThreatModel(norm, BUDGETS[norm])
    return Batch(model, model, IMAGES.clone(), LABELS, threat, Draws(len(IMAGES), seed))


def reach(method: Method) -> float:
    """How far from the image a method may go, in multiples of eps: noise is not projected back in N-FGSM."""
    return getattr(method, "noise", 0.0) + 1.0 if hasattr(method, "noise") else 1.0


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_points_are_allowed_and_the_same_again(name: str, norm: str) -> None:
    method, model = METHODS[name](), small_net()
    first, again = (method.craft(batch(model, norm)) for _ in range(2))
    assert torch.equal(first, again)
    assert not first.requires_grad
    assert float(first.min()) >= 0
    assert float(first.max()) <= 1
    assert measured(first - IMAGES, norm).max() <= reach(method) * BUDGETS[norm] * (1 + 1e-5)


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("clean", "free", "certified", "gaussian")])
def test_points_are_worse_than_the_images(name: str, digits_net: nn.Module, digits_data: tuple[Tensor, Tensor]) -> None:
    """An ascent that went downhill would train a model for nothing."""
    images, labels = (part[:60] for part in digits_data)
    threat = ThreatModel("linf", 0.1)
    given = Batch(digits_net, digits_net, images, labels, threat, Draws(60, 0))
    points = METHODS[name]().craft(given)
    with torch.no_grad():
        before, after = (given.criterion.attack(digits_net(x), labels).sum() for x in (images, points))
    assert float(after) > 3 * float(before)


@pytest.mark.parametrize("name", METHODS)
def test_crafting_leaves_no_trace(name: str) -> None:
    """No weight gradients, no change of mode or images, batch-norm statistics and dropout asleep."""
    model = Normed().train()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    given = batch(model)
    calls = []
    model.register_forward_hook(lambda module, *_: calls.append(module.training))
    points = METHODS[name]().craft(given)
    assert model.training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert torch.equal(given.images, IMAGES)
    assert points.shape == IMAGES.shape
    assert not any(calls), "the model was in training mode while points were made"


@pytest.mark.parametrize("name", METHODS)
def test_the_loss_teaches_every_weight(name: str) -> None:
    model = small_net().train()
    method = METHODS[name]()
    given = batch(model)
    method.loss(given, method.craft(given)).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
    assert any(float(p.grad.abs().max()) > 0 for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", METHODS)
def test_the_learning_model_sees_what_the_method_says(name: str) -> None:
    """Averaged weights get their batch-norm statistics from `shown`: it must be what the learning pass takes."""
    model, method = small_net().train(), METHODS[name]()
    seen: list[Tensor] = []
    learner = lambda x: (seen.append(x.detach().clone()), model(x))[1]  # noqa: E731
    given, again = (dataclasses.replace(batch(model), learner=learner) for _ in range(2))
    method.loss(given, method.craft(given))
    assert len(seen) == 1
    assert torch.equal(seen[0], method.shown(again, method.craft(again)))


@pytest.mark.parametrize("name", METHODS)
def test_a_method_says_what_it_is(name: str) -> None:
    kind = METHODS[name]
    assert kind.paper
    said = (kind.__doc__ or "").replace("_", " ")
    for field in dataclasses.fields(kind):
        assert field.name.replace("_", " ") in said or field.name == "steps", field.name
    assert parse_method(str(kind())) == kind()


@pytest.mark.parametrize("name", METHODS)
def test_a_method_refuses_other_norms(name: str) -> None:
    for norm in {"linf", "l2", "l1", "l0"} - set(METHODS[name].threats):
        with pytest.raises(UnsupportedError, match=norm):
            METHODS[name]().check(ThreatModel(norm, 1))


@pytest.mark.parametrize(
    "text",
    [
        "pgd:steps=3",
        "rs_fgsm:step=1,random_start=false",
        "trades:beta=2.5,steps=5",
        "pgd:step_size=0.00784313725490196",
    ],
)
def test_text_goes_both_ways(text: str) -> None:
    method = parse_method(text)
    assert str(method) == text
    assert parse_method(str(method)) == method


def test_an_inner_attack_has_parameters_of_its_own() -> None:
    method = parse_method("pgd:inner=mifgsm:steps=3,decay=0.5")
    assert parse_method(str(method)) == method
    points = method.craft(batch(small_net()))
    assert measured(points - IMAGES, "linf").max() <= 0.1 + 1e-6
    assert not torch.equal(points, IMAGES)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pdg", "did you mean 'pgd'"),
        ("pgd:step=3", "steps"),
        ("pgd:steps", "name=value"),
        ("pgd:steps=0", ">= 1"),
        ("pgd:steps=2.5", "whole"),
        ("rs_fgsm:random_start=maybe", "true or false"),
        ("rs_fgsm:step=-1", "> 0"),
        ("free:replays=0", ">= 1"),
        ("trades:beta=nan", "finite"),
    ],
)
def test_mistakes_are_explained(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_method(text)


@pytest.mark.parametrize(("text", "said"), [("square", "gradients"), ("nonsense", "unknown attack")])
def test_an_inner_attack_that_will_not_do(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_method(f"pgd:inner={text}").craft(batch(small_net()))
