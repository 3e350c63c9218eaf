"""The attack pages, one per entry of `sparring.attacks.ATTACKS`, and their index."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from scripts import docs_families
from scripts.docs_entry import Entry, entry_page, fields
from scripts.docs_markdown import docstring, fence, page, plain, table

from sparring.attacks import ATTACKS, Attack, format_attack
from sparring.attacks.minimal import MinimalAttack
from sparring.evaluation import EFFORTS

ACCESS = {
    "gradients": "gradients of the loss with respect to the input (white box)",
    "logits": "logits only (black box, no gradient)",
    "labels": "predicted labels only (black box)",
}
_LOSS = "`loss` is the name of one of the [losses](../norms-and-losses.md#the-losses), or a function."
_BUDGET = {"linf": "0.1", "l2": "0.5", "l1": "3", "l0": "5"}
_BEYOND = {"patch": "Patch(0.05)", "spatial": "Spatial(rotation=10, translation=0.05)", "corruption": "Corruptions()"}
"""Threats that are no ball, as the examples show them."""


def pages() -> dict[str, str]:
    """Path below docs/ to Markdown."""
    made = {"attacks/index.md": _index()}
    return made | {f"attacks/{name}.md": _page(name, kind) for name, kind in ATTACKS.items()}


def _index() -> str:
    efforts = [
        (f"`{name}`", effort.about, " → ".join(f"`{attack}`" for attack in effort.attacks))
        for name, effort in EFFORTS.items()
    ]
    tables = [(f"## {each.title}", _table(each.names)) for each in docs_families.ATTACKS]
    return page(
        "Attacks",
        "One paper per attack. The name is what the command line reads (`--attack NAME:parameter=value,...`), the "
        "class is what Python calls (`sp.attacks.CLASS(parameter=value)`).",
        *(part for parts in tables for part in parts),
        "## Efforts",
        "An effort sends the images that still stand from attack to attack. `standard` looks at what each attack did "
        "before it chooses the next, and the images for it.",
        table(("effort", "what for", "attacks it draws on"), efforts),
        "An attack of your own: [Write your own attack](../own-attack.md).",
    )


def _table(names: Iterable[str]) -> str:
    kinds = [(name, ATTACKS[name]) for name in names]
    rows = [
        (f"[{name}]({name}.md)", f"`{kind.__name__}`", kind.access, ", ".join(kind.threats), plain(kind.paper))
        for name, kind in kinds
    ]
    return table(("name", "class", "needs", "norms", "paper"), rows)


def _page(name: str, kind: type[Attack]) -> str:
    in_a_ball = _norm(kind) in _BUDGET
    return entry_page(
        Entry(
            title=kind.__name__,
            text=docstring(kind),
            about=[
                ("Paper", plain(kind.paper)),
                ("Needs", ACCESS[kind.access]),
                ("Norms", ", ".join(kind.threats)),
                ("As text", f"`{_text_form(name, kind)}`"),
            ],
            parameters=fields(kind),
            remark=_LOSS if any(field.name == "loss" for field in dataclasses.fields(kind)) else "",
            example=_example(kind),
            after=["The same on the command line:", fence("sh", _command(name, kind))] if in_a_ball else [],
            ends="What it cannot tell",
            note=docs_families.note(docs_families.ATTACKS, "attacks", name),
        )
    )


def _text_form(name: str, kind: type[Attack]) -> str:
    """With every parameter that differs from its default in the example, else the bare name."""
    changed = _changed(kind)
    return format_attack(kind(**changed)) if changed else name


def _changed(kind: type[Attack]) -> dict[str, int]:
    """One parameter to show how parameters are written: the first whole number, doubled; less of it where doubling
    would take the reader minutes.
    """
    for field in dataclasses.fields(kind):
        if isinstance(field.default, int) and not isinstance(field.default, bool):
            value = field.default
            return {field.name: 2 * value if value < 100 else value // 2 if value < 1000 else value // 10}
    return {}


def _norm(kind: type[Attack]) -> str:
    return "linf" if "linf" in kind.threats else kind.threats[0]


def _example(kind: type[Attack]) -> str:
    norm = _norm(kind)
    arguments = ", ".join(f"{key}={value!r}" for key, value in _changed(kind).items())
    return f"""
import sparring as sp

model = sp.load_model("digits-cnn")
images, labels = sp.load_data("digits", n=20)
threat = {f'sp.ThreatModel("{norm}", {_BUDGET[norm]})' if norm in _BUDGET else f"sp.perturbations.{_BEYOND[norm]}"}

attack = sp.attacks.{kind.__name__}({arguments})
adversarials = attack(model, images, sp.Untargeted(labels), threat)

for name, pictures in (("clean", images), ("attacked", adversarials)):
    right = (model(pictures).argmax(1) == labels).float().mean()
    print(f"{{name:<9}} {{100 * right:.0f}} % right")
{_NEAREST if issubclass(kind, MinimalAttack) else ""}
""".strip()


_NEAREST = """
few, goal = images[:5], sp.Untargeted(labels[:5])
nearest = attack.minimize(model, few, goal, threat)  # without a budget: as near as it finds
print("distances", [round(distance, 3) for distance in threat.distance(few, nearest).tolist()])
"""


def _command(name: str, kind: type[Attack]) -> str:
    norm = _norm(kind)
    return (
        f"sparring attack --model digits-cnn --data digits -n 20 --norm {norm} --eps {_BUDGET[norm]} "
        f"--attack {_text_form(name, kind)}"
    )
