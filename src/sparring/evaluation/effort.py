"""How much to spend: named lists of attacks. Noise comes last: what it still breaks, the gradients missed."""

from __future__ import annotations

from collections.abc import Sequence

from sparring.attacks import PGD, Attack, RandomNoise, parse
from sparring.errors import InputError, unknown

EFFORTS: dict[str, tuple[Attack, ...]] = {
    "quick": (
        PGD(steps=10, loss="margin", schedule="cosine", random_start=False),
        PGD(steps=20, schedule="cosine"),
        RandomNoise(draws=5),
    ),
    "standard": (
        PGD(steps=10, loss="margin", schedule="cosine", random_start=False),
        PGD(steps=40, schedule="cosine", restarts=2),
        PGD(steps=40, loss="margin", schedule="cosine", restarts=2),
        PGD(steps=40, loss="dlr", schedule="cosine"),
        RandomNoise(draws=10),
    ),
    "thorough": (
        PGD(steps=10, loss="margin", schedule="cosine", random_start=False),
        PGD(steps=100, schedule="cosine", restarts=5),
        PGD(steps=100, loss="margin", schedule="cosine", restarts=5),
        PGD(steps=100, loss="dlr", schedule="cosine", restarts=5),
        PGD(steps=100),
        RandomNoise(draws=100),
    ),
}
"""Effort to attacks."""


def chosen_attacks(attacks: Sequence[Attack | str] | None, effort: str) -> list[Attack]:
    """The attacks to run: the given ones (objects or text), else those of `effort`.

    Raises `InputError` for an unknown effort, an empty list, something that is no attack, or the same one twice.
    """
    if attacks is None:
        if effort not in EFFORTS:
            raise InputError(unknown("effort", effort, list(EFFORTS)))
        return list(EFFORTS[effort])
    chosen = [parse(attack) if isinstance(attack, str) else attack for attack in attacks]
    if not chosen:
        raise InputError("attacks is empty: name at least one, or leave it out and choose an effort")
    for attack in chosen:
        if not isinstance(attack, Attack):
            raise InputError(f"attacks must hold Attack objects or text such as 'pgd:steps=40', got {attack!r}")
        if chosen.count(attack) > 1:
            raise InputError(f"{attack} is listed twice: with one seed it would make the same draws again")
    return chosen
