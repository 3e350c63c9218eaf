"""The driver trusts nobody: candidates, models, data and old records are checked before they count."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from tests.helpers_core import Linear, assert_allowed, generator, global_random_state, pictures
from torch import Tensor, nn

import sparring as sp
from sparring import losses
from sparring.attacks import FGSM, PGD, Attack, RandomNoise
from sparring.errors import InputError, ModelError, SparringError, UnsupportedError
from sparring.estimate import proportion
from sparring.evaluation import Evaluation, EvaluationInterrupted, Progress, evaluate, task
from sparring.evaluation.suspicions import ASKED_TWICE
from sparring.problem import Problem

THREAT = sp.ThreatModel("linf", 0.05)
ATTACKS = ["random_noise:draws=3", "fgsm", "pgd:steps=4,restarts=2"]
MODEL = Linear(16)
IMAGES = pictures(60, 1, 4, 4)
LABELS = MODEL(IMAGES).argmax(1).detach()
LABELS[::10] = (LABELS[::10] + 1) % 3


@pytest.fixture
def chunks_of_16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task, "chunk_size", lambda *_: 16)


def run(**changes: Any) -> Evaluation:
    given = {"model": MODEL, "images": IMAGES, "labels": LABELS, "threat": THREAT, "attacks": ATTACKS, **changes}
    return evaluate(given.pop("model"), given.pop("images"), given.pop("labels"), given.pop("threat"), **given)


def verdicts(found: Evaluation) -> list[tuple[int, int, str | None]]:
    return [(r.index, r.prediction, r.broken_by) for r in found.records]


# Candidates


@dataclass(frozen=True, kw_only=True)
class Offers(Attack):
    """Returns whatever the test says; `kind` names it."""

    kind: str = "same"

    def run(self, problem: Problem) -> Tensor:
        x = problem.images
        grey = torch.full_like(x, 0.5)
        offered: dict[str, Any] = {
            "same": x,
            "outside the budget": x + 0.06 * torch.sign(torch.randn(x.shape, generator=generator(0))),
            "a grey picture": grey,
            "outside the box": x + 40,
            "NaN": x * torch.nan,
            "one NaN": torch.where(torch.arange(16).view(4, 4) == 3, torch.nan, x),
            "infinity": x + torch.inf,
            "too few": x[:-1],
            "flat": x.flatten(1),
            "another type": x.double(),
            "nothing": None,
            "numpy": x.numpy(),
            "integers": x.round().int(),
        }
        return offered[self.kind]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "kind", ["outside the budget", "a grey picture", "outside the box", "NaN", "infinity", "one NaN"]
)
def test_candidates_outside_the_threat_do_not_count(kind: str) -> None:
    found = run(attacks=[Offers(kind=kind)])
    assert found.robust_accuracy.value == found.clean_accuracy.value == 54 / 60
    assert found.stages[0].rejected == 54
    assert (found.stages[0].tried, found.stages[0].broke) == (54, 0)
    assert len(found.adversarials) == 0
    assert all(r.margin is not None and math.isfinite(r.margin) for r in found.records)


@pytest.mark.parametrize("kind", ["too few", "flat", "another type", "nothing", "numpy", "integers"])
def test_things_that_are_no_candidates_are_refused(kind: str) -> None:
    with pytest.raises(SparringError, match=r"Offers|returned"):
        run(attacks=[Offers(kind=kind)])


def test_an_honest_return_of_the_image_breaks_nothing() -> None:
    found = run(attacks=[Offers()])
    assert found.stages[0].rejected == 0
    assert found.robust_accuracy.value == found.clean_accuracy.value


@dataclass(frozen=True, kw_only=True)
class Meddles(Attack):
    """Changes in place what the driver will verify against."""

    what: str = "images"

    def run(self, problem: Problem) -> Tensor:
        if self.what == "images":
            problem.images.fill_(0.5)
        elif self.what == "goal":
            problem.goal.reference.add_(1).remainder_(3)
        elif self.what == "region":
            problem.region.lower.fill_(0)
            problem.region.upper.fill_(1)
            return problem.region.project(torch.full_like(problem.images, 0.5))
        elif self.what == "training mode":
            problem.model.train()  # type: ignore[attr-defined]
        elif self.what == "ledger":
            problem.ledger.forwards.zero_()
        return problem.images


class Fragile(nn.Module):
    """Right in evaluation mode, wrong in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = MODEL

    def forward(self, images: Tensor) -> Tensor:
        return self.inner(images) * (-1 if self.training else 1)


@pytest.mark.parametrize("what", ["images", "goal", "region", "training mode"])
def test_an_attack_that_meddles_proves_nothing(what: str) -> None:
    before = IMAGES.clone(), LABELS.clone()
    model = Fragile().eval()
    found = run(model=model, attacks=[Meddles(what=what)], threat=sp.ThreatModel("linf", 0.001))
    assert torch.equal(IMAGES, before[0])
    assert torch.equal(LABELS, before[1])
    assert found.stages[0].broke == 0, "no image breaks within 0.001 by these means"
    for index in found.adversarials:
        assert_allowed(IMAGES[index : index + 1], found.adversarials[index][None], "linf", 0.001)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
@pytest.mark.parametrize("targeted", [False, True])
def test_every_adversarial_is_allowed_and_wrong(norm: str, targeted: bool) -> None:
    eps = {"linf": 0.05, "l2": 0.3, "l1": 0.5, "l0": 1}[norm]
    targets = (LABELS + 1) % 3 if targeted else None
    found = run(threat=sp.ThreatModel(norm, eps), targets=targets)
    assert 0 < len(found.adversarials) < 54
    broken = [r for r in found.records if r.broken_by is not None]
    assert [r.index for r in broken] == list(found.adversarials)
    for record in broken:
        adversarial = found.adversarials[record.index][None]
        assert_allowed(IMAGES[record.index][None], adversarial, norm, eps)
        prediction = int(MODEL(adversarial).argmax())
        assert prediction == record.adversarial_prediction
        assert prediction == int(targets[record.index]) if targets is not None else prediction != record.label
        assert record.margin is not None
        assert record.margin <= 0
        assert record.distance == pytest.approx(
            float(sp.ThreatModel(norm, eps).distance(IMAGES[record.index][None], adversarial))
        )
    stacked = found.adversarials.stack(IMAGES)
    assert sum(bool((stacked[i] != IMAGES[i]).any()) for i in range(60)) == len(broken)


SPIED: list[list[int]] = []


@dataclass(frozen=True, kw_only=True)
class Spy(Attack):
    """Notes which images it is given, and breaks none."""

    place: int = 0

    def run(self, problem: Problem) -> Tensor:
        known = {image.numpy().tobytes(): i for i, image in enumerate(IMAGES)}
        SPIED.append([known[image.numpy().tobytes()] for image in problem.images])
        return problem.images


def test_only_images_that_still_stand_go_on(chunks_of_16: None) -> None:
    SPIED.clear()
    found = run(attacks=[Spy(place=1), "random_noise", Spy(place=2), "fgsm", Spy(place=3)])
    seen = [sorted(i for part in SPIED[k : k + 4] for i in part) for k in (0, 4, 8)]
    right = [r.index for r in found.records if r.prediction == r.label]
    assert seen[0] == right
    assert seen[1] == [r.index for r in found.records if r.prediction == r.label and r.broken_by != "random_noise"]
    assert seen[2] == [r.index for r in found.records if r.prediction == r.label and r.broken_by is None]
    assert len(seen[0]) > len(seen[1]) > len(seen[2]) > 0
    assert [s.tried for s in found.stages] == [len(seen[0]), len(seen[0]), len(seen[1]), len(seen[1]), len(seen[2])]


class Counting:
    """A plain function that counts the images it sees, and how often each one is differentiated."""

    def __init__(self) -> None:
        self.forwards = self.backwards = 0

    def __call__(self, images: Tensor) -> Tensor:
        self.forwards += len(images)
        if images.requires_grad:
            images.register_hook(lambda grad: setattr(self, "backwards", self.backwards + len(grad)))
        return MODEL(images)


@pytest.mark.parametrize("text", ["random_noise:draws=7", "fgsm", "bim", "mifgsm:steps=3", "pgd:steps=4,restarts=3"])
@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_the_ledger_is_what_the_model_saw(text: str, batch_size: int) -> None:
    model = Counting()
    found = run(model=model, attacks=[text, "pgd:steps=3,loss=margin"], batch_size=batch_size)
    assert sum(r.forwards for r in found.records) == model.forwards
    assert sum(r.backwards for r in found.records) == model.backwards
    assert sum(s.forwards for s in found.stages) + 60 + ASKED_TWICE == model.forwards
    assert sum(s.backwards for s in found.stages) == model.backwards
    alone = [i for i in range(60) if found.records[i].prediction != found.records[i].label]
    assert all((found.records[i].forwards, found.records[i].backwards) == (1 + (i < ASKED_TWICE), 0) for i in alone)
    one = Counting()
    lone = run(model=one, images=IMAGES[5:6], labels=LABELS[5:6], attacks=[text, "pgd:steps=3,loss=margin"])
    assert (one.forwards - 1, one.backwards) == (lone.records[0].forwards, lone.records[0].backwards) or (
        one.forwards,
        one.backwards,
    ) == (lone.records[0].forwards, lone.records[0].backwards)
    assert replace(found.records[5], margin=None, index=0) == replace(lone.records[0], margin=None)


def test_batch_size_and_order_change_no_verdict(digits_net: nn.Module, digits_data: tuple[Tensor, Tensor]) -> None:
    images, labels = (part[:250] for part in digits_data)
    runs = [
        evaluate(digits_net, images, labels, sp.ThreatModel("linf", 0.07), attacks=ATTACKS, batch_size=size)
        for size in (7, 64, 250, None)
    ]
    for other in runs[1:]:
        differing = sum(a != b for a, b in zip(verdicts(runs[0]), verdicts(other), strict=True))
        assert differing <= 0.001 * 250
        for index in set(runs[0].adversarials) & set(other.adversarials):
            if runs[0].records[index].broken_by == "random_noise:draws=3":
                assert torch.equal(runs[0].adversarials[index], other.adversarials[index])
    order = torch.randperm(250, generator=generator(3))
    shuffled = evaluate(digits_net, images[order], labels[order], sp.ThreatModel("linf", 0.07), attacks=ATTACKS)
    back = {int(order[r.index]): (r.prediction, r.broken_by, r.digest) for r in shuffled.records}
    differing = sum(back[r.index] != (r.prediction, r.broken_by, r.digest) for r in runs[0].records)
    assert differing <= 0.001 * 250


def test_the_seed_decides_and_nothing_is_left_behind() -> None:
    model = Linear(16).train()
    randomness = global_random_state()
    first, again, other = (run(model=model, seed=seed, attacks=["pgd:steps=1"]) for seed in (1, 1, 2))
    assert global_random_state() == randomness
    assert model.training
    assert model.weight.requires_grad
    assert model.weight.grad is None
    assert first.records == again.records
    assert first.records != other.records


# Arithmetic


def test_untargeted_arithmetic() -> None:
    found = run()
    right = [r for r in found.records if r.prediction == r.label]
    broken = [r for r in found.records if r.broken_by]
    assert 0 < len(broken) < len(right) == 54
    assert repr(found.clean_accuracy) == repr(proportion(54, 60))
    assert repr(found.robust_accuracy) == repr(proportion(54 - len(broken), 60))
    assert repr(found.attack_success_rate) == repr(proportion(len(broken), 54))
    assert sum(s.broke for s in found.stages) == len(broken)
    left = 54
    for stage in found.stages:
        assert stage.tried == left
        left -= stage.broke
        assert stage.robust_after.value == pytest.approx(left / 60)
    assert found.complete
    assert not found.targeted
    assert [r.index for r in found.records] == list(range(60))


def test_targeted_arithmetic_leaves_out_images_that_are_the_target() -> None:
    targets = torch.zeros(60).long()
    found = run(targets=targets, threat=sp.ThreatModel("linf", 0.15))
    attacked = [r for r in found.records if r.prediction == r.label != 0]
    spared = [r for r in found.records if r.prediction == r.label == 0]
    assert attacked
    assert spared
    assert found.attack_success_rate.n == len(attacked) == found.stages[0].tried
    assert all(not r.attacked and r.backwards == 0 and r.broken_by is None for r in spared)
    broken = [r for r in found.records if r.broken_by]
    assert all(r.adversarial_prediction == 0 for r in broken)
    assert found.robust_accuracy.value == pytest.approx((len(attacked) + len(spared) - len(broken)) / 60)
    assert found.targeted


def test_no_budget_means_no_break_and_all_wrong_means_nothing_to_attack() -> None:
    still = run(threat=sp.ThreatModel("linf", 0))
    assert still.robust_accuracy.value == still.clean_accuracy.value
    assert all(s.broke == s.rejected == 0 for s in still.stages)
    wrong = run(labels=(MODEL(IMAGES).argmax(1) + 1) % 3)
    assert wrong.clean_accuracy.value == wrong.robust_accuracy.value == 0
    assert wrong.attack_success_rate.n == 0
    assert math.isnan(wrong.attack_success_rate)
    assert sum(r.forwards for r in wrong.records) == 60 + ASKED_TWICE


def test_margin_is_the_nearest_verified_miss() -> None:
    found = run(attacks=["pgd:steps=10,loss=margin"])
    with torch.no_grad():
        clean = losses.class_margin(MODEL(IMAGES), LABELS)
    for record in found.records:
        assert record.margin is not None
        assert record.margin <= float(clean[record.index]) + 1e-6
        assert (record.margin <= 0) == (record.broken_by is not None or record.prediction != record.label)


# Models


class Odd(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.inner, self.how = MODEL, how

    def forward(self, images: Tensor) -> Any:
        z = self.inner(images)
        return {
            "tuple": (z, z),
            "dict": {"logits": z},
            "integer": z.argmax(1)[:, None].expand(-1, 3),
            "labels": z.argmax(1),
            "one column": z[:, :1],
            "one number": z[:, 0],
            "too many rows": torch.cat([z, z]),
            "averaged": z.mean(0, keepdim=True).expand(2, -1) if len(z) != 2 else z.mean(0, keepdim=True),
            "feature map": z[:, :, None, None],
            "numpy": z.detach().numpy(),
            "nothing": None,
        }[self.how]


@pytest.mark.parametrize(
    "how",
    [
        "tuple",
        "dict",
        "integer",
        "labels",
        "one column",
        "one number",
        "too many rows",
        "averaged",
        "feature map",
        "numpy",
        "nothing",
    ],
)
def test_models_that_return_no_logits_are_named(how: str) -> None:
    with pytest.raises(ModelError, match="the model returned"):
        run(model=Odd(how))


@pytest.mark.parametrize(
    "error", [RuntimeError, ValueError, TypeError, IndexError, AssertionError], ids=lambda e: e.__name__
)
def test_a_model_that_fails_is_a_model_error(error: type[Exception]) -> None:
    def model(images: Tensor) -> Tensor:
        raise error("wrong size")

    with pytest.raises(ModelError, match="wrong size"):
        run(model=model)


def test_nan_on_clean_images_is_an_error_that_names_the_image() -> None:
    def model(images: Tensor) -> Tensor:
        z = MODEL(images)
        hit = (images.flatten(1) == IMAGES[37].flatten()).all(1)
        return torch.where(hit[:, None], torch.nan, z)

    with pytest.raises(ModelError, match="image 37"):
        run(model=model)


def test_nan_on_candidates_is_noted_and_does_not_count() -> None:
    known = {image.numpy().tobytes() for image in IMAGES}

    def model(images: Tensor) -> Tensor:
        clean = torch.tensor([image.numpy().tobytes() in known for image in images.detach()])
        return torch.where(clean[:, None], MODEL(images), torch.nan)

    found = run(model=model, attacks=["random_noise", "fgsm"])
    assert found.robust_accuracy.value == found.clean_accuracy.value
    assert any("NaN" in note for stage in found.stages for note in stage.notes)
    assert all(r.margin is not None for r in found.records)


@pytest.mark.parametrize("module", [True, False])
def test_a_model_without_gradients_is_unsupported_but_noise_works(module: bool) -> None:
    net = Linear(16)

    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, images: Tensor) -> Tensor:
            return self.net(images.detach())

    model = Detached() if module else lambda images: net(images.detach())
    with pytest.raises(UnsupportedError, match="random_noise"):
        run(model=model, attacks=["fgsm"])
    run(model=model, attacks=["random_noise"])


def test_evaluation_works_inside_no_grad() -> None:
    expected = run()
    with torch.no_grad():
        assert run().records == expected.records


def test_softmax_outputs_and_one_class_more_than_labels_are_fine() -> None:
    assert run(model=lambda x: MODEL(x).softmax(1)).clean_accuracy.value == 54 / 60


# Data


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS + 3, "does not exist"),
        (LABELS.float(), "integers"),
        (LABELS[:-1], "59"),
        (LABELS - 5, ">= 0"),
        (LABELS[:, None], "shape"),
        (LABELS.tolist(), "tensor"),
        (LABELS.bool(), "integers"),
    ],
    ids=["too large", "float", "too few", "negative", "column", "list", "bool"],
)
def test_unusable_labels_and_targets_are_refused(labels: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(labels=labels)
    with pytest.raises(InputError, match=message):
        run(targets=labels)


def test_labels_are_checked_in_a_targeted_evaluation_too() -> None:
    with pytest.raises(InputError, match="does not exist"):
        run(labels=LABELS + 50, targets=torch.zeros(60).long())


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (IMAGES * 255, "divide by 255"),
        (IMAGES * 2 - 1, "normalised"),
        ((IMAGES * 255).byte(), "255"),
        (IMAGES.where(torch.arange(60).view(-1, 1, 1, 1) != 41, torch.nan), "image 41"),
        (IMAGES[:0], "at least one|empty"),
        (IMAGES.numpy(), "tensor"),
        (IMAGES[0, 0, 0], "shape"),
        (torch.zeros(60, 0, 4, 4), "shape"),
    ],
    ids=["0-255", "normalised", "uint8", "NaN", "empty", "numpy", "1-D", "no channels"],
)
def test_unusable_images_are_refused(images: object, message: str) -> None:
    labels = LABELS[: len(images)]  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message):
        run(images=images, labels=labels)


@pytest.mark.parametrize(
    "changes",
    [
        {"attacks": None, "effort": "extreme"},
        {"attacks": ["pdg"]},
        {"attacks": ["pgd:step=3"]},
        {"attacks": []},
        {"attacks": ["pgd", "pgd:steps=40"]},
        {"attacks": [FGSM(), FGSM()]},
        {"attacks": [FGSM]},
        {"attacks": [3]},
        {"attacks": "pgd"},
        {"seed": -1},
        {"seed": 1.5},
        {"seed": True},
        {"seed": None},
        {"batch_size": 0},
        {"batch_size": 2.5},
        {"batch_size": True},
        {"batch_size": "many"},
        {"batch_size": math.inf},
        {"threat": "linf"},
        {"threat": None},
        {"model": None},
        {"model": "resnet"},
        {"threat": sp.ThreatModel("linf", 0.1, mask=torch.ones(7, 7, dtype=torch.bool))},
    ],
    ids=lambda c: str(c)[:40],
)
def test_unusable_arguments_are_refused_before_anything_runs(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        run(**changes)


def test_a_whole_float_batch_size_works_or_is_refused() -> None:
    try:
        found = run(batch_size=8.0)
    except InputError:
        return
    assert found.complete


def test_an_attack_that_does_not_know_the_norm_is_refused_first() -> None:
    @dataclass(frozen=True, kw_only=True)
    class OnlyL2(Offers):
        threats = ("l2",)

    model = Counting()
    with pytest.raises(UnsupportedError, match="l2"):
        run(model=model, attacks=["fgsm", OnlyL2()])
    assert model.forwards == 0


def test_half_precision_images_do_not_make_a_model_look_robust() -> None:
    images = IMAGES.half()
    labels = MODEL(images.float()).argmax(1)
    try:
        half = run(model=lambda x: MODEL(x.float()), images=images, labels=labels, attacks=["fgsm"])
    except InputError:
        return
    full = run(images=images.float(), labels=labels, attacks=["fgsm"])
    assert abs(half.robust_accuracy.value - full.robust_accuracy.value) <= 0.1


class Lazy:
    """Knows its length and gives slices; notes how much it was asked for at a time."""

    def __init__(self, images: Tensor) -> None:
        self._images = images
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, part: slice, /) -> Tensor:
        assert isinstance(part, slice)
        found = self._images[part]
        self.asked.append(len(found))
        return found


def test_lazy_images_are_read_a_chunk_at_a_time(chunks_of_16: None, tmp_path: Any) -> None:
    lazy = Lazy(IMAGES)
    found = run(images=lazy, out=tmp_path)
    assert max(lazy.asked) == 16
    assert found.records == run().records
    assert len(found.adversarials) > 0


def test_lazy_images_are_checked_when_read(chunks_of_16: None) -> None:
    bad = IMAGES.clone()
    bad[50] *= 300
    with pytest.raises(InputError, match="255"):
        run(images=Lazy(bad))

    class Short(Lazy):
        def __getitem__(self, part: slice, /) -> Tensor:
            return self._images[part][:5]

    with pytest.raises(InputError, match="5 images"):
        run(images=Short(IMAGES))


def test_tabular_data_works() -> None:
    found = run(images=IMAGES.flatten(1))
    assert [r.broken_by for r in found.records] == [r.broken_by for r in run().records] or found.complete


# Interruption


def interrupt_at(stage: str, done: int) -> Any:
    def progress(p: Progress) -> None:
        if (p.stage, p.done) == (stage, done):
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize(("stage", "done"), [("clean", 32), ("fgsm", 16), ("fgsm", 60), ("pgd:steps=4,restarts=2", 48)])
def test_ctrl_c_gives_what_is_known_and_the_rest_follows(
    chunks_of_16: None, tmp_path: Any, stage: str, done: int
) -> None:
    whole = run()
    with pytest.raises(EvaluationInterrupted) as caught:
        run(out=tmp_path, progress=interrupt_at(stage, done))
    partial = caught.value.evaluation
    assert not partial.complete
    assert len(partial.records) == (32 if stage == "clean" else 60)
    assert partial.robust_accuracy.value >= whole.robust_accuracy.value or stage == "clean"
    assert all(r.broken_by in (None, *ATTACKS) for r in partial.records)
    assert set(partial.adversarials) == {r.index for r in partial.records if r.broken_by}
    for index in partial.adversarials:
        assert torch.equal(partial.adversarials[index], whole.adversarials[index])
    if stage != "clean":
        assert not partial.stages[-1].complete
        assert partial.stages[-1].attack == stage
    resumed = run(out=tmp_path)
    assert resumed.complete
    assert resumed.records == whole.records


def test_ctrl_c_without_a_folder_works_too(chunks_of_16: None) -> None:
    with pytest.raises(KeyboardInterrupt) as caught:
        run(progress=interrupt_at("fgsm", 32))
    assert isinstance(caught.value, EvaluationInterrupted)
    assert len(caught.value.evaluation.records) == 60


def test_progress_counts_up(chunks_of_16: None) -> None:
    seen: list[Progress] = []
    found = run(progress=seen.append)
    assert [(p.number, p.done) for p in seen] == [(n, d) for n in range(4) for d in (16, 32, 48, 60)]
    assert {p.total for p in seen} == {60}
    assert {p.stages for p in seen} == {3}
    assert seen[-1].robust == pytest.approx(found.robust_accuracy.value)


@pytest.fixture(autouse=True)
def nothing_shared_is_changed() -> Iterator[None]:
    before = IMAGES.clone(), LABELS.clone()
    yield
    assert torch.equal(IMAGES, before[0])
    assert torch.equal(LABELS, before[1])


def test_named_efforts_run_and_stronger_ones_find_no_less(
    digits_net: nn.Module, digits_data: tuple[Tensor, Tensor]
) -> None:
    images, labels = (part[:60] for part in digits_data)
    quick, standard = (
        evaluate(digits_net, images, labels, sp.ThreatModel("linf", 0.06), effort=effort)
        for effort in ("quick", "standard")
    )
    assert standard.robust_accuracy <= quick.robust_accuracy <= quick.clean_accuracy
    assert RandomNoise().draws >= 1
    assert PGD().steps >= 1
