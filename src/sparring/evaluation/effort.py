"""How much to spend, and on which images: plans that look at what each attack did before they choose the next."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.attacks import (
    APGD,
    ATTACKS,
    FAB,
    FGSM,
    PGD,
    Attack,
    HopSkipJump,
    MultiTargeted,
    RandomNoise,
    Square,
    parse,
)
from sparring.black_box import ACCESS
from sparring.errors import InputError, UnsupportedError, unknown
from sparring.evaluation.evaluation import MISLED, State
from sparring.evaluation.spot_check import spot_check
from sparring.evaluation.stages import Plan, Setting, Stage, in_turn, nearest

SAMPLE = 36
"""Images of a spot check: none broken bounds the share that is missed at about 8 %."""
NEAREST = 0.12
"""Share of the images that stand, those with the smallest margins, that always counts as close to breaking ..."""
NEAR = 1 / 3
"""Share of the images that stand, those with the smallest margins, that the attacks of `near` go to."""
STRETCH = 2.0
"""... and so does every image that twice the effect of the last two attacks would break."""


MANY = 0.1
"""If more than this share of the images have a misleading gradient, none is relied on."""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """Attacks and the images they go to, in the order of the fields.

    everyone: all images that stand; in l1 the attacks of `l1` instead, where there are any. near: the third of them
    with the smallest margins. close: those with the smallest margins, the more of them the more the last attacks of
    `everyone` and `near` still took off the margins. search:
    without gradients, on the images whose gradients mislead, and on all where these are many; deep: there too, if a
    search broke one. noise: everyone, since what it breaks the gradients missed. blind: with `everyone`, for a model
    that shows no gradients. check: a random sample of all that were not `close`, with the searches, to bound what was
    missed (where few stand, all of them); if a search finds what gradients did not, `deep` goes to everyone.
    """

    about: str
    everyone: tuple[Attack, ...]
    l1: tuple[Attack, ...] = ()
    near: tuple[Attack, ...] = ()
    close: tuple[Attack, ...] = ()
    search: tuple[Attack, ...] = ()
    deep: tuple[Attack, ...] = ()
    noise: tuple[Attack, ...] = ()
    blind: tuple[Attack, ...] = ()
    check: tuple[Attack, ...] = ()

    @property
    def attacks(self) -> tuple[Attack, ...]:
        """All attacks that it may use."""
        every = (
            *self.everyone,
            *self.l1,
            *self.near,
            *self.close,
            *self.search,
            *self.deep,
            *self.noise,
            *self.blind,
            *self.check,
        )
        return tuple(dict.fromkeys(every))

    def plan(self, state: State, setting: Setting) -> Iterator[Stage]:
        """Stage after stage; see the class."""
        fitting = _Fitting(setting)
        first = self.l1 if self.l1 and setting.norm == "l1" else self.everyone
        everyone = fitting(first) if setting.access == "gradients" else fitting((*first, *self.blind))
        if not everyone:
            everyone = fitting(kind() for kind in ATTACKS.values())
        if not everyone:
            raise UnsupportedError(f"no attack works in {setting.norm} on a model that shows {setting.access}")
        margins = []
        for attack in everyone:
            margins.append(state.margin_values())
            yield Stage(attack)
        for attack in fitting(self.near):
            margins.append(state.margin_values())
            standing = state.standing()
            yield Stage(attack, nearest(state, standing, math.ceil(NEAR * int(standing.sum()))), "nearest third")
        close = _close(state, margins[-2:][0])
        for attack in fitting(self.close):
            yield Stage(attack, close, "close to breaking")
        search, deep = fitting(self.search), fitting(self.deep)
        if setting.access == "gradients":
            yield from _searched(state, setting, search, deep)
        for attack in fitting(self.noise):
            yield Stage(attack)
        sampled = [*fitting(self.check)[:1], *search] if setting.access == "gradients" else []
        if sampled:
            left_out = ~close if int(state.standing().sum()) > SAMPLE else torch.ones_like(close)
            missed = yield from spot_check(state, setting, sampled, deep, left_out, SAMPLE)
            trusted = not any(doubt.startswith(MISLED) for doubt in state.doubts)
            state.missed_bound = missed if fitting(self.check) and trusted else None


class _Fitting:
    """Picks the attacks that work in a setting."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting

    def __call__(self, attacks: Sequence[Attack] | Iterator[Attack]) -> list[Attack]:
        enough = ACCESS[: ACCESS.index(self._setting.access) + 1]
        return [attack for attack in attacks if attack.access in enough and self._setting.norm in attack.threats]


def _close(state: State, before: Tensor) -> Tensor:
    """Bool (N,): the images that stand with one of the NEAREST smallest margins, or one that STRETCH times the effect
    of the last attacks would undo: the 95th percentile of what they took off the margins `before` (N,).
    """
    margins, standing = state.margin_values(), state.standing()
    taken = (before - margins)[standing & before.isfinite() & margins.isfinite()]
    if not len(taken):
        return standing
    within_reach = standing & ~(margins > STRETCH * taken.quantile(0.95))
    return within_reach | nearest(state, standing, math.ceil(NEAREST * int(standing.sum())))


def _searched(state: State, setting: Setting, search: list[Attack], deep: list[Attack]) -> Iterator[Stage]:
    """The searches on the images whose gradients mislead, or on all where these are many; and the deep ones there too,
    if a search broke one.
    """
    before = state.standing()
    if not search or not bool(before.any()):
        return
    rows = setting.doubtful()
    misled, standing = int(rows.sum()), int(before.sum())
    if misled > MANY * standing:
        rows = before
        state.doubts.append(
            f"{MISLED}: on {misled} of the {standing} images that stood, a small step does not do what the gradient "
            "says; what gradient attacks left may be broken all the same"
        )
    for attack in search:
        if bool((rows & state.standing()).any()):
            yield Stage(attack, rows, MISLED)
    found = int((before & ~state.standing()).sum())
    if found:
        state.doubt(search, found)
        for attack in deep:
            if bool((rows & state.standing()).any()):
                yield Stage(attack, rows, MISLED)


_SWEEP = (FGSM(), PGD(steps=10, loss="margin", random_start=False), PGD(steps=20))
_CLASS_BY_CLASS = MultiTargeted(targets=4, steps=20)
_APGD_T = APGD(steps=100, loss="dlr", targets=9)
_FAB_AND_SQUARE = (FAB(steps=100, restarts=1, targets=9), Square(queries=5000, rescale=False))
_AUTOATTACK = (APGD(steps=100), _APGD_T, *_FAB_AND_SQUARE)
_AUTOATTACK_L1 = (APGD(steps=100, restarts=5), APGD(steps=100, loss="dlr", targets=5), *_FAB_AND_SQUARE)
_STRONG = (APGD(steps=50, loss="margin"), MultiTargeted(steps=60, restarts=2, random_start=True), PGD(steps=100))
_LONG = PGD(steps=100, restarts=5, loss="margin")
_BLIND = (Square(queries=5000), HopSkipJump())

EFFORTS: dict[str, Effort] = {
    "quick": Effort(
        about="A few dozen gradients per image, for the inner loop of development.",
        everyone=_SWEEP[:2],
        near=(MultiTargeted(targets=2, steps=10),),
        close=(MultiTargeted(targets=4, steps=30, random_start=True),),
        search=(Square(queries=100),),
        deep=(Square(queries=500),),
        noise=(RandomNoise(draws=3),),
        blind=(Square(queries=500), HopSkipJump(queries=500)),
    ),
    "standard": Effort(
        about="Every class for everyone, the strong attacks close to the boundary, a spot check on the rest.",
        everyone=(*_SWEEP, _CLASS_BY_CLASS),
        close=_STRONG,
        search=(Square(queries=500),),
        deep=(Square(queries=5000),),
        noise=(RandomNoise(draws=5),),
        blind=_BLIND,
        check=(_APGD_T, MultiTargeted(steps=100, random_start=True)),
    ),
    "thorough": Effort(
        about="The whole ensemble on every image that stands, for publication.",
        everyone=(*_SWEEP, _CLASS_BY_CLASS, *_STRONG, *_AUTOATTACK, _LONG),
        l1=(*_SWEEP, _CLASS_BY_CLASS, *_STRONG, *_AUTOATTACK_L1, _LONG),
        noise=(RandomNoise(draws=100),),
        blind=_BLIND,
    ),
    "autoattack": Effort(
        about="AutoAttack's standard version (Croce & Hein 2020), to compare with published figures.",
        everyone=_AUTOATTACK,
        l1=_AUTOATTACK_L1,
    ),
}
"""Effort to plan."""


def chosen_plan(attacks: Sequence[Attack | str] | None, effort: str) -> tuple[Plan, tuple[Attack, ...]]:
    """The plan to follow and the attacks it draws on: the given ones in turn, else those of `effort`.

    Raises `InputError` as `chosen_attacks` does, and for an unknown effort.
    """
    if attacks is not None:
        chosen = chosen_attacks(attacks)
        return in_turn(chosen), tuple(chosen)
    if effort not in EFFORTS:
        raise InputError(unknown("effort", effort, list(EFFORTS)))
    return EFFORTS[effort].plan, EFFORTS[effort].attacks


def chosen_attacks(attacks: Sequence[Attack | str]) -> list[Attack]:
    """The given attacks, objects or text, as objects.

    Raises `InputError` for an empty list, something that is no attack, or the same one twice.
    """
    if isinstance(attacks, (str, Attack)) or not hasattr(attacks, "__iter__"):
        raise InputError(f"attacks must be a list such as ['pgd:steps=40'], got {attacks!r} by itself")
    chosen = [parse(attack) if isinstance(attack, str) else attack for attack in attacks]
    if not chosen:
        raise InputError("attacks is empty: name at least one, or leave it out and choose an effort")
    for attack in chosen:
        if not isinstance(attack, Attack):
            raise InputError(f"attacks must hold Attack objects or text such as 'pgd:steps=40', got {attack!r}")
        if chosen.count(attack) > 1:
            raise InputError(f"{attack} is listed twice: with one seed it would make the same draws again")
    return chosen
