"""The contract of the attacks beyond the ball: what `test_attacks.py` asks of the others, in their own threats."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from tests.contract.test_attacks import Lively, goal_for, layouts
from tests.helpers_core import Linear, generator, global_random_state, pictures
from torch import Tensor

import sparring as sp
from sparring.attacks import ATTACKS, Attack, PatchAttack, WorstOf, parse
from sparring.errors import InputError, ModelError, UnsupportedError
from sparring.norms import NORMS
from sparring.perturbations import Corruptions, Patch, Spatial
from sparring.threat import Threat

PATCH = PatchAttack(steps=4, places=2, proposals=6)
NOISY = Corruptions(severity=2, names=["gaussian_noise", "fog", "contrast", "jpeg"])
TURN = Spatial(rotation=20, translation=0.2, turns=3, shifts=3)
PAIRS: list[tuple[Attack, Threat]] = [
    (PATCH, Patch(0.15)),
    (PATCH, Patch(0.3, "circle")),
    (WorstOf(), TURN),
    (WorstOf(draws=4), TURN),
    (WorstOf(), NOISY),
    (WorstOf(draws=3), NOISY),
]
CASES = [pytest.param(attack, threat, id=f"{attack}-{threat}") for attack, threat in PAIRS]
GOALS = ("untargeted", "targeted")


def in_box(threat: Threat, low: float, high: float) -> Threat:
    return dataclasses.replace(threat, bounds=(low, high))  # type: ignore[type-var]


def test_every_attack_beyond_the_ball_is_here() -> None:
    beyond = {kind for kind in ATTACKS.values() if not set(kind.threats) & set(NORMS)}
    assert beyond == {type(attack) for attack, _ in PAIRS}
    for attack, threat in PAIRS:
        assert threat.norm in attack.threats
        assert isinstance(threat, Threat)


@pytest.mark.parametrize(("attack", "threat"), CASES)
@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
def test_stays_in_the_threat(attack: Attack, threat: Threat, goal: str, dtype: torch.dtype) -> None:
    for low, high in ((0.0, 1.0), (-1.0, 3.0)):
        images = pictures(7, 2, 5, 6, dtype=dtype) * (high - low) + low
        model, within = Linear(60, 4, dtype=dtype), in_box(threat, low, high)
        found = attack(model, images, goal_for(goal, model, images), within)
        assert found.shape == images.shape
        assert found.dtype == dtype
        assert not found.requires_grad
        assert bool(within.contains(images, found).all())
        assert bool((within.distance(images, found) <= within.eps + 1e-9).all())
        assert bool((found != images).any()), "something was tried"
        far = torch.rand(images.shape, generator=generator(9), dtype=dtype) * (high - low) + low
        assert not bool(within.contains(images, far).any()), "noise all over is another threat"


@pytest.mark.parametrize(("attack", "threat"), CASES)
@pytest.mark.parametrize("goal", GOALS)
def test_same_seed_same_result_whatever_the_batch_and_order(attack: Attack, threat: Threat, goal: str) -> None:
    images = pictures(9, 1, 6, 6, dtype=torch.float64)
    model = Linear(36, 4, dtype=torch.float64)
    aim = goal_for(goal, model, images)
    whole = attack(model, images, aim, threat, generator=generator(5))
    assert torch.equal(whole, attack(model, images, aim, threat, generator=generator(5)))
    order = torch.tensor([3, 0, 8, 1, 7, 2, 6, 5, 4])
    shuffled = attack(model, images[order], aim.select(order), threat, generator=generator(5))
    torch.testing.assert_close(shuffled, whole[order], rtol=0, atol=1e-9)
    for part in (slice(0, 1), slice(1, 4), slice(4, 9)):
        alone = attack(model, images[part], aim.select(part), threat, generator=generator(5))
        torch.testing.assert_close(alone, whole[part], rtol=0, atol=1e-9)


def test_another_seed_draws_other_changes() -> None:
    images, model = pictures(8, 1, 6, 6), Linear(36, 2)
    aim = goal_for("x", model, images)
    runs = [WorstOf(draws=1)(model, images, aim, TURN, generator=generator(seed)) for seed in (1, 2)]
    assert not torch.equal(*runs)


@pytest.mark.parametrize("goal", GOALS)
def test_no_budget_returns_the_image(goal: str) -> None:
    images, model = pictures(4, 1, 4, 4), Linear(16)
    aim = goal_for(goal, model, images)
    for threat in (Patch(0), Patch(0.06), Patch(0, "circle")):
        assert torch.equal(PATCH(model, images, aim, threat), images)
    still = WorstOf()(model, images, aim, Spatial(rotation=0, translation=0))
    torch.testing.assert_close(still, images)


@pytest.mark.parametrize(("attack", "threat"), CASES)
@pytest.mark.parametrize("goal", GOALS)
def test_images_already_wrong_stay_wrong(attack: Attack, threat: Threat, goal: str) -> None:
    images, model = pictures(6, 1, 6, 6), Linear(36)
    right = model(images).argmax(1).detach()
    aim = sp.Targeted(right) if goal == "targeted" else sp.Untargeted((right + 1) % 3)
    found = attack(model, images, aim, threat)
    assert bool(threat.contains(images, found).all())
    assert isinstance(attack, WorstOf) or bool(aim.is_met(model(found)).all())


@pytest.mark.parametrize(("attack", "threat"), CASES)
@pytest.mark.parametrize("shape", [(1, 1, 6, 3), (3, 3, 2, 5), (2, 2, 1, 1), (1, 5, 3, 3)], ids=str)
def test_any_picture(attack: Attack, threat: Threat, shape: tuple[int, ...]) -> None:
    images = pictures(*shape)
    model = Linear(images[0].numel())
    found = attack(model, images, goal_for("untargeted", model, images), threat)
    assert bool(threat.contains(images, found).all())


@pytest.mark.parametrize(("attack", "threat"), CASES)
def test_what_is_no_picture_is_refused(attack: Attack, threat: Threat) -> None:
    images, model = pictures(4, 11), Linear(11)
    with pytest.raises(InputError, match="N, C, H, W"):
        attack(model, images, goal_for("untargeted", model, images), threat)


@pytest.mark.parametrize(("attack", "threat"), CASES)
def test_memory_layout_of_the_input_does_not_matter(attack: Attack, threat: Threat) -> None:
    images, model = pictures(4, 3, 6, 8), Linear(144)
    aim = goal_for("untargeted", model, images)
    expected = attack(model, images, aim, threat)
    for name, same in layouts(images).items():
        torch.testing.assert_close(attack(model, same, aim, threat), expected, rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize(("attack", "threat"), CASES)
def test_leaves_no_trace(attack: Attack, threat: Threat) -> None:
    model = Lively().train()
    model.norm.eval()
    images = pictures(5, 2, 4, 4).requires_grad_()
    labels, before = torch.tensor([0, 1, 2, 0, 1]), images.detach().clone()
    modes = [m.training for m in model.modules()]
    state, randomness = copy.deepcopy(model.state_dict()), global_random_state()
    found = attack(model, images, sp.Untargeted(labels), threat)
    assert not found.requires_grad
    assert images.grad is None
    assert torch.equal(images.detach(), before)
    assert [m.training for m in model.modules()] == modes
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert global_random_state() == randomness


@pytest.mark.parametrize(("attack", "threat"), CASES)
def test_the_wrong_threat_is_refused(attack: Attack, threat: Threat) -> None:
    images, model = pictures(2, 1, 4, 4), Linear(16)
    aim = goal_for("untargeted", model, images)
    others = [t for _, t in PAIRS if t.norm not in attack.threats] + [sp.ThreatModel("linf", 0.1)]
    for other in others:
        with pytest.raises(UnsupportedError):
            attack(model, images, aim, other)
        with pytest.raises(UnsupportedError):
            sp.evaluate(model, images, aim.reference, other, attacks=[attack])
    with pytest.raises(UnsupportedError):
        sp.attacks.PGD()(model, images, aim, threat)
    with pytest.raises(InputError):
        sp.evaluate(model, images, aim.reference, "patch", attacks=[attack])  # type: ignore[arg-type]
    with pytest.raises(InputError):
        attack(model, images * 255, aim, threat)
    with pytest.raises(ModelError):
        attack(lambda x: x, images, aim, threat)


@pytest.mark.parametrize(("attack", "threat"), CASES)
def test_text_form_round_trip(attack: Attack, threat: Threat) -> None:
    assert parse(str(attack)) == attack
    assert eval(repr(threat), {kind.__name__: kind for kind in (Patch, Spatial, Corruptions)}) == threat


@pytest.mark.parametrize(("attack", "threat"), CASES)
def test_nan_logits_never_count(attack: Attack, threat: Threat) -> None:
    inner = Linear(36)
    images = pictures(6, 1, 6, 6)

    def model(x: Tensor) -> Tensor:
        logits = inner(x)
        odd = (x[:, 0, 0, 0] * 1e4).round() % 2 > 0
        return torch.where(odd[:, None] & ~known(x)[:, None], torch.nan, logits)

    def known(x: Tensor) -> Tensor:
        return torch.stack([(images == one).flatten(1).all(1).any() for one in x])

    labels = inner(images).argmax(1).detach()
    found = sp.evaluate(model, images, labels, threat, attacks=[attack])
    assert found.stages[0].rejected == 0
    for index, adversarial in found.adversarials.items():
        assert int(model(adversarial[None]).argmax()) != int(labels[index])
        assert bool(model(adversarial[None]).isfinite().all())


@dataclass(frozen=True, kw_only=True)
class Cheat(Attack):
    """Claims what no patch, turn or corruption makes."""

    threats: ClassVar[tuple[str, ...]] = ("patch", "spatial", "corruption")
    paper: ClassVar[str] = "none"

    def run(self, problem: sp.problem.Problem) -> Tensor:
        return 1 - problem.images


@pytest.mark.parametrize(("attack", "threat"), CASES)
def test_the_driver_checks_every_candidate(attack: Attack, threat: Threat) -> None:
    images, model = pictures(12, 1, 6, 6), Linear(36)
    labels = model(images).argmax(1).detach()
    cheated = sp.evaluate(model, images, labels, threat, attacks=[Cheat()])
    assert cheated.stages[0].rejected == 12
    assert cheated.robust_accuracy == 1
    honest = sp.evaluate(model, images, labels, threat, attacks=[attack])
    assert honest.stages[0].rejected == 0
    assert honest.robust_accuracy < 1
    for index, record in enumerate(honest.records):
        broken = index in honest.adversarials
        assert broken == (record.broken_by == str(attack))
        if broken:
            adversarial = honest.adversarials[index][None]
            assert int(model(adversarial).argmax()) == record.adversarial_prediction != record.label
            assert record.distance == pytest.approx(float(threat.distance(images[index][None], adversarial)))


@pytest.mark.parametrize("threat", [threat for _, threat in PAIRS[::2]], ids=str)
def test_an_effort_finds_the_attacks_that_fit(threat: Threat) -> None:
    images, model = pictures(6, 1, 6, 6), Linear(36)
    labels = model(images).argmax(1).detach()
    found = sp.evaluate(model, images, labels, threat, effort="quick")
    assert found.stages
    assert all(threat.norm in parse(stage.attack).threats for stage in found.stages)


def other_threats() -> list[Threat]:
    patches = [Patch(0.1), Patch(0.2), Patch(0.1, "circle"), Patch(0.1, bounds=(0, 2))]
    turns = [Spatial(rotation=1), Spatial(rotation=2), Spatial(rotation=1, padding="border"), Spatial(turns=3)]
    turns += [Spatial(shifts=3), Spatial(translation=0.2)]
    weather = [Corruptions(), Corruptions(severity=2), Corruptions(names=["fog"]), Corruptions(seed=1)]
    return [*patches, *turns, *weather, sp.ThreatModel("linf", 0.1)]


def test_every_threat_has_a_key_of_its_own() -> None:
    keys = [str(sorted(threat.key().items())) for threat in other_threats()]
    assert len(set(keys)) == len(keys)
    assert str(Corruptions().key()) == str(Corruptions(names=list(sp.perturbations.RECIPES)).key())


def test_records_resume_under_the_same_threat_only(tmp_path: Path) -> None:
    images, model = pictures(6, 1, 6, 6), Linear(36)
    labels = model(images).argmax(1).detach()

    def folders() -> int:
        return len(list(tmp_path.iterdir()))

    first = sp.evaluate(model, images, labels, Patch(0.1), attacks=[PATCH], out=tmp_path)
    again = sp.evaluate(model, images, labels, Patch(0.1), attacks=[PATCH], out=tmp_path)
    assert again.records == first.records
    assert folders() == 1
    sp.evaluate(model, images, labels, Patch(0.1, "circle"), attacks=[PATCH], out=tmp_path)
    assert folders() == 2


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Patch(-0.1),
        lambda: Patch(1.5),
        lambda: Patch("many"),
        lambda: Patch(0.1, "star"),
        lambda: Patch(0.1, bounds=(1, 0)),
        lambda: Spatial(rotation=-1),
        lambda: Spatial(rotation="far"),  # type: ignore[arg-type]
        lambda: Spatial(translation=2),
        lambda: Spatial(turns=4),
        lambda: Spatial(shifts=0),
        lambda: Spatial(turns=True),
        lambda: Spatial(padding="mirror"),
        lambda: Corruptions(severity=0),
        lambda: Corruptions(severity=True),
        lambda: Corruptions(severity=2.5),  # type: ignore[arg-type]
        lambda: Corruptions(names=["rain"]),
        lambda: Corruptions(names=[]),
        lambda: PatchAttack(places=4, proposals=3),
        lambda: PatchAttack(steps=0),
        lambda: PatchAttack(loss="hinge"),
        lambda: WorstOf(draws=0),
    ],
)
def test_a_mistake_is_explained(wrong: object) -> None:
    with pytest.raises(InputError):
        wrong()  # type: ignore[operator]
