"""The pages of transforms and detectors, one per entry of their tables, and an index of each."""

from __future__ import annotations

from scripts import docs_notes
from scripts.docs_entry import Entry, entry_page, fields
from scripts.docs_markdown import docstring, fence, first_line, page, plain, table

from sparring.defenses.detectors import DETECTORS, Detector
from sparring.defenses.transforms import TRANSFORMS, Transform

ENDS = "What it does not protect against"
GRADIENT = {
    "exact": "exact: backward passes go through the transform itself",
    "surrogate": "surrogate: a smooth stand-in for backward passes, with the true forward pass",
    "identity": "identity: backward passes go past it",
}
_TOML = '[[stack.{table}]]\nkind = "{name}"'


def pages() -> dict[str, str]:
    """Path below docs/ to Markdown."""
    return (
        {"transforms/index.md": _transforms(), "detectors/index.md": _detectors()}
        | {f"transforms/{name}.md": _transform(name, kind) for name, kind in TRANSFORMS.items()}
        | {f"detectors/{name}.md": _detector(name, kind) for name, kind in DETECTORS.items()}
    )


def _transforms() -> str:
    rows = [
        (f"[{name}]({name}.md)", f"`{kind.__name__}`", kind.gradient, _yes(kind.random), plain(kind.paper))
        for name, kind in TRANSFORMS.items()
    ]
    return page(
        "Transforms",
        "What is done to pictures before the model sees them. Each declares the gradient that it offers to an attacker "
        "who knows it, because a transform that is attacked as if it were not there always looks good: "
        "[Defenses, and what they are worth](../defenses.md).",
        table(("name", "class", "gradient", "random", "paper"), rows),
        "As text `jpeg:quality=75`; several in a row are `bit_depth:bits=3+median`.",
    )


def _transform(name: str, kind: type[Transform]) -> str:
    return entry_page(
        Entry(
            title=kind.__name__,
            text=docstring(kind),
            about=[
                ("Paper", plain(kind.paper)),
                ("Gradient offered to an attacker", GRADIENT[kind.gradient]),
                ("Random", _yes(kind.random)),
                ("As text", f"`{name}`"),
            ],
            parameters=fields(kind),
            example=_before_the_model(kind),
            after=_declared("transforms", name),
            ends=ENDS,
            note=docs_notes.TRANSFORMS[name],
        )
    )


def _before_the_model(kind: type[Transform]) -> str:
    pgd = 'sp.attacks.PGD(steps=20, loss="margin")'
    knowing = pgd.replace(")", ", early_stop=False)") if kind.random else pgd
    return f"""
import sparring as sp
from sparring.defenses import Stack, transforms

model = sp.load_model("digits-cnn")
images, labels = sp.load_data("digits", n=20)
goal, threat = sp.Untargeted(labels), sp.ThreatModel("linf", 0.12)
stack = Stack(model, transforms=[transforms.{kind.__name__}()])

naive = {pgd}(model, images, goal, threat)  # knows nothing of it
attack = {f"sp.attacks.EOT({knowing}, draws=4)" if kind.random else knowing}
adaptive = attack(stack.as_model(), images, goal, threat)  # through its gradient{", averaged over draws" * kind.random}

for name, pictures in (("clean", images), ("naive", naive), ("adaptive", adaptive)):
    right = (stack(pictures).labels == labels).float().mean()
    print(f"{{name:<9}} {{100 * right:.0f}} % right")
""".strip()


def _detectors() -> str:
    rows = [
        (f"[{name}]({name}.md)", plain(first_line(kind)), _yes(kind.learns), _yes(kind.random), plain(kind.paper))
        for name, kind in DETECTORS.items()
    ]
    return page(
        "Detectors",
        "Each gives a picture a score, larger for more suspicious, and flags what lies above a threshold that "
        "`fit(model, clean_images, fpr=0.05)` sets on clean pictures. Their worth against an attacker who knows them "
        "is "
        "what `sp.evaluate_stack` measures: [Defenses, and what they are worth](../defenses.md).",
        table(("name", "what it looks at", "learns", "random", "paper"), rows),
        "`MMD` is another kind of thing, a test of a whole window of traffic: [Defenses](../defenses.md#detectors).",
    )


def _detector(name: str, kind: type[Detector]) -> str:
    return entry_page(
        Entry(
            title=kind.__name__,
            text=docstring(kind),
            about=[
                ("Paper", plain(kind.paper)),
                ("Learns from clean images", f"{_yes(kind.learns)}{', and from attacks' * _taught(kind)}"),
                ("Random", _yes(kind.random)),
                ("As text", f"`{name}`"),
            ],
            parameters=fields(kind),
            example=_beside_the_model(kind),
            after=_declared("detectors", name),
            ends=ENDS,
            note=docs_notes.DETECTORS[name],
        )
    )


def _beside_the_model(kind: type[Detector]) -> str:
    return f"""
import sparring as sp
from sparring.defenses import detectors

model = sp.load_model("digits-cnn")
images, labels = sp.load_data("digits", n=300)
threat = sp.ThreatModel("linf", 0.15)
clean, images, labels = images[20:], images[:20], labels[:20]

detector = detectors.{kind.__name__}().fit(model, clean, fpr=0.05{", threat=threat" * _taught(kind)})
goal = sp.Untargeted(labels)  # neither attack knows of the detector
just = sp.attacks.DeepFool()(model, images, goal, threat)  # stops behind the boundary
surely = sp.attacks.PGD(early_stop=False)(model, images, goal, threat)  # goes on to the surest wrong answer

for name, pictures in (("clean", images), ("just wrong", just), ("surely wrong", surely)):
    flagged = detector.flags(detector.scores(model, pictures)).float().mean()
    print(f"{{name:<12}} {{100 * flagged:.0f}} % flagged")
""".strip()


def _taught(kind: type[Detector]) -> bool:
    """Whether it is shown attacked images."""
    return "attacks" in kind.__dataclass_fields__


def _declared(where: str, name: str) -> list[str]:
    return ["In [sparring.toml](../commands/sparring-toml.md):", fence("toml", _TOML.format(table=where, name=name))]


def _yes(value: bool) -> str:
    return "yes" if value else "no"
