"""The rows of `arsenal.py` for attacks that see logits or labels: ours asks as often as the peer did."""

from __future__ import annotations

from collections.abc import Callable

import sparring as sp
from arsenal import Row
from arsenal_peers import UPPER, art, autoattack, foolbox, torchattacks
from peers import Prepare

at = sp.attacks
QUERIES = 500


def rows() -> list[Row]:
    return [*_square(), *_hopskipjump(), *_boundary(), *_estimates(), *_simba()]


def _square() -> list[Row]:
    rows = []
    for net, budgets in (("pgd", (0.1, 1.5, 12.0)), ("standard", (0.1, 1.0, 8.0))):
        for norm, eps in zip(("linf", "l2", "l1"), budgets, strict=True):
            theirs: dict[str, Prepare] = {"pyautoattack": autoattack("square", norm, eps, n_queries=QUERIES)}
            if norm != "l1":
                theirs["torchattacks"] = torchattacks("Square", norm=UPPER[norm], eps=eps, n_queries=QUERIES, seed=None)
            if net == "pgd" and norm == "linf":  # each of its iterations asks three times
                order = {"linf": "inf", "l2": 2, "l1": 1}[norm]
                theirs["ART"] = art("SquareAttack", norm=order, eps=eps, max_iter=QUERIES // 3)
            rows += [
                Row(
                    attack="square",
                    norm=norm,
                    peer=peer,
                    setting=f"{QUERIES} queries",
                    theirs=prepare,
                    mine=lambda q: at.Square(queries=q),
                    eps=eps,
                    net=net,
                    images=250 if norm == "linf" and net == "pgd" else 100,
                    queries=QUERIES,
                    limit=0.7 if (net, norm) == ("pgd", "linf") else 1.0,
                )
                for peer, prepare in theirs.items()
            ]
    return rows


def _nearest(
    attack: str, norm: str, peer: str, setting: str, theirs: Prepare, mine: Callable[[int], at.Attack], images: int
) -> Row:
    return Row(
        attack=attack, norm=norm, peer=peer, setting=setting, theirs=theirs, mine=mine, images=images, batch=images
    )


def _hopskipjump() -> list[Row]:
    def mine(queries: int) -> at.Attack:
        return at.HopSkipJump(queries=queries)

    rows = []
    for steps, norm in ((4, "l2"), (4, "linf"), (9, "l2")):
        theirs = {
            "foolbox": foolbox("HopSkipJumpAttack", steps=steps, constraint=norm),
            "ART": art("HopSkipJump", batched=False, norm=2 if norm == "l2" else "inf", max_iter=steps),
        }
        rows += [
            _nearest("hopskipjump", norm, peer, f"{steps} steps", prepare, mine, 30) for peer, prepare in theirs.items()
        ]
    return rows


def _boundary() -> list[Row]:
    def mine(queries: int) -> at.Attack:
        return at.Boundary(queries=queries)

    return [
        _nearest("boundary", "l2", "foolbox", "1500 steps", foolbox("BoundaryAttack", steps=1500), mine, 30),
        _nearest(
            "boundary",
            "l2",
            "ART",
            "40 steps",
            art("BoundaryAttack", batched=False, targeted=False, max_iter=40),
            mine,
            10,
        ),
    ]


def _estimates() -> list[Row]:
    """torchattacks' SPSA with 64 pairs for 8 steps; nobody has NES, so it races the same."""
    return [
        Row(
            attack=attack,
            norm="linf",
            peer="torchattacks SPSA" if attack == "nes" else "torchattacks",
            setting="64 pairs, 8 steps",
            theirs=torchattacks("SPSA", eps=0.1, nb_iter=8, nb_sample=64),
            mine=mine,
            eps=0.1,
            net=net,
            images=50,
        )
        for attack, mine in (("spsa", lambda q: at.SPSA(queries=q)), ("nes", lambda q: at.NES(queries=q)))
        for net in ("standard", "pgd")
    ]


def _simba() -> list[Row]:
    """ART's knows no budget: ours walks as many queries in a ball that does not bind, with steps as long."""
    rows = []
    for basis, name in (("pixel", "px"), ("dct", "dct")):
        theirs = art("SimBA", attack=name, max_iter=400, epsilon=0.2, one_hot=True, softmax=True)
        rows.append(
            Row(
                attack="simba",
                norm="l2",
                peer="ART",
                setting=f"{basis}, 400 rounds",
                theirs=theirs,
                mine=lambda q, basis=basis: at.SimBA(queries=q, basis=basis),
                eps=10.0,
                images=20,
                repeats=3,
            )
        )
    return rows
