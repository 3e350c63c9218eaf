"""The attacks: one paper per file, and the table that text, tests, documentation and pages read."""

from sparring.attacks.apgd import APGD
from sparring.attacks.base import Attack
from sparring.attacks.bim import BIM
from sparring.attacks.boundary import Boundary
from sparring.attacks.cw import CarliniWagner
from sparring.attacks.ddn import DDN
from sparring.attacks.deepfool import DeepFool
from sparring.attacks.difgsm import DIFGSM
from sparring.attacks.ead import EAD
from sparring.attacks.expectation import EOT
from sparring.attacks.fab import FAB
from sparring.attacks.fgsm import FGSM
from sparring.attacks.fmn import FMN
from sparring.attacks.grid import Grid, survives_8bit
from sparring.attacks.hopskipjump import HopSkipJump
from sparring.attacks.jsma import JSMA
from sparring.attacks.mifgsm import MIFGSM
from sparring.attacks.multitargeted import MultiTargeted
from sparring.attacks.nes import NES
from sparring.attacks.nifgsm import NIFGSM
from sparring.attacks.patch import PatchAttack
from sparring.attacks.pgd import PGD
from sparring.attacks.random_noise import RandomNoise
from sparring.attacks.random_search import RandomSearch
from sparring.attacks.simba import SimBA
from sparring.attacks.spatial import WorstOf
from sparring.attacks.spec import format_attack, parse_attack
from sparring.attacks.spsa import SPSA
from sparring.attacks.square import Square
from sparring.attacks.sticker import Sticker, train_sticker
from sparring.attacks.tifgsm import TIFGSM
from sparring.attacks.transfer import TransferFGSM
from sparring.attacks.universal import UniversalPerturbation, universal_perturbation
from sparring.attacks.wrapper import Wrapper

ATTACKS: dict[str, type[Attack]] = {
    "random_noise": RandomNoise,
    "fgsm": FGSM,
    "bim": BIM,
    "pgd": PGD,
    "mifgsm": MIFGSM,
    "apgd": APGD,
    "nifgsm": NIFGSM,
    "difgsm": DIFGSM,
    "tifgsm": TIFGSM,
    "transfer": TransferFGSM,
    "eot": EOT,
    "grid": Grid,
    "multi_targeted": MultiTargeted,
    "square": Square,
    "cw": CarliniWagner,
    "ead": EAD,
    "jsma": JSMA,
    "patch": PatchAttack,
    "worst_of": WorstOf,
    "nes": NES,
    "spsa": SPSA,
    "simba": SimBA,
    "random_search": RandomSearch,
    "hopskipjump": HopSkipJump,
    "boundary": Boundary,
    "deepfool": DeepFool,
    "ddn": DDN,
    "fmn": FMN,
    "fab": FAB,
}
"""Name to class. A new attack is one new file and one line here."""


def parse(text: str) -> Attack:
    """An attack from its text form, `pgd:steps=40,restarts=5` or `package.module:Class:steps=3`.

    >>> parse("pgd:steps=40,step_size=2/255").steps
    40
    """
    return parse_attack(text, ATTACKS)


__all__ = [
    "APGD",
    "ATTACKS",
    "BIM",
    "DDN",
    "DIFGSM",
    "EAD",
    "EOT",
    "FAB",
    "FGSM",
    "FMN",
    "JSMA",
    "MIFGSM",
    "NES",
    "NIFGSM",
    "PGD",
    "SPSA",
    "TIFGSM",
    "Attack",
    "Boundary",
    "CarliniWagner",
    "DeepFool",
    "Grid",
    "HopSkipJump",
    "MultiTargeted",
    "PatchAttack",
    "RandomNoise",
    "RandomSearch",
    "SimBA",
    "Square",
    "Sticker",
    "TransferFGSM",
    "UniversalPerturbation",
    "WorstOf",
    "Wrapper",
    "format_attack",
    "parse",
    "survives_8bit",
    "train_sticker",
    "universal_perturbation",
]
