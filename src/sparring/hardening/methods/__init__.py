"""The ways to train, one paper per file, and the table that text, command and documentation read."""

from sparring.hardening.method import Batch, Criterion, Method
from sparring.hardening.methods.certified import Certified
from sparring.hardening.methods.clean import Clean
from sparring.hardening.methods.fgsm_mix import FGSMMix
from sparring.hardening.methods.free import Free
from sparring.hardening.methods.gaussian import Gaussian
from sparring.hardening.methods.mart import MART
from sparring.hardening.methods.n_fgsm import NFGSM
from sparring.hardening.methods.pgd import PGD
from sparring.hardening.methods.rs_fgsm import RSFGSM
from sparring.hardening.methods.trades import TRADES

METHODS: dict[str, type[Method]] = {
    "clean": Clean,
    "fgsm_mix": FGSMMix,
    "rs_fgsm": RSFGSM,
    "n_fgsm": NFGSM,
    "free": Free,
    "pgd": PGD,
    "trades": TRADES,
    "mart": MART,
    "certified": Certified,
    "gaussian": Gaussian,
}
"""Name to class. A new method is one new file and one line here."""

__all__ = [
    "MART",
    "METHODS",
    "NFGSM",
    "PGD",
    "RSFGSM",
    "TRADES",
    "Batch",
    "Certified",
    "Clean",
    "Criterion",
    "FGSMMix",
    "Free",
    "Gaussian",
    "Method",
]
