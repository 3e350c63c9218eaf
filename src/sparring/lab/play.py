"""From settings to what is shown: cases kept for as long as they are played with, and the answers as they come."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from sparring.attacks import Attack
from sparring.auditing.pictures import perturbation, png_bytes
from sparring.errors import UnsupportedError
from sparring.lab.attempt import ONE_STEP, Attempt, Case
from sparring.lab.picture import read_upload, shown
from sparring.lab.settings import Settings, chosen_attack, threat_at
from sparring.lab.subject import Shelf

KEPT = 24
"""Cases that are kept with what was found for them."""


@dataclass(frozen=True, eq=False)
class Shown:
    """What stands on the page: pictures as uint8 (H, W, 3), the gain of the change, the attempt; `running` as long as
    the chosen attack's own answer is still to come.
    """

    original: np.ndarray
    adversarial: np.ndarray
    change: np.ndarray
    gain: float
    attempt: Attempt
    running: str | None


@dataclass(eq=False)
class Play:
    """The shelf of models and the latest cases; safe to share between threads."""

    shelf: Shelf = field(default_factory=Shelf)
    _cases: OrderedDict[tuple[str, str, int | None], Case] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def case(self, settings: Settings, upload: str | None = None) -> Case:
        """The picture before the model. Raises `SparringError` for whatever is wrong with either."""
        key = (settings.model, upload or settings.picture, settings.target)
        with self._lock:
            if key in self._cases:
                self._cases.move_to_end(key)
                return self._cases[key]
        subject = self.shelf[settings.model]
        if upload is None:
            example = subject.example(settings.picture)
            case = Case(subject, example.open(), settings.target, example.truth)
        else:
            case = Case(subject, read_upload(upload, subject.shape), settings.target)
        with self._lock:
            self._cases[key] = case
            while len(self._cases) > KEPT:
                self._cases.popitem(last=False)
        return case

    def shown(self, settings: Settings, upload: str | None = None) -> Iterator[tuple[Case, Attack, Shown]]:
        """First what one step does, then the chosen attack, if that is another one."""
        case, attack = self.case(settings, upload), chosen_attack(settings.attack)
        threat = threat_at(settings.norm, settings.level, case.subject.size)
        attack.check_threat(threat)
        key = ("attempt", str(attack), settings.norm, settings.level)
        found = case.memory.get(key)
        if not isinstance(found, Attempt):
            if case.offers_gradients:
                first = case.one_step(threat)
                alone = attack == ONE_STEP
                yield case, attack, _pictures(case, first, None if alone else str(attack))
                if alone:
                    case.memory[key] = first
                    return
            elif attack.access == "gradients":
                raise UnsupportedError(
                    "this model shows no gradients: choose an attack that needs none, such as square"
                )
            found = case.attempted(attack, threat)
            case.memory[key] = found
        yield case, attack, _pictures(case, found, None)

    def files(self, settings: Settings, upload: str | None = None) -> tuple[bytes, bytes] | None:
        """The shown adversarial as 8-bit PNG and as exact .npy (C, H, W); None before it was found."""
        case, attack = self.case(settings, upload), chosen_attack(settings.attack)
        found = case.memory.get(("attempt", str(attack), settings.norm, settings.level))
        if not isinstance(found, Attempt):
            return None
        stream = io.BytesIO()
        np.save(stream, found.adversarial[0].numpy(), allow_pickle=False)
        return png_bytes(found.adversarial[0]), stream.getvalue()


def _pictures(case: Case, attempt: Attempt, running: str | None) -> Shown:
    change, gain = perturbation(case.image[0], attempt.adversarial[0], (0.0, 1.0))
    return Shown(shown(case.image[0]), shown(attempt.adversarial[0]), shown(change), gain, attempt, running)
