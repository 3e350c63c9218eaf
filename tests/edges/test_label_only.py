"""Models that show only logits, or only labels: what they answer, who may attack them, what a verdict on them says."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tests.helpers_core import NORMS, Linear, forked_seed, pictures
from torch import Tensor, nn

import sparring as sp
from sparring.attacks import ATTACKS, PGD, Attack, Boundary, HopSkipJump, RandomNoise, Square
from sparring.attacks.base import opened
from sparring.auditing.preflight import preflight
from sparring.batching import plan
from sparring.black_box import ACCESS, access_of
from sparring.errors import InputError, ModelError, SparringError, UnsupportedError
from sparring.model import Normalised, OutputAdapter, model_digest

IMAGES = pictures(8, 1, 4, 4)
MODEL = Linear(16, 3)
LABELS = MODEL(IMAGES).argmax(1)
THREAT = sp.ThreatModel("linf", 0.3)


def labels_of(images: Tensor) -> Tensor:
    return MODEL(images).argmax(1)


def box(access: str = "labels") -> sp.BlackBox:
    return sp.BlackBox(labels_of if access == "labels" else MODEL, access=access, classes=3)


# --- the box ---------------------------------------------------------------


@pytest.mark.parametrize(
    "inner", [labels_of, MODEL, lambda x: labels_of(x).to(torch.uint8)], ids=["ints", "scores", "u8"]
)
def test_labels_become_certain_logits(inner: object) -> None:
    shown = sp.BlackBox(inner, access="labels", classes=3)(IMAGES)
    assert torch.equal(shown.argmax(1), LABELS)
    assert torch.equal(shown.softmax(1), nn.functional.one_hot(LABELS, 3).float())
    assert sorted(set(shown.flatten().tolist())) == [-math.inf, 0.0]
    assert shown.dtype == IMAGES.dtype
    assert sp.BlackBox(MODEL, access="labels")(IMAGES).shape == (8, 3), "scores tell the number of classes"


def test_logits_pass_unchanged_and_take_no_gradient_along() -> None:
    shown = sp.BlackBox(MODEL)
    assert torch.equal(shown(IMAGES), MODEL(IMAGES))
    for access in ("logits", "labels"):
        points = IMAGES.clone().requires_grad_()
        answers = box(access)(points)
        with pytest.raises(UnsupportedError, match=f"shows only its {access}"):
            torch.autograd.grad(answers[:, 0].sum(), points)
        assert points.grad is None
        assert MODEL.weight.grad is None


def test_a_row_of_nan_has_no_label() -> None:
    def silent(images: Tensor) -> Tensor:
        scores = MODEL(images).detach()
        scores[2, 1] = torch.nan
        return scores

    shown = sp.BlackBox(silent, access="labels")(IMAGES)
    assert bool(shown[2].isnan().all())
    assert not bool(shown[[0, 1, 3]].isnan().any())
    assert not sp.Untargeted((LABELS + 1) % 3).is_met(shown)[2]


@pytest.mark.parametrize(
    ("answer", "classes", "said"),
    [
        (lambda x: labels_of(x), None, "classes=10"),
        (lambda x: labels_of(x) + 1, 3, "labels from 1 to 3, but classes=3"),
        (lambda x: labels_of(x) - 1, 3, "labels from -1"),
        (lambda x: labels_of(x)[:-1], 3, r"shape \(8,\)"),
        (lambda x: labels_of(x)[:, None], 3, r"shape \(8,\)"),
        (lambda x: labels_of(x) > 0, 3, "torch.bool"),
        (lambda x: labels_of(x).float(), 3, "one number per image"),
        (lambda x: labels_of(x).tolist(), 3, "not a tensor"),
        (lambda x: MODEL(x), 4, "3 scores per image, but classes=4"),
        (lambda x: 1 / 0, 3, "division by zero"),
    ],
)
def test_a_model_that_breaks_its_word_is_told_so(answer: object, classes: int | None, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        sp.BlackBox(answer, access="labels", classes=classes)(IMAGES)


@pytest.mark.parametrize(
    "wrong", [{"access": "gradients"}, {"access": "label"}, {"classes": 1}, {"classes": 2.0}, {"classes": True}]
)
def test_a_wrong_declaration_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError):
        sp.BlackBox(MODEL, **wrong)


def test_labels_without_a_declaration_say_what_to_declare() -> None:
    with pytest.raises(ModelError, match="BlackBox"):
        sp.evaluate(labels_of, IMAGES, LABELS, THREAT, attacks=["random_noise"])


def test_a_box_is_found_wherever_it_is() -> None:
    assert access_of(MODEL) == access_of(labels_of) == "gradients"
    assert access_of(box("logits")) == "logits"
    assert access_of(Normalised(box("labels"), 0.0, 1.0)) == "labels"
    assert access_of(OutputAdapter(nn.Sequential(nn.Identity(), box("logits")))) == "logits"
    assert access_of(sp.BlackBox(box("labels"), access="logits")) == "labels", "a box in a box shows no more"


def test_the_model_inside_is_planned_for_and_left_as_it_was() -> None:
    with forked_seed(0):
        inner = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 3)).train()
    assert plan(sp.BlackBox(inner), IMAGES) == plan(inner, IMAGES)
    shown = sp.BlackBox(inner, access="labels")
    before = inner[1].running_mean.clone()
    sp.evaluate(shown, IMAGES, LABELS, THREAT, attacks=["random_noise"])
    assert inner.training
    assert torch.equal(inner[1].running_mean, before)
    assert all(p.requires_grad for p in inner.parameters())


# --- identity --------------------------------------------------------------


def test_the_digest_knows_what_is_shown() -> None:
    shape = (1, 4, 4)
    digests = {model_digest(m, shape) for m in (MODEL, sp.BlackBox(MODEL), sp.BlackBox(MODEL, access="labels"))}
    assert len(digests) == 3
    assert model_digest(sp.BlackBox(MODEL, "labels"), shape) == model_digest(sp.BlackBox(MODEL, "labels"), shape)
    one, two = box(), box()
    assert model_digest(one, shape) == model_digest(one, shape)
    assert model_digest(one, shape) != model_digest(two, shape), "labels say too little to recognise a function by"


def test_records_of_one_function_are_never_taken_for_anothers(tmp_path: Path) -> None:
    def same_name(model: nn.Module) -> object:
        return lambda images: model(images).argmax(1)

    first = sp.BlackBox(same_name(MODEL), access="labels", classes=3)
    other = sp.BlackBox(same_name(lambda x: -MODEL(x)), access="labels", classes=3)
    kept = [
        sp.evaluate(m, IMAGES, LABELS, THREAT, attacks=["random_noise"], out=tmp_path).clean_accuracy.value
        for m in (first, other, first)
    ]
    assert kept[0] == kept[2] == 1
    assert kept[1] < 1


# --- who may attack --------------------------------------------------------


@pytest.mark.parametrize("access", ["logits", "labels"])
@pytest.mark.parametrize("name", [name for name, kind in ATTACKS.items() if kind.threats[0] in NORMS])
def test_attacks_that_need_more_are_refused_and_others_named(name: str, access: str) -> None:
    kind = ATTACKS[name]
    threat = sp.ThreatModel(kind.threats[0], 1)
    attack = kind()
    if ACCESS.index(kind.access) <= ACCESS.index(access):
        attack.check_access(box(access), threat)
        return
    for call in (
        lambda: attack(box(access), IMAGES, sp.Untargeted(LABELS), threat),
        lambda: sp.evaluate(box(access), IMAGES, LABELS, threat, attacks=[attack]),
    ):
        with pytest.raises(UnsupportedError, match=f"needs {kind.access}.*shows? only {access}") as refusal:
            call()
        named = str(refusal.value).rpartition(": ")[2].split(", ")
        assert named
        for other in named:
            assert threat.norm in ATTACKS[other].threats
            ATTACKS[other]().check_access(box(access), threat)


@pytest.mark.parametrize("access", ["logits", "labels"])
def test_an_effort_takes_what_can_be_had(access: str) -> None:
    evaluation = sp.evaluate(box(access), IMAGES, LABELS, sp.ThreatModel("l2", 0.7), effort="quick")
    assert evaluation.robust_accuracy < 1
    used = [ATTACKS[stage.attack.partition(":")[0]].access for stage in evaluation.stages]
    assert used
    assert set(used) <= set(ACCESS[: ACCESS.index(access) + 1])


def test_an_attack_that_hides_its_need_still_gets_no_gradient() -> None:
    attack = PGD(steps=2)
    goal = sp.Untargeted(LABELS)
    with (
        opened(RandomNoise(), box("logits"), IMAGES, goal, THREAT, None) as problem,
        pytest.raises(UnsupportedError, match="shows only its logits"),
    ):
        attack.run(problem)


# --- verdicts --------------------------------------------------------------


@pytest.mark.parametrize(
    "attack", [HopSkipJump(queries=400), Boundary(queries=400), RandomNoise(draws=50)], ids=lambda a: str(a)
)
def test_label_only_models_are_broken_and_no_margin_is_invented(attack: Attack) -> None:
    threat = sp.ThreatModel(attack.threats[0], 2.0 if attack.threats[0] == "l2" else 0.5)
    shown, open_ = (sp.evaluate(m, IMAGES, LABELS, threat, attacks=[attack]) for m in (box(), MODEL))
    assert all(record.margin is None for record in shown.records)
    assert all(record.margin is not None for record in open_.records)
    assert shown.clean_accuracy == 1
    assert shown.robust_accuracy < 1
    assert [r.broken_by for r in shown.records] == [r.broken_by for r in open_.records]
    assert all(record.forwards < 50 for record in shown.records if record.broken_by and isinstance(attack, RandomNoise))
    if not isinstance(attack, RandomNoise):  # noise leaves a model with logits only when the margin is beyond doubt
        assert [r.forwards for r in shown.records] == [r.forwards for r in open_.records]
        for index in shown.adversarials:
            assert torch.equal(shown.adversarials[index], open_.adversarials[index])


def test_logits_only_models_fall_to_square_as_open_ones_do() -> None:
    shown, open_ = (
        sp.evaluate(m, IMAGES, LABELS, THREAT, attacks=[Square(queries=100)]) for m in (box("logits"), MODEL)
    )
    assert shown.records == open_.records
    assert shown.robust_accuracy < 0.5


def test_targets_are_looked_for_with_labels_alone() -> None:
    targets = (LABELS + 1) % 3
    goal, threat = sp.Targeted(targets), sp.ThreatModel("l2", 9)
    found = HopSkipJump(queries=500).minimize(box(), IMAGES, goal, threat)
    met = labels_of(found) == targets
    assert met.double().mean() >= 0.5
    assert torch.equal(found[~met], IMAGES[~met]), "where no start was found, the image itself"


@pytest.mark.parametrize("access", ["logits", "labels"])
def test_preflight_and_audit_make_sense_of_it(access: str) -> None:
    images, labels = IMAGES.repeat(20, 1, 1, 1), LABELS.repeat(20)
    looked = preflight(box(access), images, labels, (0.0, 1.0))
    codes = {finding.code for finding in looked.findings}
    assert not codes & {"probability-outputs", "random-outputs", "batch-dependence", "zero-gradient", "at-chance"}
    assert not looked.differentiable
    assert looked.classes == 3
    attack = "square:queries=30" if access == "logits" else "hopskipjump:queries=60"
    report = sp.audit(box(access), images[:20], labels[:20], THREAT, attacks=[attack])
    assert report.evaluation.robust_accuracy.value < 1


def test_every_refusal_is_a_sparring_error() -> None:
    with pytest.raises(SparringError):
        sp.attacks.PGD()(box(), IMAGES, sp.Untargeted(LABELS), THREAT)
