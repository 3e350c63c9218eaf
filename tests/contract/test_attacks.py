"""The contract every attack of the table keeps, in every norm it offers, with and without a target."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable

import pytest
import torch
from tests.helpers_core import (
    Linear,
    assert_allowed,
    forked_seed,
    generator,
    global_random_state,
    pictures,
)
from torch import Tensor, nn

import sparring as sp
from sparring.attacks import ATTACKS, FGSM, PGD, Attack, parse
from sparring.errors import InputError, ModelError, UnsupportedError

EPS = {"linf": 0.08, "l2": 0.5, "l1": 1.5, "l0": 3}
CHEAP = {
    "attack": PGD(steps=4),
    "steps": 4,
    "draws": 4,
    "queries": 40,
    "iterations": 4,
    "restarts": 1,
    "search_steps": 2,
}
EXTRA = ("fgsm:random_start=true,step=1.25", "pgd:steps=3,restarts=3,loss=margin", "pgd:steps=3,early_stop=false")
EXTRA += ("apgd:steps=6,restarts=2,loss=dlr,targets=2", "pgd:steps=3+eot:draws=2+grid:repairs=1")
GOALS = ("untargeted", "targeted")


def cheap(kind: type[Attack]) -> Attack:
    names = {field.name for field in dataclasses.fields(kind)}
    return kind(**{name: value for name, value in CHEAP.items() if name in names})


def instances() -> list[Attack]:
    """Those in a norm; for the other threats see `test_perturbations.py`."""
    return [cheap(kind) for kind in ATTACKS.values() if set(kind.threats) & set(EPS)] + [parse(text) for text in EXTRA]


CASES = [
    pytest.param(attack, norm, goal, id=f"{attack}-{norm}-{goal}")
    for attack in instances()
    for norm in attack.threats
    for goal in GOALS
]
NORM_CASES = [pytest.param(a, norm, id=f"{a}-{norm}") for a in instances() for norm in a.threats]
ALL = [pytest.param(attack, id=str(attack)) for attack in instances()]
RANDOM = {
    "apgd",
    "boundary",
    "difgsm",
    "transfer",
    "hopskipjump",
    "nes",
    "pgd",
    "random_noise",
    "random_search",
    "simba",
    "spsa",
    "square",
}


def is_random(attack: Attack) -> bool:
    return str(attack).partition(":")[0] in RANDOM or bool(getattr(attack, "random_start", False))


def goal_for(name: str, model: Callable[[Tensor], Tensor], images: Tensor) -> sp.Untargeted | sp.Targeted:
    with torch.no_grad():
        logits = model(images)
    if name == "targeted":
        return sp.Targeted((logits.argmax(1) + 1) % logits.shape[1])
    return sp.Untargeted(logits.argmax(1))


def norm_of(attack: Attack) -> str:
    return attack.threats[0]


@pytest.mark.parametrize(("attack", "norm", "goal"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
def test_stays_in_box_and_budget(attack: Attack, norm: str, goal: str, dtype: torch.dtype) -> None:
    images = pictures(7, 2, 3, 5, dtype=dtype)
    model = Linear(30, 4, dtype=dtype)
    found = attack(model, images, goal_for(goal, model, images), sp.ThreatModel(norm, EPS[norm]))
    assert_allowed(images, found, norm, EPS[norm])
    assert not found.requires_grad


@pytest.mark.parametrize(("attack", "norm", "goal"), CASES)
def test_stays_in_another_box(attack: Attack, norm: str, goal: str) -> None:
    images = pictures(5, 1, 4, 4) * 2 - 1
    model = Linear(16)
    threat = sp.ThreatModel(norm, EPS[norm], bounds=(-1, 1))
    found = attack(model, images, goal_for(goal, model, images), threat)
    assert_allowed(images, found, norm, EPS[norm], (-1.0, 1.0))
    assert float(found.min()) < -0.5, "the lower half of the box is used"


@pytest.mark.parametrize(("attack", "norm", "goal"), CASES)
def test_same_seed_same_result_whatever_the_batch_and_order(attack: Attack, norm: str, goal: str) -> None:
    images = pictures(9, 1, 4, 4, dtype=torch.float64)
    model = Linear(16, 4, dtype=torch.float64)
    threat, aim = sp.ThreatModel(norm, EPS[norm]), goal_for(goal, model, images)
    whole = attack(model, images, aim, threat, generator=generator(5))
    assert torch.equal(whole, attack(model, images, aim, threat, generator=generator(5)))
    order = torch.tensor([3, 0, 8, 1, 7, 2, 6, 5, 4])
    shuffled = attack(model, images[order], aim.select(order), threat, generator=generator(5))
    torch.testing.assert_close(shuffled, whole[order], rtol=0, atol=1e-9)
    for part in (slice(0, 1), slice(1, 4), slice(4, 9)):
        alone = attack(model, images[part], aim.select(part), threat, generator=generator(5))
        torch.testing.assert_close(alone, whole[part], rtol=0, atol=1e-9)


@pytest.mark.parametrize(("attack", "norm"), NORM_CASES)
def test_another_seed_changes_random_attacks_only(attack: Attack, norm: str) -> None:
    images, model = pictures(6, 1, 4, 4), Linear(16, 3, dtype=torch.float32)
    threat, aim = sp.ThreatModel(norm, max(1, EPS[norm]) * 0.01 if norm != "l0" else 1), goal_for("x", model, images)
    runs = [attack(model, images, aim, threat, generator=generator(seed)) for seed in (1, 2)]
    if not is_random(attack):
        assert torch.equal(*runs)
    elif attack.access == "logits":
        assert not torch.equal(*runs)
    default = attack(model, images, aim, threat)
    assert torch.equal(default, attack(model, images, aim, threat)), "no generator means seed 0"


def test_random_starts_depend_on_the_seed() -> None:
    """In l1 and l0 the first run of PGD begins at the image, so only linf and l2 start at random."""
    images, model = pictures(6, 1, 4, 4), Linear(16)
    aim = goal_for("x", model, images)
    attack = PGD(steps=1, step_size=1e-6)
    for norm, eps in (("linf", EPS["linf"]), ("l2", EPS["l2"])):
        first, second = (attack(model, images, aim, sp.ThreatModel(norm, eps), generator=generator(s)) for s in (1, 2))
        assert not torch.equal(first, second), norm


@pytest.mark.parametrize(("attack", "norm", "goal"), CASES)
def test_eps_zero_returns_the_image(attack: Attack, norm: str, goal: str) -> None:
    images, model = pictures(4, 1, 4, 4), Linear(16)
    found = attack(model, images, goal_for(goal, model, images), sp.ThreatModel(norm, 0))
    assert torch.equal(found, images)


@pytest.mark.parametrize(("attack", "norm", "goal"), CASES)
def test_images_already_wrong_stay_wrong(attack: Attack, norm: str, goal: str) -> None:
    images, model = pictures(6, 1, 4, 4), Linear(16)
    right = model(images).argmax(1).detach()
    aim = sp.Targeted(right) if goal == "targeted" else sp.Untargeted((right + 1) % 3)
    met_before = aim.is_met(model(images))
    assert bool(met_before.all())
    found = attack(model, images, aim, sp.ThreatModel(norm, EPS[norm]))
    assert_allowed(images, found, norm, EPS[norm])
    if isinstance(attack, PGD) or str(attack).startswith(("bim", "mifgsm")):
        assert bool(aim.is_met(model(found)).all())


@pytest.mark.parametrize(("attack", "norm"), NORM_CASES)
@pytest.mark.parametrize("shape", [(1, 1, 6, 3), (3, 3, 2, 5), (2, 2, 1, 1), (1, 5, 3, 3), (4, 11), (1, 1)], ids=str)
def test_any_shape(attack: Attack, norm: str, shape: tuple[int, ...]) -> None:
    images = pictures(*shape)
    model = Linear(images[0].numel())
    found = attack(model, images, goal_for("untargeted", model, images), sp.ThreatModel(norm, EPS[norm]))
    assert_allowed(images, found, norm, EPS[norm])


@pytest.mark.parametrize(("attack", "norm", "goal"), CASES)
@pytest.mark.parametrize("mask_shape", [(2, 4, 4), (1, 4, 4), (4, 4)], ids=str)
def test_masked_pixels_do_not_move(attack: Attack, norm: str, goal: str, mask_shape: tuple[int, ...]) -> None:
    images, model = pictures(5, 2, 4, 4), Linear(32)
    mask = torch.rand(mask_shape, generator=generator(3)) < 0.5
    threat = sp.ThreatModel(norm, EPS[norm], mask=mask)
    found = attack(model, images, goal_for(goal, model, images), threat)
    fixed = ~mask.broadcast_to(images.shape)
    assert torch.equal(found[fixed], images[fixed])
    assert_allowed(images, found, norm, EPS[norm])
    if attack.access == "gradients":
        assert not torch.equal(found, images), "where the mask allows it, something moves"
    nothing = sp.ThreatModel(norm, EPS[norm], mask=torch.zeros(mask_shape, dtype=torch.bool))
    assert torch.equal(attack(model, images, goal_for(goal, model, images), nothing), images)


def layouts(images: Tensor) -> dict[str, Tensor]:
    spread = torch.zeros(*images.shape[:-1], images.shape[-1] * 2)
    spread[..., ::2] = images
    return {
        "strided": spread[..., ::2],
        "channels_last": images.contiguous(memory_format=torch.channels_last),
        "transposed": images.transpose(2, 3).contiguous().transpose(2, 3),
    }


@pytest.mark.parametrize(("attack", "norm"), NORM_CASES)
def test_memory_layout_of_the_input_does_not_matter(attack: Attack, norm: str) -> None:
    images, model = pictures(4, 3, 4, 6), Linear(72)
    threat, aim = sp.ThreatModel(norm, EPS[norm]), goal_for("untargeted", model, images)
    expected = attack(model, images, aim, threat)
    for name, same in layouts(images).items():
        found = attack(model, same, aim, threat)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6, msg=name)
        assert not found.requires_grad
    repeated = images[:1].expand(3, -1, -1, -1)
    first = aim.select(torch.tensor([0, 0, 0]))
    assert_allowed(repeated, attack(model, repeated, first, threat), norm, EPS[norm])


@pytest.mark.parametrize("attack", ALL)
def test_images_may_carry_gradients(attack: Attack) -> None:
    images, model = pictures(4, 1, 4, 4), Linear(16)
    threat, aim = sp.ThreatModel(norm_of(attack), EPS[norm_of(attack)]), goal_for("untargeted", model, images)
    expected = attack(model, images, aim, threat)
    leaf = images.clone().requires_grad_()
    always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        for same in (leaf, leaf * 1.0):
            found = attack(model, same, aim, threat)
            assert torch.equal(found, expected)
            assert not found.requires_grad
    finally:
        torch.set_warn_always(always)
    assert leaf.grad is None


class Lively(nn.Module):
    """Batch norm, dropout, a shared block, and `.view` after the convolution."""

    def __init__(self) -> None:
        super().__init__()
        with forked_seed(1):
            self.conv = nn.Conv2d(2, 4, 3, padding=1)
            self.norm = nn.BatchNorm2d(4)
            self.drop = nn.Dropout(0.5)
            self.shared = nn.Linear(64, 64)
            self.head = nn.Linear(64, 3)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(images))).view(len(images), -1)
        return self.head(self.drop(self.shared(torch.relu(self.shared(x)))))


@pytest.mark.parametrize(("attack", "norm"), NORM_CASES)
def test_leaves_no_trace(attack: Attack, norm: str) -> None:
    model = Lively().train()
    model.norm.eval()
    model.conv.weight.requires_grad_(False)
    model.head.weight.grad = torch.full_like(model.head.weight, 7.0)
    images = pictures(5, 2, 4, 4)
    labels, before = torch.tensor([0, 1, 2, 0, 1]), images.clone()
    modes = [m.training for m in model.modules()]
    flags = [p.requires_grad for p in model.parameters()]
    state = copy.deepcopy(model.state_dict())
    randomness = global_random_state()
    grad_mode = torch.is_grad_enabled()
    mask = torch.rand(4, 4, generator=generator(0)) < 0.7
    attack(model, images, sp.Untargeted(labels), sp.ThreatModel(norm, EPS[norm], mask=mask))
    assert torch.equal(images, before)
    assert not images.requires_grad
    assert labels.tolist() == [0, 1, 2, 0, 1]
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(p.grad is None for n, p in model.named_parameters() if n != "head.weight")
    assert bool((model.head.weight.grad == 7).all())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._backward_hooks or m._forward_pre_hooks for m in model.modules())
    assert global_random_state() == randomness
    assert torch.is_grad_enabled() == grad_mode


@pytest.mark.parametrize("attack", ALL)
def test_leaves_no_trace_when_the_model_fails(attack: Attack) -> None:
    class Failing(Lively):
        calls = 0

        def forward(self, images: Tensor) -> Tensor:
            self.calls += 1
            if self.calls > 5:
                raise RuntimeError("lost the device")
            return super().forward(images)

    model = Failing().train()
    model.norm.eval()
    modes = [m.training for m in model.modules()]
    model.calls = 5
    with pytest.raises(ModelError, match="lost the device"):
        attack(model, pictures(3, 2, 4, 4), sp.Untargeted(torch.zeros(3).long()), sp.ThreatModel(norm_of(attack), 1))
    assert [m.training for m in model.modules()] == modes
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("attack", ALL)
def test_a_model_in_training_mode_is_attacked_as_it_is_deployed(attack: Attack) -> None:
    images = pictures(6, 2, 4, 4)
    threat = sp.ThreatModel(norm_of(attack), EPS[norm_of(attack)])
    aim = goal_for("untargeted", Lively().eval(), images)
    trained, deployed = (attack(model, images, aim, threat) for model in (Lively().train(), Lively().eval()))
    assert torch.equal(trained, deployed)


@pytest.mark.parametrize("attack", ALL)
def test_works_inside_no_grad(attack: Attack) -> None:
    images, model = pictures(4, 1, 4, 4), Linear(16)
    threat, aim = sp.ThreatModel(norm_of(attack), EPS[norm_of(attack)]), goal_for("untargeted", model, images)
    expected = attack(model, images, aim, threat)
    with torch.no_grad():
        assert torch.equal(attack(model, images, aim, threat), expected)


@pytest.mark.parametrize("attack", ALL)
def test_works_on_plain_functions(attack: Attack) -> None:
    images, model = pictures(4, 1, 4, 4), Linear(16)
    threat, aim = sp.ThreatModel(norm_of(attack), EPS[norm_of(attack)]), goal_for("untargeted", model, images)
    expected = attack(model, images, aim, threat)
    assert torch.equal(attack(lambda x: model(x), images, aim, threat), expected)
    assert model.weight.grad is None


@pytest.mark.parametrize("attack", ALL)
def test_unusable_input_is_refused(attack: Attack) -> None:
    images, model, threat = pictures(3, 1, 4, 4), Linear(16), sp.ThreatModel(norm_of(attack), 1)
    aim = sp.Untargeted(torch.zeros(3).long())
    for bad in (images * 255, images - 0.5, (images * 255).byte(), images[:0], images * torch.nan, images.numpy()):
        with pytest.raises(InputError):
            attack(model, bad, aim, threat)
    with pytest.raises(InputError, match="wrap the labels"):
        attack(model, images, torch.zeros(3).long(), threat)
    with pytest.raises(InputError):
        attack(model, images, sp.Untargeted(torch.zeros(4).long()), threat)
    with pytest.raises(InputError, match="does not exist"):
        attack(model, images, sp.Untargeted(torch.tensor([0, 1, 3])), threat)
    with pytest.raises(InputError, match="broadcast"):
        attack(model, images, aim, sp.ThreatModel(threat.norm, 1, mask=torch.ones(5, 5, dtype=torch.bool)))
    for norm in set(EPS) - set(attack.threats):
        with pytest.raises(UnsupportedError):
            attack(model, images, aim, sp.ThreatModel(norm, 1))


@pytest.mark.parametrize("attack", ALL)
def test_text_form_round_trip(attack: Attack) -> None:
    assert parse(str(attack)) == attack
    assert str(parse(str(attack))) == str(attack)


def broken(model: nn.Module, found: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        return model(found).argmax(1) != labels


DIGIT_EPS = {"linf": (0.05, 0.1), "l2": (0.4, 0.7), "l1": (1.0, 2.0), "l0": (1, 2, 3)}
DIGIT_CASES = [(norm, eps) for norm, values in DIGIT_EPS.items() for eps in values]


@pytest.mark.parametrize(("norm", "eps"), DIGIT_CASES)
def test_iterative_attacks_never_lose_to_noise(
    norm: str, eps: float, digits_net: nn.Module, digits_data: tuple[Tensor, Tensor]
) -> None:
    images, labels = (part[:200] for part in digits_data)
    threat, aim = sp.ThreatModel(norm, eps), sp.Untargeted(labels)
    noise = broken(digits_net, parse("random_noise:draws=20")(digits_net, images, aim, threat), labels).sum()
    for text in ("fgsm", "bim:steps=10", "mifgsm:steps=10", "pgd:steps=10", "pgd:steps=10,loss=margin"):
        found = broken(digits_net, parse(text)(digits_net, images, aim, threat), labels).sum()
        assert found >= noise, f"{text}: {found} of 200, noise {noise}"


@pytest.mark.parametrize(("norm", "eps"), DIGIT_CASES)
def test_pgd_never_loses_to_one_step(
    norm: str, eps: float, digits_net: nn.Module, digits_data: tuple[Tensor, Tensor]
) -> None:
    images, labels = (part[:200] for part in digits_data)
    threat, aim = sp.ThreatModel(norm, eps), sp.Untargeted(labels)
    once, many = (broken(digits_net, a(digits_net, images, aim, threat), labels).sum() for a in (FGSM(), PGD()))
    assert 10 <= many < 200, "the comparison says something"
    assert many >= once, f"PGD broke {many} of 200, FGSM {once}"


def test_more_budget_and_more_restarts_never_hurt(digits_net: nn.Module, digits_data: tuple[Tensor, Tensor]) -> None:
    images, labels = (part[:120] for part in digits_data)
    aim = sp.Untargeted(labels)
    shares = []
    for eps in (0.02, 0.05, 0.1, 0.2, 0.4):
        found = PGD(steps=15)(digits_net, images, aim, sp.ThreatModel("linf", eps))
        shares.append(broken(digits_net, found, labels).double().mean().item())
    assert shares == sorted(shares)
    assert shares[-1] == 1
    threat = sp.ThreatModel("linf", 0.08)
    one, more = (broken(digits_net, PGD(steps=5, restarts=r)(digits_net, images, aim, threat), labels) for r in (1, 4))
    assert more.sum() >= one.sum()


def test_pgd_keeps_the_best_iterate_not_the_last() -> None:
    """A loss with a narrow summit: steps far too long jump over it, and the last iterate is back where it began."""

    def model(x: Tensor) -> Tensor:
        u = x.flatten(1).mean(1)
        summit = 1 - (u - 0.53).abs() * 40
        return torch.stack([torch.full_like(u, 0.5), summit], 1)

    images = torch.full((4, 1, 2, 2), 0.5)
    threat, labels = sp.ThreatModel("linf", 0.1), torch.zeros(4).long()
    for steps in (1, 2, 3, 4, 5, 6):
        attack = PGD(steps=steps, step_size=0.025, random_start=False, loss="margin", early_stop=False)
        found = attack(model, images, sp.Untargeted(labels), threat)
        assert bool((model(found).argmax(1) == 1).all()), f"{steps} steps"


def test_attacks_reach_the_target(digits_net: nn.Module, digits_data: tuple[Tensor, Tensor]) -> None:
    images, labels = (part[:60] for part in digits_data)
    targets = (labels + 3) % 10
    found = PGD(steps=30, loss="margin")(digits_net, images, sp.Targeted(targets), sp.ThreatModel("linf", 0.4))
    assert (digits_net(found).argmax(1) == targets).double().mean() > 0.95
    least = FGSM(aim="least_likely")(digits_net, images, sp.Untargeted(labels), sp.ThreatModel("linf", 0.2))
    unlikely = digits_net(images).argmin(1)
    rows = torch.arange(60)
    assert bool((digits_net(least)[rows, unlikely] > digits_net(images)[rows, unlikely]).double().mean() > 0.95)
