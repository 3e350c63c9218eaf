"""The rows of `arsenal.py` for attacks that look for the nearest adversarial with gradients."""

from __future__ import annotations

import math

from torch import Tensor, nn

import sparring as sp
from arsenal import Craft, Row
from arsenal_peers import UPPER, adv_lib, art, foolbox, torchattacks
from peers import Attack, Prepare

at = sp.attacks
FOOLBOX = {"linf": "LInf", "l2": "L2", "l1": "L1", "l0": "L0"}
ORDER = {"linf": math.inf, "l2": 2, "l1": 1, "l0": 0}


def rows() -> list[Row]:
    return [*_ddn(), *_deepfool(), *_fmn(), *_fab(), *_carlini_wagner(), *_ead(), *_jsma()]


def _ddn() -> list[Row]:
    rows = []
    for steps in (100, 50, 20):
        theirs = {
            "adv-lib": adv_lib("ddn", steps=steps, levels=None),
            "foolbox": foolbox("DDNAttack", steps=steps),
        }
        for net in ("standard", "pgd"):
            rows += [
                Row(
                    attack="ddn",
                    norm="l2",
                    peer=peer,
                    setting=f"{steps} steps",
                    theirs=prepare,
                    mine=lambda _, steps=steps: at.DDN(steps=steps),
                    net=net,
                    limit=0.7 if steps == 100 and net == "standard" else 1.0,
                )
                for peer, prepare in theirs.items()
                if peer == "adv-lib" or (steps == 100 and net == "standard")
            ]
    return rows


def _deepfool() -> list[Row]:
    rows = []
    for norm in ("l2", "linf"):
        name = {"l2": "L2DeepFoolAttack", "linf": "LinfDeepFoolAttack"}[norm]
        theirs = {
            "adv-lib": ("100 steps", adv_lib("df", steps=100, norm=ORDER[norm])),
            "foolbox": ("50 steps", foolbox(name, steps=50)),
        }
        if norm == "l2":
            theirs["ART"] = ("100 steps", art("DeepFool", max_iter=100))
        for net in ("standard", "pgd"):
            rows += [
                Row(
                    attack="deepfool",
                    norm=norm,
                    peer=peer,
                    setting=setting,
                    theirs=prepare,
                    mine=lambda _: at.DeepFool(),
                    net=net,
                    images=250 if peer == "adv-lib" else 50,
                    repeats=3 if peer == "adv-lib" else 1,
                    limit=0.7 if peer == "adv-lib" and net == "standard" else 1.0,
                )
                for peer, (setting, prepare) in theirs.items()
                if peer == "adv-lib" or net == "standard"
            ]
    return rows


def _fmn() -> list[Row]:
    rows = []
    for norm in ("linf", "l2", "l1", "l0"):
        theirs = {
            "adv-lib": adv_lib("fmn", steps=100, norm=ORDER[norm]),
            "foolbox": foolbox(f"{FOOLBOX[norm]}FMNAttack", steps=100),
        }
        for net in ("standard", "pgd"):
            rows += [
                Row(
                    attack="fmn",
                    norm=norm,
                    peer=peer,
                    setting="100 steps",
                    theirs=prepare,
                    mine=lambda _: at.FMN(steps=100),
                    net=net,
                    images=100 if peer == "adv-lib" else 50,
                    repeats=3 if peer == "adv-lib" else 1,
                )
                for peer, prepare in theirs.items()
                if peer == "adv-lib" or net == "standard"
            ]
    return rows


def _fab() -> list[Row]:
    rows = []
    for norm, far in (("linf", 1.0), ("l2", 10.0), ("l1", 100.0)):
        theirs = {
            "adv-lib": adv_lib("fab", n_iter=100, norm=ORDER[norm]),
            "torchattacks": torchattacks("FAB", norm=UPPER[norm], eps=far, steps=100),
        }
        for net in ("standard", "pgd"):
            rows += [
                Row(
                    attack="fab",
                    norm=norm,
                    peer=peer,
                    setting="100 steps",
                    theirs=prepare,
                    mine=lambda _: at.FAB(),
                    net=net,
                    images=30,
                    repeats=1,
                    batch=30,
                )
                for peer, prepare in theirs.items()
                if peer == "adv-lib" or net == "standard"
            ]
        rows.append(
            Row(
                attack="fab",
                norm=norm,
                peer="adv-lib",
                setting="100 steps, 9 targets",
                theirs=adv_lib("fab", n_iter=100, norm=ORDER[norm], targeted_restarts=True),
                mine=lambda _: at.FAB(targets=9, restarts=1),
                images=30,
                repeats=1,
            )
        )
    return rows


def _carlini_wagner() -> list[Row]:
    duels = [
        ("l2", "adv-lib", "5 x 100", adv_lib("carlini_wagner_l2", binary_search_steps=5, max_iterations=100)),
        ("l2", "adv-lib", "9 x 200", adv_lib("carlini_wagner_l2", binary_search_steps=9, max_iterations=200)),
        ("l2", "foolbox", "5 x 100", foolbox("L2CarliniWagnerAttack", binary_search_steps=5, steps=100)),
        ("l2", "torchattacks", "c = 1, 500", torchattacks("CW", c=1, steps=500)),
        ("l2", "ART", "5 x 100", art("CarliniL2Method", binary_search_steps=5, max_iter=100)),
        ("linf", "adv-lib", "100 a weight", adv_lib("carlini_wagner_linf", max_iterations=100)),
        ("linf", "ART", "100 a weight", art("CarliniLInfMethod", max_iter=100)),
        ("l0", "ART", "5 x 100", art("CarliniL0Method", binary_search_steps=5, max_iter=100)),
    ]
    return [
        Row(
            attack="cw",
            norm=norm,
            peer=peer,
            setting=setting,
            theirs=prepare,
            mine=lambda _, setting=setting: at.CarliniWagner(
                steps=200 if "200" in setting else 100, search_steps=9 if "9" in setting else 5
            ),
            net=net,
            images=10 if peer == "ART" else 40 if norm == "l2" else 20,
            repeats=1,
        )
        for norm, peer, setting, prepare in duels
        for net in ("standard", "pgd")
        if net == "standard" or peer == "adv-lib"
    ]


def _ead() -> list[Row]:
    """Five weights, and as many steps for each as make the peer's passes; once more with the defaults."""
    nine = {"binary_search_steps": 9, "steps": 100, "decision_rule": "L1"}
    near = foolbox("EADAttack", **nine, regularization=0.1)
    duels = [
        ("foolbox", "standard", "L1, 9 x 100", foolbox("EADAttack", **nine), 40),
        ("foolbox", "standard", "L1, 9 x 100, beta 0.1", near, 40),
        ("foolbox", "pgd", "L1, 9 x 100, beta 0.1", near, 40),
        ("torchattacks", "standard", "9 x 100", torchattacks("EADL1", max_iterations=100), 20),
        ("ART", "standard", "L1, 9 x 100", art("ElasticNet", max_iter=100, decision_rule="L1"), 5),
    ]
    return [
        Row(
            attack="ead",
            norm="l1",
            peer=peer,
            setting=setting,
            theirs=prepare,
            mine=lambda passes: at.EAD(steps=max(10, min(100, passes // 10))),
            net=net,
            images=images,
            repeats=1,
        )
        for peer, net, setting, prepare, images in duels
    ]


def _jsma() -> list[Row]:
    duels = [
        ("ART", "theta 1, gamma 0.145", art("SaliencyMapMethod", theta=1.0, gamma=0.145, one_hot=True), 0.145),
        ("ART", "theta 1, gamma 1", art("SaliencyMapMethod", theta=1.0, gamma=1.0, one_hot=True), 1.0),
        ("torchattacks", "theta 1, gamma 0.145", _before(torchattacks("JSMA", theta=1.0, gamma=0.145)), 0.145),
    ]
    return [
        Row(
            attack="jsma",
            norm="l0",
            peer=peer,
            setting=setting,
            theirs=prepare,
            mine=lambda _, gamma=gamma: _jsma_within(gamma),
            targeted=True,
            images=20,
            repeats=5 if peer == "ART" else 1,
            limit=0.7 if peer == "ART" else 1.0,
        )
        for peer, setting, prepare, gamma in duels
    ]


def _jsma_within(gamma: float) -> Craft:
    def craft(model: nn.Module, images: Tensor, labels: Tensor, seed: int) -> Tensor:
        threat = sp.ThreatModel("l0", float(images[0].numel()))
        return at.JSMA(gamma=gamma)(model, images, sp.Targeted((labels + 1) % 10), threat)

    return craft


def _before(prepare: Prepare) -> Prepare:
    """torchattacks' JSMA aims at the class after the label it is given: give it the one before the target."""

    def prepared(model: nn.Module) -> Attack:
        attack = prepare(model)
        return lambda images, labels, batch: attack(images, (labels - 1) % 10, batch)

    return prepared
