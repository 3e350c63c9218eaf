"""BPDA and EOT: exact forward, the promised gradient, and defenses that stand only against the wrong gradient."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from tests.helpers_core import Linear, generator, pictures
from torch import Tensor, nn

import sparring as sp
from sparring.attacks import APGD, EOT, PGD, Attack, RandomNoise, parse
from sparring.batching import Plan
from sparring.errors import InputError, ModelError
from sparring.problem import Problem
from sparring.rng import Streams, digests

LINF = sp.ThreatModel("linf", 0.15)


class Rounding(nn.Module):
    """Four grey values; its gradient is zero almost everywhere."""

    def forward(self, images: Tensor) -> Tensor:
        return (images * 3).round() / 3


class Defended(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.front = nn.ModuleDict({"rounding": Rounding()})
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        return self.net(self.front["rounding"](images))


def share_broken(attacked: nn.Module, judge: nn.Module, data: tuple[Tensor, Tensor], attack: Attack) -> float:
    images, labels = (part[:100] for part in data)
    found = attack(attacked, images, sp.Untargeted(labels), LINF)
    assert bool(LINF.contains(images, found).all())
    with torch.no_grad():
        return float((judge(found).argmax(1) != labels).double().mean())


def test_a_surrogate_breaks_what_a_zero_gradient_protected(
    digits_net: nn.Module, digits_data: tuple[Tensor, Tensor]
) -> None:
    model = Defended(digits_net)
    blind = share_broken(model, model, digits_data, PGD(steps=10, loss="margin"))
    for surrogate in ("identity", lambda x: x, nn.Identity()):
        soft = sp.bpda(model, {"front.rounding": surrogate})
        for text in ("pgd:steps=10,loss=margin", "apgd:steps=10,loss=dlr", "difgsm:shrink=0.95", "fgsm"):
            assert share_broken(soft, model, digits_data, parse(text)) > blind + 0.15, text
    images, labels = (part[:50] for part in digits_data)
    evaluation = sp.evaluate(soft, images, labels, LINF, attacks=["pgd:steps=10"])
    assert evaluation.robust_accuracy.value < evaluation.clean_accuracy.value - 0.15


def test_forward_is_the_same_bit_for_bit_and_the_model_stays_as_it_was(digits_net: nn.Module) -> None:
    model = Defended(copy.deepcopy(digits_net)).train()
    state, modules = copy.deepcopy(model.state_dict()), dict(model.named_modules())
    soft = sp.bpda(model, {"front.rounding": torch.sigmoid, "net.0": lambda x: 1e30 * x.expand(-1, 8, -1, -1)})
    for dtype in (torch.float32, torch.float64):
        images = pictures(20, 1, 8, 8, dtype=dtype)
        true, copied = model.to(dtype), soft.to(dtype)
        for grad in (True, False):
            with torch.set_grad_enabled(grad):
                assert torch.equal(copied(images), true(images))
                assert torch.equal(copied(images.clone().requires_grad_(grad)), true(images))
    model.float()
    PGD(steps=2)(soft.float(), pictures(5, 1, 8, 8), sp.Untargeted(torch.zeros(5).long()), LINF)
    assert dict(model.named_modules()) == modules
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in state.items())
    assert model.training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not {id(p) for p in model.parameters()} & {id(p) for p in soft.parameters()}


def test_the_gradient_is_that_of_the_surrogate_at_the_true_point() -> None:
    linear = Linear(16, 4, dtype=torch.float64)
    model = nn.Sequential(Rounding(), nn.Flatten(), linear)
    images = pictures(6, 1, 4, 4, dtype=torch.float64).requires_grad_()
    weights = torch.randn(6, 4, generator=generator(1), dtype=torch.float64)
    (found,) = torch.autograd.grad((sp.bpda(model, {"0": torch.sin})(images) * weights).sum(), images)
    expected = (weights @ linear.weight).view_as(images) * torch.cos(images)
    torch.testing.assert_close(found, expected)
    softer = sp.bpda(nn.Sequential(nn.Flatten(), Cubed(), linear), {"1": lambda x: x})
    rounded = images.detach().clone().requires_grad_()
    (found,) = torch.autograd.grad((softer(rounded) * weights).sum(), rounded)
    torch.testing.assert_close(found, (weights @ linear.weight).view_as(images), msg="not three times x squared")


class Cubed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x**3


class InPlace(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(0).add_(1)


def test_a_module_that_writes_over_its_input_or_answers_badly() -> None:
    images = pictures(3, 1, 2, 2).requires_grad_()
    before = images.detach().clone()
    model = nn.Sequential(nn.Flatten(), InPlace())
    (grad,) = torch.autograd.grad(sp.bpda(model, {"1": torch.square})(images).sum(), images)
    torch.testing.assert_close(grad, 2 * before)
    assert torch.equal(images.detach(), before)
    with pytest.raises(ModelError, match=r"shape \(3, 2\).*\(3, 4\)"):
        sp.bpda(model, {"1": lambda x: x[:, :2]})(images)


def test_a_module_used_twice_has_its_surrogate_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = Rounding()

        def forward(self, x: Tensor) -> Tensor:
            return self.part(self.part(x)).flatten(1)

    images = pictures(3, 1, 2, 2).requires_grad_()
    (grad,) = torch.autograd.grad(sp.bpda(Twice(), {"part": lambda x: 3 * x})(images).sum(), images)
    assert torch.equal(grad, torch.full_like(grad, 9))


def test_a_surrogate_that_does_nothing_is_reported() -> None:
    class Aside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Flatten(), Rounding()

        def forward(self, x: Tensor) -> Tensor:
            return self.used((x * 3).round() / 3)

    with pytest.raises(ModelError, match="never ran its submodule 'unused'"):
        sp.bpda(Aside(), {"unused": "identity"})(pictures(2, 1, 2, 2))


@pytest.mark.parametrize(
    ("surrogates", "said"),
    [
        ({}, "empty"),
        ({"rounding": "identity"}, "front.rounding"),
        ({"front.rounding": "sigmoid"}, "identity"),
        ({"front.rounding": 3}, "identity"),
        ({"front": "identity", "front.rounding": "identity"}, "inside"),
        ({"": "identity"}, "unknown submodule"),
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_refused(surrogates: dict[str, str], said: str, digits_net: nn.Module) -> None:
    with pytest.raises(InputError, match=said):
        sp.bpda(Defended(digits_net), surrogates)


def test_a_plain_function_has_no_submodules() -> None:
    with pytest.raises(InputError, match=r"torch\.nn\.Module"):
        sp.bpda(lambda x: x, {"a": "identity"})  # type: ignore[arg-type]


def problem_of(model: object, images: Tensor, labels: Tensor, draws: int = 1) -> Problem:
    streams = Streams(0, "test", digests(images))
    made = Problem.build(model, images, sp.Untargeted(labels), LINF, streams, Plan(4, False))  # type: ignore[arg-type]
    return replace(made, draws=draws)


class Noisy(nn.Module):
    """`inner` on images with fresh noise: another answer at every call."""

    def __init__(self, inner: nn.Module, sigma: float) -> None:
        super().__init__()
        self.inner, self.sigma, self.generator = inner, sigma, generator(7)

    def forward(self, images: Tensor) -> Tensor:
        noise = torch.randn(images.shape, generator=self.generator, dtype=images.dtype)
        return self.inner(images + self.sigma * noise)


class Quadratic(nn.Module):
    """Logits (0, |x|²): under noise n its expected gradient is 2x, and a draw's is 2(x + n)."""

    def forward(self, images: Tensor) -> Tensor:
        value = images.flatten(1).square().sum(1)
        return torch.stack([torch.zeros_like(value), value], 1)


def test_gradients_and_losses_are_averages_of_the_draws() -> None:
    images, labels = pictures(10, 1, 4, 4, dtype=torch.float64), torch.zeros(10).long()
    spread = {}
    for draws in (1, 400):
        at = problem_of(Noisy(Quadratic(), 0.5), images, labels, draws).gradient(images, "margin")
        spread[draws] = float((at.grad - 2 * images).std())
        values = at.values - images.flatten(1).square().sum(1) - 16 * 0.25
    assert spread[1] == pytest.approx(1, rel=0.2), "a draw's gradient is off by 2·0.5"
    assert spread[400] == pytest.approx(1 / 20, rel=0.2)
    assert float(values.abs().max()) < 0.5


@pytest.mark.parametrize("goal", ["untargeted", "targeted"])
def test_logits_are_those_of_the_draw_farthest_from_the_goal(goal: str) -> None:
    """A goal counts as met only where every draw meets it."""
    answers = [torch.tensor([[3.0, 1, 0], [0, 2, 1], [5, 0, 0]]), torch.tensor([[0.0, 4, 0], [0, 1, 3], [0, 1, 0]])]

    class InTurn:
        calls = 0

        def __call__(self, images: Tensor) -> Tensor:
            self.calls += 1
            return answers[self.calls % 2][: len(images)] + 0 * images.flatten(1).sum(1, keepdim=True)

    labels = torch.tensor([0, 0, 0])
    problem = problem_of(InTurn(), pictures(3, 1, 2, 2), labels, 2)
    if goal == "targeted":
        problem = replace(problem, goal=sp.Targeted(torch.tensor([1, 2, 1])))
    expected = torch.stack([answers[0][0], answers[1][1] if goal == "untargeted" else answers[0][1], answers[0][2]])
    if goal == "untargeted":
        expected[1] = answers[0][1]  # leads by 2, the other draw by 3
    assert torch.equal(problem.logits(problem.images), expected)
    assert torch.equal(problem.gradient(problem.images, "cross_entropy").logits, expected)
    owners = torch.tensor([0, 1, 2])
    assert torch.equal(problem.logits_at(problem.images, owners), expected)


def test_on_a_model_without_randomness_only_the_bill_changes(
    digits_net: nn.Module, digits_data: tuple[Tensor, Tensor]
) -> None:
    images, labels = (part[:20] for part in digits_data)
    for inner in (PGD(steps=4, random_start=False), APGD(steps=4), RandomNoise(draws=4)):
        plain, drawn = problem_of(digits_net, images, labels), problem_of(digits_net, images, labels)
        torch.testing.assert_close(inner.run(plain), EOT(inner, draws=4).run(drawn), rtol=0, atol=1e-6)
        assert torch.equal(drawn.ledger.forwards, 4 * plain.ledger.forwards)
        assert torch.equal(drawn.ledger.backwards, 4 * plain.ledger.backwards)
    twice = problem_of(digits_net, images, labels)
    EOT(EOT(RandomNoise(draws=1), draws=2), draws=3).run(twice)
    assert twice.ledger.forwards.tolist() == [6] * 20


def test_a_lucky_draw_solves_nothing() -> None:
    """A model that is wrong now and then, whatever the image: no attack has anything to find."""

    class Moody(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.generator = generator(3)

        def forward(self, images: Tensor) -> Tensor:
            wrong = (torch.rand(len(images), generator=self.generator) < 0.3).double()
            return torch.stack([1 - 2 * wrong, wrong], 1) + 0 * images.flatten(1).sum(1, keepdim=True)

    images, labels = pictures(200, 1, 2, 2, dtype=torch.float64), torch.zeros(200).long()
    met = {}
    for draws in (1, 16):
        problem = problem_of(Moody(), images, labels, draws)
        met[draws] = int(problem.solved(problem.logits(images)).sum())
    assert met[1] > 40
    assert met[16] == 0


def test_eot_breaks_a_random_defense_that_single_draws_do_not(
    digits_net: nn.Module, digits_data: tuple[Tensor, Tensor]
) -> None:
    """Mean correctness over 50 fresh draws, independent of those that the attack saw."""
    images, labels = (part[:100] for part in digits_data)
    right = {}
    for text in ("pgd:steps=20", "pgd:steps=20+eot:draws=16"):
        found = parse(text)(Noisy(digits_net, 0.3), images, sp.Untargeted(labels), LINF)
        judge = Noisy(digits_net, 0.3)
        judge.generator = generator(99)
        with torch.no_grad():
            right[text] = sum(float((judge(found).argmax(1) == labels).double().mean()) for _ in range(50)) / 50
    alone, averaged = right.values()
    assert averaged < alone - 0.05, right


def test_the_driver_pays_for_the_draws_and_verifies_with_one(
    digits_net: nn.Module, digits_data: tuple[Tensor, Tensor]
) -> None:
    images, labels = (part[:20] for part in digits_data)
    texts = ["pgd:steps=3,early_stop=false", "pgd:steps=3,early_stop=false+eot:draws=5"]
    plain, drawn = (sp.evaluate(digits_net, images, labels, LINF, attacks=[text]).stages[0] for text in texts)
    assert drawn.backwards == 5 * plain.backwards
    assert drawn.forwards - drawn.tried == 5 * (plain.forwards - plain.tried)
    assert drawn.attack == texts[1]


def test_an_evaluation_with_a_wrapped_attack_resumes(
    digits_net: nn.Module, digits_data: tuple[Tensor, Tensor], tmp_path: object
) -> None:
    images, labels = (part[:20] for part in digits_data)
    calls = []

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = digits_net

        def forward(self, x: Tensor) -> Tensor:
            calls.append(len(x))
            return self.net(x)

    for _ in range(2):
        calls.clear()
        sp.evaluate(Counting(), images, labels, LINF, attacks=["pgd:steps=5+eot:draws=2+grid"], out=str(tmp_path))
    assert sum(calls) < 100, "read from the records, not attacked again"
