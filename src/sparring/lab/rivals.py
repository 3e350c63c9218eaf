"""Standard beside hardened, and the gallery of attacks on one picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import Tensor

from sparring.attacks import Attack, parse
from sparring.auditing.exhibit import Prediction
from sparring.errors import SparringError
from sparring.evaluation.metrics import ssim
from sparring.lab.attempt import Attempt, Case, best
from sparring.lab.layers import LARGE, detection
from sparring.lab.settings import LEVELS, threat_at
from sparring.lab.subject import frozen
from sparring.norms import distance
from sparring.threat import ThreatModel

GALLERY = (("fgsm", "linf"), ("pgd", "linf"), ("cw:steps=40,search_steps=2", "l2"), ("deepfool", "l2"), ("jsma", "l0"))
"""Attack and the norm it is shown in."""
BRIEFER = {"cw:steps=40,search_steps=2": "cw:steps=20,search_steps=2", "deepfool": "deepfool:classes=4"}
"""What takes their place for images of more than `LARGE` numbers."""
DETECTOR = "feature_squeezing"
SECONDS = 40.0


@dataclass(frozen=True, eq=False)
class Side:
    """One model under the attack: its clean answer, the attack's, and whether it fell."""

    name: str
    clean: Prediction
    attempt: Attempt
    after: Prediction


@dataclass(frozen=True, eq=False)
class Shot:
    """One attack of the gallery. `flagged` None: no detector could be fitted; `hardened` None: there is no such model;
    `note`: why there is nothing to show.
    """

    attack: str
    norm: str
    adversarial: Tensor | None = None
    success: bool = False
    after: Prediction | None = None
    l2: float = 0.0
    linf: float = 0.0
    features: int = 0
    ssim: float = 1.0
    flagged: bool | None = None
    hardened: bool | None = None
    forwards: int = 0
    backwards: int = 0
    seconds: float = 0.0
    note: str = ""


def hardened_case(case: Case) -> Case | None:
    """The same picture before the hardened model; None where there is none."""
    load = case.subject.hardened
    if load is None:
        return None
    if "hardened" not in case.subject.fellows:
        case.subject.fellows["hardened"] = replace(
            case.subject,
            name=f"{case.subject.name}, hardened",
            model=frozen(load()),
            hardened=None,
            fitted={},
            fellows={},
        )
    return Case(case.subject.fellows["hardened"], case.image, case.target, case.truth)


def side(case: Case, attack: Attack, threat: ThreatModel) -> Side:
    """The attack on this very model."""
    attempt = case.attempted(attack, threat)
    names = case.subject.names
    return Side(case.subject.name, best(case.logits, names, 1)[0], attempt, best(attempt.logits, names, 1)[0])


def gallery(case: Case, level: int, seconds: float = SECONDS) -> Iterator[Shot]:
    """Every attack of `GALLERY` on the picture: those of linf at `level`, the others free to go as far as they need."""
    other = hardened_case(case)
    for text, norm in GALLERY:
        said = BRIEFER.get(text, text) if case.subject.size > LARGE else text
        try:
            yield _shot(case, other, said, norm, level, seconds)
        except SparringError as error:
            yield Shot(said, norm, note=str(error))


def _shot(case: Case, other: Case | None, text: str, norm: str, level: int, seconds: float) -> Shot:
    size = case.subject.size
    threat = threat_at(norm, level, size) if norm == "linf" else _wide(norm, size)
    attempt = case.attempted(parse(text), threat, seconds=seconds, nearest=True)
    delta, found = attempt.adversarial - case.image, attempt.adversarial
    scores = detection(case, (DETECTOR,), found)
    return Shot(
        attack=text,
        norm=norm,
        adversarial=found[0],
        success=attempt.success,
        after=best(attempt.logits, case.subject.names, 1)[0],
        l2=float(distance(delta.double(), "l2")[0]),
        linf=float(distance(delta.double(), "linf")[0]),
        features=int((delta != 0).sum()),
        ssim=float(ssim(case.image, found)[0]),
        flagged=any(score > threshold for _, score, threshold in scores),
        hardened=None if other is None else bool(case.goal.is_met(other.asked(found))[0]),
        forwards=attempt.forwards,
        backwards=attempt.backwards,
        seconds=attempt.seconds,
    )


def _wide(norm: str, size: int) -> ThreatModel:
    """A budget wide enough for an attack that looks for the nearest."""
    return threat_at(norm, LEVELS, size) if norm == "l0" else ThreatModel(norm, 8.0)
