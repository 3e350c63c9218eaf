"""The whole of `sp.harden`: no trace, exact resumption, the watch's roll-back, what is written, what is refused."""

from __future__ import annotations

import dataclasses
import json
import random
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests import helpers_hardening
from tests.helpers_core import digits, forked_seed, global_random_state, small_net
from torch import nn

import sparring as sp
from sparring.batching import Plan
from sparring.errors import InputError, ModelError, RecordsError, UnsupportedError
from sparring.hardening import Hardened, HardeningInterrupted, TrainingProgress, outcome, trainer, watch
from sparring.hardening.history import Epoch
from sparring.hardening.methods import PGD
from sparring.hardening.parallel import Workers
from sparring.hardening.recipe import Recipe
from sparring.hardening.remedies import remedy
from sparring.hardening.spec import parse_method
from sparring.hardening.step import Stepper
from sparring.hardening.watch import Sight, collapsed, look, warnings

IMAGES, LABELS = digits()
DATA = (IMAGES[:400], LABELS[:400])
THREAT = sp.ThreatModel("linf", 0.1)


def short(method: str = "rs_fgsm", **more: Any) -> Hardened:
    settings = {"epochs": 2, "batch_size": 128, "eps_warmup": 0.0, "effort": None, "watch": 20, **more}
    return sp.harden(
        settings.pop("model", None) or small_net(), settings.pop("data", DATA), THREAT, method=method, **settings
    )


def weights(hardened: Hardened) -> dict[str, Any]:
    return dict(hardened.model.state_dict())


def equal(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


# --- what is promised of every run ------------------------------------------


def test_the_given_model_stays_as_it_is() -> None:
    model = small_net().train()
    before, random_before = {k: v.clone() for k, v in model.state_dict().items()}, global_random_state()
    hardened = short(model=model)
    assert equal(before, dict(model.state_dict()))
    assert model.training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(p.grad is None and p.requires_grad for p in hardened.model.parameters())
    assert not hardened.model.training
    assert not equal(before, weights(hardened))
    assert global_random_state() == random_before


def test_the_same_seed_gives_the_same_weights_and_another_gives_others() -> None:
    assert equal(weights(short(seed=3)), weights(short(seed=3)))
    assert not equal(weights(short(seed=3)), weights(short(seed=4)))


@pytest.mark.parametrize(
    "settings",
    [
        {"ema": 0.0},
        {"optimizer": "sgd", "weight_decay": 1e-4},
        {"awp": 0.01, "awp_warmup": 0.0},
        {"grad_align": 0.2},
        {"hat": 0.5},
        {"label_smoothing": 0.1, "eps_warmup": 0.5},
        {"augment": ("crop", "flip", "cutout")},
        {"loss": lambda logits, labels: nn.functional.multi_margin_loss(logits, labels, reduction="none")},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_every_extra_changes_the_result(settings: dict[str, Any]) -> None:
    plain, changed = short(epochs=1), short(epochs=1, **settings)
    assert not equal(weights(plain), weights(changed))
    assert all(bool(value.isfinite().all()) for value in weights(changed).values())


def test_weights_are_perturbed_in_mixed_precision() -> None:
    """Autocast's copies of the weights, made before the perturbation, must not be learned from."""
    images, labels = DATA[0][:32], DATA[1][:32]
    found = []
    for awp in (0.0, 0.3):
        model = small_net().train()
        stepper = Stepper(model, model, Workers(torch.device("cpu")), THREAT, 0)
        recipe = Recipe(amp=True, awp=awp, awp_warmup=0.0)
        found.append(float(stepper.gradients(parse_method("clean"), recipe, images, labels, 0, 0.5)))
    assert found[1] > found[0] * 1.01


class Attention(nn.Module):
    """One layer of attention over the rows of a picture, by the kernel that torch prefers."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.out = nn.Linear(8, 24), nn.Linear(64, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        q, k, v = self.rows(images).chunk(3, -1)
        out: torch.Tensor = self.out(nn.functional.scaled_dot_product_attention(q, k, v).flatten(1))
        return out


def test_gradients_of_attention_can_be_aligned() -> None:
    """The fast kernels have no second derivative, and the watch may turn to GradAlign by itself."""
    with forked_seed(0):
        model = Attention()
    assert all(bool(value.isfinite().all()) for value in weights(short(model=model, epochs=1, grad_align=0.2)).values())


def test_double_precision() -> None:
    hardened = short(model=small_net().double(), data=(DATA[0].double(), DATA[1]), epochs=1)
    assert all(value.dtype == torch.float64 for value in weights(hardened).values())


def test_processes_share_a_step_evenly() -> None:
    """One that had a piece more than another would wait for it for ever."""
    workers, rows = Workers(torch.device("cpu")), torch.arange(17)
    shares = []
    for workers.rank in range(3):
        workers.size = 3
        shares.append(workers.share(rows))
    assert [len(share) for share in shares] == [5, 5, 5]
    assert len(set(torch.cat(shares).tolist())) == 15


def test_pieces_add_up_to_the_whole_batch() -> None:
    """Gradient accumulation; the draws differ by piece, so a method without any is compared."""
    settings = {"epochs": 1, "ema": 0.0, "lr": 1e-3, "optimizer": "sgd"}
    whole, pieces = (weights(short("clean", accumulate=n, **settings)) for n in (1, 3))
    assert all(torch.allclose(whole[key], pieces[key], atol=1e-6) for key in whole)


def test_frozen_parts_stay() -> None:
    """Weights that match, and the batch-norm statistics that belong to them; everything else learns."""
    with forked_seed(1):
        model = helpers_hardening.Net()
    for ema in (0.0, 0.9):
        hardened = short(model=model, freeze=("norm.*", "net.0.*"), ema=ema)
        for name, value in model.state_dict().items():
            same = torch.equal(value, hardened.model.state_dict()[name])
            assert same == name.startswith(("norm.", "net.0.")), name


def test_it_helps() -> None:
    """On digits a short training turns a third of robust accuracy into more than half."""
    hardened = sp.harden(
        small_net(), (IMAGES[:1000], LABELS[:1000]), THREAT, epochs=20, lr=5e-3, batch_size=64,
        test=(IMAGES[1000:1400], LABELS[1000:1400]), effort="quick",
    )  # fmt: skip
    assert hardened.card.after is not None
    assert hardened.card.before is not None
    assert hardened.card.after.robust > 0.6
    assert hardened.card.after.clean > 0.85
    assert hardened.card.before.robust < 0.2
    assert hardened.card.bend_after is not None
    assert hardened.card.bend_after.rise > 0
    assert {row.norm for row in hardened.card.other_norms} == {"l2", "l1"}


# --- resumption --------------------------------------------------------------


def in_a_process(out: Path, method: str, when: str, *steps: int) -> None:
    command = [sys.executable, "-m", "tests.helpers_hardening", str(out), method, when, *map(str, steps)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr


def test_a_killed_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole = weights(helpers_hardening.run(None))
    in_a_process(tmp_path, "pgd:steps=2", "often", 3, 5)
    found = load_file(tmp_path / "model.safetensors")
    assert equal(found, whole)
    card = json.loads((tmp_path / "card.json").read_text())
    assert [epoch["number"] for epoch in card["history"]] == [1, 2, 3]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["rs_fgsm", "free:replays=2", "trades:steps=2", "fgsm_mix"])
def test_ten_kills(method: str, tmp_path: Path) -> None:
    whole = weights(helpers_hardening.run(None, method))
    chooser = random.Random(0)
    for kill in range(10):
        out = tmp_path / str(kill)
        in_a_process(out, method, chooser.choice(["often", "seldom"]), chooser.randrange(1, helpers_hardening.STEPS))
        assert equal(load_file(out / "model.safetensors"), whole), kill


def test_another_run_does_not_take_over_the_folder(tmp_path: Path) -> None:
    short(out=tmp_path)
    for other in ({"seed": 1}, {"lr": 1e-4}, {"method": "clean"}, {"data": (IMAGES[1:401], LABELS[1:401])}):
        with pytest.raises(RecordsError, match="another run"):
            short(out=tmp_path, **other)
    (tmp_path / "state.pt").write_bytes(b"nonsense")
    with pytest.raises(RecordsError, match="cannot be read"):
        short(out=tmp_path)


def test_ctrl_c_keeps_what_is_done(tmp_path: Path) -> None:
    def stop(event: TrainingProgress) -> None:
        if event.ended and event.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(HardeningInterrupted) as caught:
        short(epochs=3, out=tmp_path, progress=stop)
    assert caught.value.model is not None
    assert len(caught.value.history) == 2
    seen: list[int] = []
    resumed = short(epochs=3, out=tmp_path, progress=lambda event: seen.append(event.step))
    assert equal(weights(resumed), weights(short(epochs=3)))
    assert min(seen) > 2, "it began anew"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Own(PGD):
    """A method that no table knows."""


def test_a_method_of_ones_own_goes_on(tmp_path: Path) -> None:
    whole = short(Own(steps=1), out=tmp_path)
    assert equal(weights(whole), weights(short(Own(steps=1), out=tmp_path)))


def test_an_interrupted_audit_loses_neither_weights_nor_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"out": tmp_path, "effort": "quick", "epochs": 1, "test": (IMAGES[400:430], LABELS[400:430])}
    bare, calls = outcome.audited, list[object]()

    def stopped(model: nn.Module, *rest: Any) -> Any:
        if calls:
            raise KeyboardInterrupt
        calls.append(model)
        return bare(model, *rest)

    monkeypatch.setattr(outcome, "audited", stopped)
    with pytest.raises(HardeningInterrupted) as caught:
        short(**settings)
    assert caught.value.model is not None
    assert equal(load_file(tmp_path / "model.safetensors"), dict(caught.value.model.state_dict()))
    (records,) = (tmp_path / "audit").glob("*/records.jsonl")
    before = records.read_bytes()
    monkeypatch.setattr(outcome, "audited", bare)
    assert short(**settings).card.after is not None
    assert records.read_bytes() == before, "the first half was measured again"


# --- the watch ---------------------------------------------------------------


def sight(clean: float, fgsm: float, pgd: float, aligned: float = 0.9, n: int = 1000) -> Sight:
    return Sight(clean, fgsm, pgd, aligned, n)


def epoch(seen: Sight, number: int = 1) -> Epoch:
    return Epoch(
        number=number, method="rs_fgsm", loss=1.0, rate=0.1, eps=0.1, clean=seen.clean, fgsm=seen.fgsm, pgd=seen.pgd,
        aligned=seen.aligned, seconds=1.0, watch_seconds=0.1,
    )  # fmt: skip


HEALTHY = [epoch(sight(0.9, 0.75, 0.7)), epoch(sight(0.9, 0.76, 0.71), 2)]


@pytest.mark.parametrize(
    ("seen", "past", "bad"),
    [
        (sight(0.9, 0.95, 0.1), HEALTHY, True),
        (sight(0.9, 0.80, 0.45), HEALTHY, True),
        (sight(0.9, 0.60, 0.02), [epoch(sight(0.9, 0.5, 0.02))] * 2, True),
        (sight(0.9, 0.76, 0.70), HEALTHY, False),
        (sight(0.6, 0.50, 0.45), HEALTHY, False),
        (sight(0.9, 0.74, 0.37), [epoch(sight(0.9, 0.7, 0.2)), epoch(sight(0.9, 0.7, 0.3))], False),
        (sight(0.5, 0.40, 0.05), [], False),
    ],
)
def test_what_counts_as_a_collapse(seen: Sight, past: list[Epoch], bad: bool) -> None:
    assert bool(collapsed(seen, past, 0.1)) == bad


def test_a_growing_budget_is_no_collapse() -> None:
    small = [dataclasses.replace(e, eps=0.02, pgd=0.85) for e in HEALTHY]
    last = dataclasses.replace(HEALTHY[0], eps=0.08, pgd=0.72)
    assert not collapsed(sight(0.9, 0.76, 0.6), [*small, last], 0.1)
    assert collapsed(sight(0.9, 0.76, 0.6), [*small, dataclasses.replace(last, eps=0.1, pgd=0.85)], 0.1)


def test_what_the_watch_warns_of() -> None:
    assert any("label leaking" in line for line in warnings(sight(0.8, 0.9, 0.7), HEALTHY))
    assert any("gradients turn" in line for line in warnings(sight(0.9, 0.75, 0.7, 0.3), HEALTHY))
    falling = [*HEALTHY, epoch(sight(0.9, 0.7, 0.65)), epoch(sight(0.9, 0.7, 0.65))]
    assert any("robust overfitting" in line for line in warnings(sight(0.9, 0.7, 0.64), falling))
    assert not any("robust overfitting" in line for line in warnings(sight(0.9, 0.7, 0.64, n=40), falling))
    assert not warnings(sight(0.9, 0.76, 0.71), HEALTHY)


def test_a_model_that_learns_nothing_is_said_to() -> None:
    def found(seen: Sight, *before: Sight) -> bool:
        return any("learns nothing" in line for line in warnings(seen, [epoch(one) for one in before]))

    stuck = dataclasses.replace(sight(0.1, 0.1, 0.1), common=0.11)
    assert found(stuck, stuck, stuck)
    assert not found(stuck, stuck), "it may still begin to"
    assert not found(dataclasses.replace(stuck, clean=0.3), stuck, stuck)
    labels = torch.arange(40) // 10  # as many of each
    assert look(small_net(), IMAGES[:40], labels.where(labels > 1, 1), THREAT, 0).common == 0.5


def test_the_watch_measures_what_attacks_measure(digits_net: nn.Module) -> None:
    images, labels = IMAGES[1000:1150], LABELS[1000:1150]
    seen = look(digits_net, images, labels, THREAT, 0)
    fgsm = sp.evaluate(digits_net, images, labels, THREAT, attacks=["fgsm"])
    both = sp.evaluate(digits_net, images, labels, THREAT, attacks=["fgsm", "pgd:steps=10"])
    assert seen.clean == pytest.approx(fgsm.clean_accuracy.value)
    assert seen.pgd == pytest.approx(both.robust_accuracy.value, abs=0.03)
    assert seen.pgd <= seen.fgsm <= seen.clean
    assert seen == look(digits_net, images, labels, THREAT, 0)


def test_the_watch_takes_as_many_images_at_a_time_as_fit(
    digits_net: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, most = look(digits_net, IMAGES[:40], LABELS[:40], THREAT, 0), list[int]()
    monkeypatch.setattr(watch, "plan", lambda *_: Plan(7, channels_last=False))
    hook = digits_net.register_forward_pre_hook(lambda _, inputs: most.append(len(inputs[0])))
    monkeypatch.setattr(watch, "FGSM", lambda: lambda model, x, *_: x)
    monkeypatch.setattr(watch, "PGD", lambda **_: lambda model, x, *_, **__: x)
    pieces = look(digits_net, IMAGES[:40], LABELS[:40], THREAT, 0)
    hook.remove()
    assert max(most) == 7
    assert (pieces.clean, pieces.n) == (whole.clean, whole.n)
    assert pieces.aligned == pytest.approx(whole.aligned, abs=1e-5)


def test_a_collapse_is_rolled_back_and_its_cause_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = iter([sight(0.9, 0.6, 0.5), sight(0.9, 0.9, 0.1), *[sight(0.9, 0.7, 0.6)] * 3])
    monkeypatch.setattr(trainer, "look", lambda *_: next(seen))
    hardened = short("rs_fgsm:random_start=false,step=1", epochs=3)
    assert [(e.number, e.kept, e.method) for e in hardened.history] == [
        (1, True, "rs_fgsm:step=1,random_start=false"),
        (2, False, "rs_fgsm:step=1,random_start=false"),
        (2, True, "rs_fgsm"),
        (3, True, "rs_fgsm"),
    ]
    (change,) = hardened.card.changes
    assert "back to epoch 1, then: random start" in change
    assert "undone" in hardened.card.to_markdown()
    assert "turned into `rs_fgsm`" in hardened.card.to_markdown()


def test_a_rolled_back_run_is_the_run_that_had_the_remedy_from_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights, optimizer, average and position all go back: a collapse at once leaves no trace but the method."""
    seen = iter([sight(0.9, 0.6, -1.0)] * 0 + [sight(0.9, 0.9, 0.1)] * 9)
    monkeypatch.setattr(trainer, "look", lambda *_: next(seen))
    verdicts = iter(["collapse", "", ""])
    monkeypatch.setattr(trainer, "collapsed", lambda *_: next(verdicts))
    changed = short("rs_fgsm:random_start=false,step=1", epochs=2)
    monkeypatch.setattr(trainer, "collapsed", lambda *_: "")
    seen = iter([sight(0.9, 0.9, 0.1)] * 9)
    assert equal(weights(changed), weights(short("rs_fgsm", epochs=2)))


def test_a_collapse_is_only_told_where_nobody_may_interfere(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = iter([sight(0.9, 0.6, 0.5), sight(0.9, 0.9, 0.1)])
    monkeypatch.setattr(trainer, "look", lambda *_: next(seen))
    hardened = short(recover=False)
    assert "catastrophic overfitting" in hardened.history[1].note
    assert all(e.kept for e in hardened.history)
    assert hardened.card.best_epoch == 1


@pytest.mark.parametrize("method", ["rs_fgsm:random_start=false,step=1", "n_fgsm", "free", "pgd:steps=2"])
def test_the_remedies_come_to_an_end(method: str) -> None:
    tried, at, recipe = [], parse_method(method), Recipe()
    while (change := remedy(at, recipe, THREAT)) is not None:
        at, recipe = change[:2]
        tried.append(change[2])
        assert len(tried) < 12
    assert str(at).startswith("pgd")
    assert len(set(tried)) == len(tried)


def test_weak_methods_are_left_alone() -> None:
    for name in ("clean", "fgsm_mix", "trades", "mart"):
        assert remedy(parse_method(name), Recipe(), THREAT) is None


def test_patience_ends_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = iter([sight(0.9, 0.7, 0.6), *[sight(0.9, 0.7, 0.5)] * 9])
    monkeypatch.setattr(trainer, "look", lambda *_: next(seen))
    hardened = short(epochs=8, patience=2)
    assert len(hardened.history) == 3
    assert hardened.card.best_epoch == 1


# --- what is written ---------------------------------------------------------


def test_the_folder_holds_all_one_needs(tmp_path: Path) -> None:
    hardened = short(out=tmp_path, effort="quick", test=(IMAGES[400:430], LABELS[400:430]))
    with forked_seed(9):
        loaded = sp.load_model(small_net(), weights=tmp_path / "model.safetensors")
    assert equal(dict(loaded.state_dict()), weights(hardened))
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["after"]["robust"]["n"] == 30
    assert {"value", "low", "high", "n"} == set(card["after"]["clean"])
    assert card["threat"] == {"norm": "linf", "eps": 0.1, "bounds": [0.0, 1.0], "mask": None}
    assert card["data"]["train"] + card["data"]["validation"] == 400
    assert len(card["data"]["digest"]) == 64
    for name in ("gradients.png", "history.png"):
        assert (tmp_path / name).read_bytes()[:4] == b"\x89PNG"
    text = (tmp_path / "card.md").read_text()
    for said in (card["weights"], "30 test images", "linf eps 0.1", "PGD-10", "gradients.png", "rs_fgsm"):
        assert said in text, said
    lines = (tmp_path / "history.csv").read_text().splitlines()
    assert lines[0].split(",") == [field.name for field in dataclasses.fields(Epoch)]
    assert len(lines) == 3


def test_the_audit_draws_its_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a folder come class by class; the first of them would be one class alone."""
    monkeypatch.setattr(outcome, "AUDITED", 20)
    order = LABELS[400:500].argsort()
    sorted_test = IMAGES[400:500][order], LABELS[400:500][order]
    hardened = short("clean", epochs=1, effort="quick", test=sorted_test)
    assert hardened.card.after is not None
    assert hardened.card.after.clean.n == 20
    assert "20 of 100, drawn at random, test images" in hardened.card.to_markdown()
    job = types.SimpleNamespace(seed=0, split=None)
    images, labels = outcome._tested(job, sorted_test)  # type: ignore[arg-type]
    assert len(labels.unique()) > 4
    known = {tuple(x.flatten().tolist()): int(y) for x, y in zip(*sorted_test, strict=True)}
    assert [known[tuple(x.flatten().tolist())] for x in images] == labels.tolist()


def test_the_history_says_which_budget_it_was_measured_at() -> None:
    text = short(epochs=2, eps_warmup=0.5).card.to_markdown()
    rows = [line.split(" | ")[1] for line in text.splitlines() if line.startswith(("| 1 |", "| 2 |"))]
    assert 0 < float(rows[0]) < float(rows[1]) == 0.1


def test_a_card_without_an_audit_claims_nothing() -> None:
    text = short().card.to_markdown()
    assert "Not audited" in text
    assert "withstand" in text
    assert "robust, " not in text


# --- what is refused ---------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"epoch": 3}, InputError, "epochs"),
        ({"epochs": 0}, InputError, "epochs must be a whole number"),
        ({"batch_size": 1.5}, InputError, "batch_size"),
        ({"lr": -1}, InputError, "lr"),
        ({"ema": 1.0}, InputError, "ema"),
        ({"optimizer": "adman"}, InputError, "adam"),
        ({"augment": ("crap",)}, InputError, "crop"),
        ({"amp": True}, UnsupportedError, "GPU"),
        ({"freeze": "*"}, InputError, "nothing to train"),
        ({"method": "free", "accumulate": 2}, UnsupportedError, "repeats"),
        ({"method": "pgd:inner=square"}, InputError, "gradients"),
        ({"validation": 400}, InputError, "nothing is left"),
        ({"data": (IMAGES[:10], LABELS[:9])}, InputError, "9 labels for 10 images"),
        ({"data": (IMAGES[:10] * 255, LABELS[:10])}, InputError, "divide by 255"),
        ({"data": IMAGES}, InputError, "pair"),
        ({"seed": -1}, InputError, "seed"),
        ({"loss": "mse"}, InputError, "loss"),
        ({"loss": nn.functional.cross_entropy, "label_smoothing": 0.1}, InputError, "smooth the labels in your own"),
        ({"loss": nn.functional.cross_entropy, "method": "mart"}, UnsupportedError, "loss of its own"),
        ({"freeze": "features.*"}, InputError, "matches no parameter; they are named"),
        ({"data": (IMAGES[:20], LABELS[:20] + 7)}, InputError, r"label \d+ is no class .* \(0 to 9\)"),
        ({"effort": "qick"}, InputError, "did you mean 'quick'"),
        ({"test": (IMAGES[:9].repeat(1, 3, 1, 1), LABELS[:9])}, ModelError, "failed on images of shape"),
        ({"test": (IMAGES[:9], LABELS[:9] + 10)}, InputError, "is no class"),
        ({"lr": 1e12, "optimizer": "sgd"}, ModelError, "not finite"),
    ],
    ids=lambda value: str(next(iter(value))) if isinstance(value, dict) else "",
)
def test_mistakes_are_explained(settings: dict[str, Any], error: type[Exception], said: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=said):
        short(**settings, out=tmp_path / "out")
    if "lr" not in settings:
        assert not (tmp_path / "out").exists(), "it began to train first"


class TwoAnswers(nn.Module):
    """What some torchvision models do while they learn: a second answer beside the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.net = small_net()

    def forward(self, images: torch.Tensor) -> object:
        logits = self.net(images)
        return (logits, logits) if self.training else logits


def test_a_model_that_fails_while_it_learns() -> None:
    with pytest.raises(ModelError, match=r"in training mode the model returns tuple, .* \(aux_logits=False\)"):
        short(model=TwoAnswers())
    single = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))
    with pytest.raises(ModelError, match="more than 1 value per channel"):
        short(model=single, batch_size=8, accumulate=8)


def test_a_function_cannot_be_trained() -> None:
    with pytest.raises(InputError, match=r"nn\.Module"):
        sp.harden(lambda x: x, DATA, THREAT)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedError, match="l0"):
        sp.harden(small_net(), DATA, sp.ThreatModel("l0", 3))
