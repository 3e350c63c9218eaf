"""The result of attacking a stack: the same images without attack, under naive attacks, and under adaptive ones."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from sparring.defenses.attacking.pursuit import StageRow
from sparring.defenses.detection import Detection
from sparring.estimate import Estimate

SCHEMA = 1


@dataclass(frozen=True)
class ImageRecord:
    """One image: its label, the clean answer and whether that was flagged, how often a naive and the worst adaptive
    point evade (0 or 1, of a stack with randomness the share of draws), and which attack found the worst point.
    """

    index: int
    label: int
    prediction: int
    flagged: bool
    accepted_right: float
    naive: float
    adaptive: float
    broken_by: str | None


@dataclass(frozen=True)
class NaiveRow:
    """One attack on the bare model: the bare model's accuracy under it, and the stack's robust accuracy with detection
    on the very same images.
    """

    attack: str
    undefended: Estimate
    defended: Estimate


@dataclass(frozen=True)
class Convergence:
    """Robust accuracy with detection that EOT leaves with this many draws per step, on the same images."""

    draws: int
    adaptive: Estimate


@dataclass(frozen=True)
class Latency:
    """Median milliseconds per call of the bare model and of the stack at one batch size, and their ratio."""

    batch: int
    bare: float
    stack: float

    @property
    def ratio(self) -> float:
        """How many bare calls one call of the stack costs."""
        return self.stack / self.bare


@dataclass(frozen=True)
class Plausibility:
    """Tramèr 2022 (arXiv:2107.11630): a detector that keeps accuracy a at eps implies a classifier, though one nobody
    can compute, that keeps a at eps/2. `half`: that half; `claimed`: a; `undefended`: what naive attacks leave of the
    bare model at eps/2.
    """

    half: str
    claimed: Estimate
    undefended: Estimate

    @property
    def surprising(self) -> bool:
        """The claim is clearly above what the bare model keeps: check the attacks before believing it."""
        return self.claimed.low > self.undefended.high

    def __str__(self) -> str:
        said = (
            f"{100 * self.claimed:.1f} % here implies a classifier with {100 * self.claimed:.1f} % at eps {self.half}"
        )
        kept = f"the bare model keeps {100 * self.undefended:.1f} % there under naive attacks"
        return f"{said}; {kept}" + (": surprising, so suspect the attacks first" if self.surprising else "")


@dataclass(frozen=True, eq=False)
class StackOutcome:
    """What a stack does without attack, against attackers who ignore it, and against attackers who know it.

    clean: share answered right, flags ignored. clean_flagged: share of clean images flagged. accepted: share accepted
    and right, which is what there is to lose. naive, adaptive: robust accuracy with detection, the share accepted and
    right for which no accepted wrong answer was found; for a stack with randomness the mean over `draws` fresh draws at
    the worst point. evaded: of the images answered right, the share for which an accepted wrong answer was found.
    removed: of the naive attacks that fool the bare model, the share that the stack stops; taken_back: of those, the
    share that the adaptive attack gets through again. undefended: the bare model under the naive attacks.
    coverage: share of clean images that get an answer. review: share of adaptive attempts that are withheld.
    """

    stack: str
    threat: str
    effort: str
    seed: int
    draws: int
    clean: Estimate
    clean_flagged: Estimate
    accepted: Estimate
    undefended: Estimate
    naive: Estimate
    adaptive: Estimate
    evaded: Estimate
    removed: Estimate
    taken_back: Estimate
    coverage: Estimate
    review: Estimate
    naive_attacks: tuple[NaiveRow, ...]
    stages: tuple[StageRow, ...]
    detection: tuple[Detection, ...]
    convergence: tuple[Convergence, ...]
    latency: tuple[Latency, ...]
    plausibility: Plausibility | None
    records: tuple[ImageRecord, ...]
    notes: tuple[str, ...] = ()
    adversarials: Tensor | None = field(default=None, repr=False)

    @property
    def summary(self) -> str:
        """The one sentence."""
        if math.isnan(self.removed):
            return f"No naive attack fools the bare model; the adaptive attack leaves {_percent(self.adaptive)}."
        back = "there is nothing to take back" if math.isnan(self.taken_back) else _back(self.taken_back)
        return (
            f"Removed {_percent(self.removed)} of naive attacks; {back}: {_percent(self.adaptive)} robust with "
            f"detection [{100 * self.adaptive.low:.1f}, {100 * self.adaptive.high:.1f}], n = {self.adaptive.n}."
        )

    def plain(self) -> dict[str, Any]:
        """Everything but the images, as JSON."""
        said: dict[str, Any] = {"schema": SCHEMA, "summary": self.summary}
        for name in self.__dataclass_fields__:
            if name != "adversarials":
                said[name] = _plain(getattr(self, name))
        return said

    def to_json(self) -> str:
        """`plain` as text; NaN becomes null."""
        return json.dumps(self.plain(), indent=2, allow_nan=False) + "\n"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _back(share: Estimate) -> str:
    return f"the adaptive attack takes back {_percent(share)} of them"


def _plain(value: Any) -> Any:
    if isinstance(value, Estimate):
        return {"value": None if math.isnan(value) else value.value, "low": value.low, "high": value.high, "n": value.n}
    if isinstance(value, (tuple, list)):
        return [_plain(entry) for entry in value]
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if hasattr(value, "__dataclass_fields__"):
        fields = {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
        extra = {"ratio": value.ratio} if isinstance(value, Latency) else {}
        return fields | extra | ({"surprising": value.surprising} if isinstance(value, Plausibility) else {})
    return value
