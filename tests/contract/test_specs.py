"""Attacks as text, and the hyper-parameters they refuse."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import pytest
import torch
from tests.helpers_core import Linear, pictures
from torch import Tensor

import sparring as sp
from sparring import losses
from sparring.attacks import APGD, ATTACKS, BIM, EOT, FGSM, MIFGSM, PGD, Attack, Grid, RandomNoise, Wrapper, parse
from sparring.errors import InputError, SparringError
from sparring.goal import Goal
from sparring.problem import Problem


@dataclass(frozen=True, kw_only=True)
class Mine(Attack):
    strength: float = 1.0

    def run(self, problem: Problem) -> Tensor:
        return problem.images


@pytest.mark.parametrize(
    ("text", "attack"),
    [
        ("pgd", PGD()),
        (" pgd : steps = 40 , restarts=5 ", PGD(steps=40, restarts=5)),
        ("pgd:step_size=2/255,random_start=False", PGD(step_size=2 / 255, random_start=False)),
        ("pgd:step_size=none,", PGD()),
        ("fgsm:aim=least_likely,step=1.25", FGSM(aim="least_likely", step=1.25)),
        ("bim:steps=7,early_stop=false", BIM(steps=7, early_stop=False)),
        ("mifgsm:decay=0", MIFGSM(decay=0.0)),
        ("random_noise:draws=1000", RandomNoise(draws=1000)),
        ("sparring.attacks:PGD:steps=3", PGD(steps=3)),
        ("apgd:loss=dlr,targets=9", APGD(loss="dlr", targets=9)),
        ("eot", EOT(PGD())),
        ("pgd+eot", EOT()),
        ("pgd:steps=3+eot:draws=4", EOT(PGD(steps=3), draws=4)),
        ("pgd:steps=3 + eot : draws=4 + grid", Grid(EOT(PGD(steps=3), draws=4))),
        ("random_noise+grid:repairs=0+eot", EOT(Grid(RandomNoise(), repairs=0))),
        ("pgd:step_size=1e+1+grid", Grid(PGD(step_size=10.0))),
        ("sparring.attacks:PGD:steps=3+sparring.attacks:EOT:draws=2", EOT(PGD(steps=3), draws=2)),
    ],
)
def test_text_becomes_the_attack(text: str, attack: Attack) -> None:
    assert parse(text) == attack
    assert parse(str(attack)) == attack


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "pdg",
        "PGD!",
        "pgd+",
        "+eot",
        "pgd+fgsm",
        "pgd+eto",
        "pgd++eot",
        "pgd+eot:draws=0",
        "pgd+eot:attack=fgsm",
        "pgd+grid:repairs=-1",
        "apgd:targets=-1",
        "pgd:steps",
        "pgd:steps=",
        "pgd:=3",
        "pgd:step=3",
        "pgd:steps=3,steps=4",
        "pgd:steps=2.5",
        "pgd:steps=nan",
        "pgd:steps=inf",
        "pgd:steps=1e400",
        "pgd:steps=0",
        "pgd:steps=-3",
        "pgd:steps=8/0",
        "pgd:steps=8/3/2",
        "pgd:steps=true",
        "pgd:restarts=2,random_start=false",
        "pgd:random_start=maybe",
        "pgd:step_size=-1",
        "pgd:step_size=abc",
        "pgd:schedule=never",
        "fgsm:aim=everywhere",
        "fgsm:step=-1",
        "mifgsm:decay=-1",
        "random_noise:draws=0",
        "no.such.module:Attack",
        "os.path:join",
        "os.path:Nothing",
        "os.path",
        "os.path:",
        "sparring.attacks:Attack",
        ".relative:Attack",
        "..:Attack",
    ],
)
def test_bad_text_is_refused_with_our_error(text: str) -> None:
    with pytest.raises(InputError):
        parse(text)


def test_an_unknown_name_lists_the_known_ones_nearest_first() -> None:
    with pytest.raises(InputError) as caught:
        parse("pdg")
    assert "did you mean 'pgd'" in str(caught.value)
    assert all(name in str(caught.value) for name in ATTACKS)
    with pytest.raises(InputError, match="did you mean 'restarts'"):
        parse("pgd:restart=3")


@pytest.mark.parametrize("value", [0, -1, 2.5, float("nan"), float("inf"), "3", None, True], ids=repr)
@pytest.mark.parametrize("kind", [PGD, BIM, MIFGSM])
def test_steps_must_be_a_whole_number(kind: type[Attack], value: object) -> None:
    with pytest.raises(InputError, match="steps"):
        kind(steps=value)


@pytest.mark.parametrize("attack", [PGD, BIM, MIFGSM])
def test_whole_floats_work_or_are_refused(attack: type[Attack]) -> None:
    try:
        chosen = attack(steps=4.0)
    except InputError:
        return
    images = pictures(2, 1, 4, 4)
    chosen(Linear(16), images, sp.Untargeted(torch.zeros(2).long()), sp.ThreatModel("linf", 0.1))


def test_infinite_and_nan_sizes_are_refused_or_harmless() -> None:
    images, model = pictures(2, 1, 4, 4), Linear(16)
    for value in (float("inf"), float("nan")):
        try:
            attack = PGD(steps=2, step_size=value)
        except InputError:
            continue
        for norm in ("linf", "l2", "l1", "l0"):
            found = attack(model, images, sp.Untargeted(torch.zeros(2).long()), sp.ThreatModel(norm, 1))
            assert bool(found.isfinite().all()), norm


@pytest.mark.parametrize("bad", ["nothing", 3, None])
def test_an_unknown_loss_is_refused(bad: object) -> None:
    images, model = pictures(2, 1, 4, 4), Linear(16)
    with pytest.raises(InputError, match="loss"):
        PGD(loss=bad)(model, images, sp.Untargeted(torch.zeros(2).long()), sp.ThreatModel("linf", 0.1))


def test_a_loss_that_averages_is_refused() -> None:
    images, model = pictures(3, 1, 4, 4), Linear(16)
    aim, threat = sp.Untargeted(torch.zeros(3).long()), sp.ThreatModel("linf", 0.1)
    with pytest.raises(InputError, match="one value per image"):
        PGD(loss=lambda logits, goal: losses.margin(logits, goal).mean())(model, images, aim, threat)


def test_a_loss_given_as_a_function_works_and_is_named() -> None:
    images, model = pictures(5, 1, 4, 4), Linear(16)
    aim, threat = sp.Untargeted(model(images).argmax(1)), sp.ThreatModel("linf", 0.1)
    named, function = (PGD(steps=3, loss=loss, random_start=False) for loss in ("margin", losses.margin))
    assert torch.equal(named(model, images, aim, threat), function(model, images, aim, threat))
    assert "sparring.losses.margin" in str(function)


def test_any_callable_loss_works() -> None:
    def weighted(logits: Tensor, goal: Goal, weight: float) -> Tensor:
        return weight * losses.margin(logits, goal)

    class Callable:
        def __call__(self, logits: Tensor, goal: Goal) -> Tensor:
            return losses.margin(logits, goal)

    images, model = pictures(5, 1, 4, 4), Linear(16)
    aim, threat = sp.Untargeted(model(images).argmax(1)), sp.ThreatModel("linf", 0.1)
    for loss in (functools.partial(weighted, weight=2.0), Callable()):
        PGD(steps=2, loss=loss)(model, images, aim, threat)


def test_the_users_own_attack_round_trips() -> None:
    import sys

    attack = Mine(strength=2.5)
    if "." not in Mine.__module__ or Mine.__module__ not in sys.modules:
        pytest.skip("this module cannot be imported by name here")
    assert parse(str(attack)) == attack


def test_the_users_own_attack_from_a_single_file_round_trips(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib
    from pathlib import Path

    Path(str(tmp_path), "my_own_attack.py").write_text(
        "from dataclasses import dataclass\n"
        "from sparring.attacks import Attack\n\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Mine(Attack):\n"
        "    strength: float = 1.0\n"
        "    def run(self, problem):\n"
        "        return problem.images\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    attack = importlib.import_module("my_own_attack").Mine(strength=2.5)
    assert str(attack) == "my_own_attack:Mine:strength=2.5"
    assert parse(str(attack)) == attack


def test_equal_attacks_have_one_text_so_they_make_the_same_draws() -> None:
    assert PGD(step_size=2) == PGD(step_size=2.0)
    assert str(PGD(step_size=2)) == str(PGD(step_size=2.0))
    assert str(parse(str(PGD(step_size=2)))) == str(PGD(step_size=2))


def test_attacks_cannot_be_changed_and_have_a_paper() -> None:
    for kind in ATTACKS.values():
        attack = kind()
        assert attack.paper
        assert attack.access in ("gradients", "logits", "labels")
        with pytest.raises(AttributeError):
            attack.paper_ = 3  # type: ignore[attr-defined]
        with pytest.raises(TypeError):
            kind(*([PGD()] if issubclass(kind, Wrapper) else []), 3)  # hyper-parameters are keyword-only
    assert issubclass(InputError, SparringError)


def test_a_wrapper_shares_what_it_wraps() -> None:
    assert EOT(RandomNoise()).access == Grid(EOT(RandomNoise())).access == RandomNoise.access
    assert EOT().access == "gradients" != RandomNoise.access
    assert Grid(APGD()).threats == APGD().threats
    assert EOT(PGD(steps=3)) == EOT(PGD(steps=3)) != EOT(PGD(steps=4))
    for bad in (PGD, "pgd", None):
        with pytest.raises(InputError, match="pgd"):
            EOT(bad)
    with pytest.raises(InputError, match=r"is no wrapper.*eot, grid"):
        parse("pgd+fgsm")
    with pytest.raises(InputError, match="did you mean 'eot'"):
        parse("pgd+eto")


def test_a_users_wrapper_is_read_like_ours() -> None:
    attack = Twice(PGD(steps=3), times=3)
    assert parse(str(attack)) == attack == parse(f"pgd:steps=3+{Twice.__module__}:Twice:times=3")


@dataclass(frozen=True, kw_only=True)
class Twice(Wrapper):
    times: int = 2

    def run(self, problem: Problem) -> Tensor:
        return self.attack.run(problem)
