"""The rows of `arsenal.py` for gradient attacks inside a budget, for transfer, and for threats beyond the ball."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

import sparring as sp
from arsenal import ORDER, Craft, Row
from arsenal_peers import UPPER, adv_lib, art, autoattack, foolbox, torchattacks
from peers import Attack, Prepare

at = sp.attacks
EPS = {"linf": 0.1, "l2": 1.5, "l1": 12.0}
"""What leaves some of the PGD-trained net's images standing."""


def rows() -> list[Row]:
    return [*_fgsm(), *_pgd(), *_apgd(), *_momentum(), *_transfer(), *_spatial(), *_universal()]


def _row(attack: str, norm: str, peer: str, setting: str, theirs: Prepare, mine: Any, **more: Any) -> Row:
    settings = {"net": "pgd", "eps": EPS.get(norm)} | more
    return Row(attack=attack, norm=norm, peer=peer, setting=setting, theirs=theirs, mine=mine, **settings)


def _fgsm() -> list[Row]:
    eps = EPS["l2"]
    theirs = {"foolbox": foolbox("L2FastGradientAttack", eps=eps), "ART": art("FastGradientMethod", norm=2, eps=eps)}
    return [
        _row("fgsm", "l2", peer, "one step", prepare, lambda _: at.FGSM(), images=250, repeats=9)
        for peer, prepare in theirs.items()
    ]


def _pgd() -> list[Row]:
    eps, size = EPS["l2"], 2.5 * EPS["l2"] / 40
    theirs = {
        "foolbox": foolbox("L2PGD", eps=eps, steps=40, abs_stepsize=size),
        "torchattacks": torchattacks("PGDL2", eps=eps, steps=40, alpha=size),
        "ART": art("ProjectedGradientDescent", norm=2, eps=eps, max_iter=40, eps_step=size),
    }
    rows = [
        _row("pgd", "l2", peer, "40 steps", prepare, lambda _: at.PGD(steps=40), images=250)
        for peer, prepare in theirs.items()
    ]
    sparse = foolbox("SparseL1DescentAttack", eps=EPS["l1"], steps=40, rel_stepsize=2.5 / 40)
    rows.append(_row("pgd", "l1", "foolbox", "40 steps", sparse, lambda _: at.PGD(steps=40), images=250))
    return rows


def _apgd() -> list[Row]:
    rows = []
    for norm in ("linf", "l2", "l1"):
        eps, order, name = EPS[norm], ORDER[norm], UPPER[norm]
        open_ = {
            "adv-lib": lambda loss, eps=eps, order=order: adv_lib("apgd", eps=eps, norm=order, loss_function=loss),
            "pyautoattack": lambda loss, eps=eps, norm=norm: autoattack("apgd", norm, eps, loss=loss),
        }
        if norm == "linf":
            open_["torchattacks"] = lambda loss, eps=eps, name=name: torchattacks(
                "APGD", norm=name, eps=eps, steps=100, loss=loss, seed=None
            )
        for loss in ("ce", "dlr"):
            mine = "cross_entropy" if loss == "ce" else "dlr"
            rows += [
                _row("apgd", norm, peer, f"{loss}, 100", make(loss), lambda _, m=mine: at.APGD(loss=m))
                for peer, make in open_.items()
            ]
        aimed = {
            "adv-lib": adv_lib("apgd_targeted", eps=eps, norm=order),
            "pyautoattack": autoattack("apgd-t", norm, eps, n_iter=100),
        }
        rows += [
            _row(
                "apgd",
                norm,
                peer,
                "dlr, 9 x 100",
                prepare,
                lambda _: at.APGD(loss="dlr", targets=9),
                images=30,
                repeats=1,
            )
            for peer, prepare in aimed.items()
            if norm == "linf" or peer == "adv-lib"
        ]
    smooth = art("AutoProjectedGradientDescent", eps=EPS["linf"], max_iter=100, nb_random_init=1, eps_step=0.2)
    rows.append(_row("apgd", "linf", "ART", "ce, 100", smooth, lambda _: at.APGD(), images=30, repeats=1))
    return rows


def _momentum() -> list[Row]:
    eps, steps = EPS["linf"], 10
    common = {"eps": eps, "steps": steps, "alpha": eps / steps, "decay": 1.0}
    flat = {"abs_stepsize": EPS["l2"] / steps, "steps": steps}
    duels = [
        (
            "linf",
            "foolbox",
            foolbox("LinfMomentumIterativeFastGradientMethod", eps=eps, **flat | {"abs_stepsize": 0.01}),
        ),
        ("linf", "torchattacks", torchattacks("MIFGSM", **common)),
        ("linf", "ART", art("MomentumIterativeMethod", eps=eps, eps_step=eps / steps, max_iter=steps)),
        ("l2", "foolbox", foolbox("L2MomentumIterativeFastGradientMethod", eps=EPS["l2"], **flat)),
    ]
    return [
        _row("mifgsm", norm, peer, "10 steps", prepare, lambda _: at.MIFGSM(), images=250, repeats=5)
        for norm, peer, prepare in duels
    ]


def _transfer() -> list[Row]:
    """Each twice: on the net itself, and made on one net against another."""
    eps, steps = EPS["linf"], 10
    common = {"eps": eps, "steps": steps, "alpha": eps / steps, "decay": 1.0}
    duels = {
        "mifgsm": ("10 steps", torchattacks("MIFGSM", **common), at.MIFGSM(early_stop=False)),
        "nifgsm": ("10 steps", torchattacks("NIFGSM", **common), at.NIFGSM()),
        "si-nifgsm": ("10 steps, 5 scales", torchattacks("SINIFGSM", **common, m=5), at.NIFGSM(scales=5)),
        "difgsm": ("10 steps, decay 1", torchattacks("DIFGSM", **common), at.DIFGSM()),
        "tifgsm": ("10 steps, decay 1", _in_colour("TIFGSM", **common, diversity_prob=0.0), at.TIFGSM()),
    }
    fields = (("pgd", None), ("standard", "wide-standard"))
    return [
        _row(
            attack,
            "linf",
            "torchattacks",
            setting,
            theirs,
            lambda _, mine=mine: mine,
            net=net,
            judge=judge,
            images=250,
            repeats=5,
        )
        for attack, (setting, theirs, mine) in duels.items()
        for net, judge in fields
        if judge or attack != "mifgsm"
    ]


def _in_colour(name: str, **settings: Any) -> Prepare:
    """torchattacks smooths three channels and no other number: give it the grey picture thrice."""

    class Grey(nn.Module):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, images: Tensor) -> Tensor:
            return self.net(images.mean(1, keepdim=True))

    def prepare(model: nn.Module) -> Attack:
        attack = torchattacks(name, **settings)(Grey(model).eval())
        return lambda images, labels, batch: attack(images.expand(-1, 3, -1, -1), labels, batch)[:, :1]

    return prepare


def _spatial() -> list[Row]:
    """Turns up to 30 degrees, shifts up to 3 pixels: all of a grid of 7 x 3 x 3."""
    limits = {"max_rotation": 30.0, "num_rotations": 7, "num_translations": 3}
    duels = {
        "foolbox": foolbox("SpatialAttack", max_translation=3, grid_search=True, **limits),
        "ART": art("SpatialTransformation", batched=False, max_translation=100 * 3 / 28, **limits),
    }
    grid = sp.perturbations.Spatial(rotation=30, translation=3 / 28, turns=7, shifts=3)

    def mine(model: nn.Module, images: Tensor, labels: Tensor, seed: int) -> Tensor:
        return at.WorstOf()(model, images, sp.Untargeted(labels), grid)

    return [
        _row(
            "worst_of",
            "any",
            peer,
            "30 degrees, 3 pixels, 7 x 3 x 3",
            theirs,
            lambda _: mine,
            net="standard",
            images=250,
        )
        for peer, theirs in duels.items()
    ]


def _universal() -> list[Row]:
    rows = []
    for norm, eps in (("linf", 0.1), ("l2", 2.0)):
        theirs = art("UniversalPerturbation", norm=np_order(norm), eps=eps, max_iter=3, one_hot=True)
        rows.append(
            _row(
                "universal",
                norm,
                "ART",
                "DeepFool, 3 rounds",
                theirs,
                lambda _, norm=norm, eps=eps: _shared(norm, eps),
                eps=eps,
                net="standard",
                images=60,
                repeats=1,
            )
        )
    return rows


def np_order(norm: str) -> float | int:
    return math.inf if norm == "linf" else 2


def _shared(norm: str, eps: float) -> Craft:
    def craft(model: nn.Module, images: Tensor, labels: Tensor, seed: int) -> Tensor:
        found = at.universal_perturbation(model, images, labels, sp.ThreatModel(norm, eps), seed=seed)
        return found.apply(images)

    return craft
