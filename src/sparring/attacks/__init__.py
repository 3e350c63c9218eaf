"""The attacks: one paper per file, and the table that text, tests, documentation and pages read."""

from sparring.attacks.base import Attack
from sparring.attacks.bim import BIM
from sparring.attacks.fgsm import FGSM
from sparring.attacks.mifgsm import MIFGSM
from sparring.attacks.pgd import PGD
from sparring.attacks.random_noise import RandomNoise
from sparring.attacks.spec import format_attack, parse_attack

ATTACKS: dict[str, type[Attack]] = {
    "random_noise": RandomNoise,
    "fgsm": FGSM,
    "bim": BIM,
    "pgd": PGD,
    "mifgsm": MIFGSM,
}
"""Name to class. A new attack is one new file and one line here."""


def parse(text: str) -> Attack:
    """An attack from its text form, `pgd:steps=40,restarts=5` or `package.module:Class:steps=3`.

    >>> parse("pgd:steps=40,step_size=2/255").steps
    40
    """
    return parse_attack(text, ATTACKS)


__all__ = ["ATTACKS", "BIM", "FGSM", "MIFGSM", "PGD", "Attack", "RandomNoise", "format_attack", "parse"]
