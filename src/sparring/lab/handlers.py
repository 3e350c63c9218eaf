"""What happens when a control is touched: settings are read, pure functions called, their results handed to gradio."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import gradio as gr
import numpy as np

from sparring.errors import SparringError
from sparring.lab import curves as drawn
from sparring.lab import layers as layering
from sparring.lab import panels
from sparring.lab import rivals as beside
from sparring.lab.picture import encoded, shown
from sparring.lab.play import Play, Shown
from sparring.lab.settings import ATTACK_NAMES, Settings, attacks_in, chosen_attack, threat_at
from sparring.lab.shop import Shop
from sparring.rng import digest

ANY = -1
"""The target's value for any other class."""


def _told(handler: Callable[..., Iterator[str]]) -> Callable[..., Iterator[str]]:
    """A handler whose errors become a message in its own panel."""

    @wraps(handler)
    def told(*given: Any) -> Iterator[str]:
        try:
            yield from handler(*given)
        except SparringError as error:
            yield panels.error(str(error))

    return told


@dataclass(frozen=True, eq=False)
class Desk:
    """The handlers around what is played with, and the files that the page serves."""

    play: Play
    shop: Shop = field(default_factory=Shop)

    def restore(self, request: gr.Request) -> list[Any]:
        """Controls as the link says, as far as they make sense here."""
        shelf = self.play.shelf
        said = Settings.read(dict(request.query_params), shelf.first, "")
        model = said.model if said.model in shelf.names else shelf.first
        names = [example.name for example in shelf[model].examples]
        picture = said.picture if said.picture in names else shelf[model].first
        try:
            name = str(chosen_attack(said.attack)).partition(":")[0]
            attack = said.attack if name in attacks_in(said.norm) else "fgsm"
        except SparringError:
            attack = "fgsm"
        known = shelf[model].names
        target = ANY if said.target is None or (known is not None and said.target >= len(known)) else said.target
        box = gr.Dropdown(choices=list(attacks_in(said.norm)), value=attack.partition(":")[0])
        level = gr.Slider(value=said.level, label=level_label(said.norm))
        return [picture, model, attack, said.norm, level, self._targets(model, target), box]

    def subject(self, model: str) -> list[Any]:
        """What depends on the model: examples, targets, transforms."""
        subject = self.play.shelf[model]
        thumbs = [(self._picture(shown(example.open()[0])), example.name) for example in subject.examples]
        known = layering.usable_transforms(subject)
        return [thumbs, gr.Dropdown(choices=self._classes(model)), gr.CheckboxGroup(choices=list(known), value=[])]

    def switched(self, model: str) -> list[Any]:
        """Another model: its opening example, no upload, no target."""
        return [None, self.play.shelf[model].first, self._targets(model, ANY)]

    def picked(self, model: str, event: gr.SelectData) -> list[Any]:
        """An example was chosen."""
        return [self.play.shelf[model].examples[int(event.index)].name, None]

    def show(self, *controls: Any) -> Iterator[list[Any]]:
        """The answer: after one step at once, then that of the chosen attack."""
        try:
            settings, upload = _settings(controls)
            for case, attack, seen in self.play.shown(settings, upload):
                yield self._answered(settings, case, attack, seen)
        except SparringError as error:
            yield [self._unattacked(controls), gr.skip(), panels.error(str(error)), gr.skip(), gr.skip(), gr.skip()]

    def _unattacked(self, controls: Sequence[Any]) -> Any:
        """The picture as it is, for where it cannot be attacked as wished; what is shown stays if there is none."""
        try:
            picture = self._picture(shown(self.play.case(*_settings(controls)).image[0]))
        except SparringError:
            return gr.skip()
        return picture, picture

    def _answered(self, settings: Settings, case: Any, attack: Any, seen: Shown) -> list[Any]:
        threat = seen.attempt.threat
        ready = drawn.known(case, attack, settings.norm)
        formula = panels.formula(case, attack, threat) if case.offers_gradients else panels.error("no gradient to show")
        curve: Any = gr.skip()
        if ready is not None:
            line = drawn.loss_line(case, settings.norm) if case.offers_gradients else None
            curve = panels.curves(case, ready, line, settings.level)
        noise = gr.update(value=self._picture(seen.change), label=f"change, times {seen.gain:g}, on grey")
        said = panels.answer(case, seen.attempt, seen.running)
        pair = self._picture(seen.original), self._picture(seen.adversarial)
        return [pair, noise, said, formula, curve, f"?{settings.query()}"]

    @_told
    def curves(self, *controls: Any) -> Iterator[str]:
        """The curves as they fill."""
        settings, upload = _settings(controls)
        case, attack = self.play.case(settings, upload), chosen_attack(settings.attack)
        line = drawn.loss_line(case, settings.norm) if case.offers_gradients else None
        for curve in drawn.confidence(case, attack, settings.norm):
            yield panels.curves(case, curve, line, settings.level)

    @_told
    def layers(self, *controls: Any) -> Iterator[str]:
        """The stack under attack, row by row."""
        *plain, transforms, detectors = controls
        settings, upload = _settings(plain)
        case, attack = self.play.case(settings, upload), chosen_attack(settings.attack)
        yield panels.note(layering.unfitted(case, detectors or ()) or "working …")
        stack = layering.built(case, transforms or (), detectors or ())
        threat = threat_at(settings.norm, settings.level, case.subject.size)
        rows = []
        for verdict in layering.verdicts(case, threat, attack, stack):
            rows.append(verdict)
            yield panels.layers(stack, case.subject.clean_are, rows, done=False)
        yield panels.layers(stack, case.subject.clean_are, rows, done=True)

    @_told
    def rivals(self, *controls: Any) -> Iterator[str]:
        """Standard beside hardened."""
        settings, upload = _settings(controls)
        case, attack = self.play.case(settings, upload), chosen_attack(settings.attack)
        yield panels.note("loading the hardened model; the first time it is trained …")
        other = beside.hardened_case(case)
        if other is None:
            yield panels.note(f"No hardened version of {case.subject.name} is known: name its weights, --hardened.")
            return
        threat = threat_at(settings.norm, settings.level, case.subject.size)
        found = []
        for one in (case, other):
            *_, curve = drawn.confidence(one, attack, settings.norm)
            found.append((beside.side(one, attack, threat), curve))
            yield panels.rivals(found)

    @_told
    def gallery(self, *controls: Any) -> Iterator[str]:
        """The attacks side by side, as they finish."""
        settings, upload = _settings(controls)
        case = self.play.case(settings, upload)
        shots = []
        yield panels.note(layering.unfitted(case, (beside.DETECTOR,)) or "working …")
        for shot in beside.gallery(case, settings.level):
            shots.append(shot)
            yield panels.gallery(case, shots, done=len(shots) == len(beside.GALLERY))

    def files(self, *controls: Any) -> list[Any]:
        """Paths of the picture and the tensor that are shown."""
        try:
            settings, upload = _settings(controls)
            made = self.play.files(settings, upload)
        except SparringError:
            made = None
        if made is None:
            return [None, None]
        name = digest(self.play.case(settings, upload).image).hex()[:8]
        stem = f"{name}-{settings.attack.partition(':')[0]}-{settings.norm}-{settings.level}"
        return [self.shop.path(content, stem + end) for content, end in zip(made, (".png", ".npy"), strict=True)]

    def _picture(self, pixels: np.ndarray) -> str:
        return self.shop.path(encoded(pixels), "picture.png")

    def _classes(self, model: str) -> list[tuple[str, int]]:
        names = self.play.shelf[model].names or ()
        return [("any other class", ANY), *((name, i) for i, name in enumerate(names))]

    def _targets(self, model: str, value: int) -> Any:
        return gr.Dropdown(choices=self._classes(model), value=value)


def in_norm(norm: str, attack: str, spec: str) -> list[Any]:
    """The attacks of a norm; one that does not work there gives way to one that does."""
    names = attacks_in(norm)
    kept = attack if attack in names else "fgsm"
    return [
        gr.Dropdown(choices=list(names), value=kept),
        spec if kept == attack else kept,
        gr.Slider(label=level_label(norm)),
    ]


def named(spec: str, attack: str) -> str:
    """The attack that a text says, if it is one of the table."""
    name = spec.partition(":")[0].strip()
    return name if name in ATTACK_NAMES else attack


def level_label(norm: str) -> str:
    """What one step of the slider is."""
    return {
        "linf": "epsilon, in 1/255",
        "l2": "epsilon (l2), in steps of 0.05",
        "l1": "epsilon (l1), in steps of 0.5",
        "l0": "epsilon (l0), in numbers that may change",
    }[norm]


def _settings(controls: Sequence[Any]) -> tuple[Settings, str | None]:
    upload, example, model, spec, norm, level, target = controls
    wanted = None if target in (None, ANY) else int(target)
    return Settings(str(model), str(example), str(spec).strip(), str(norm), int(level), wanted), upload
