"""The model card as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from sparring.hardening.evidence import LOOKED_AT

if TYPE_CHECKING:
    from sparring.hardening.card import ModelCard


def markdown(card: ModelCard) -> str:
    """The whole card."""
    parts = [
        f"# Model card: {card.model}, hardened",
        _verdict(card),
        "## Intended use and limits",
        f"Trained to withstand {card.threat_text} and nothing else: other norms below, other changes not at all. "
        "A robust accuracy is what known attacks left standing on the images named here, an upper bound.",
        *_accuracy(card),
        *_training(card),
        *_history(card),
        *_inside(card),
        "## Reproduction",
        _bullets(
            [
                f"weights: sha256 `{card.weights}`",
                f"data: sha256 `{card.data['digest']}`",
                f"seed: {card.seed}",
                *(f"{name} {version}" for name, version in card.versions.items()),
            ]
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _verdict(card: ModelCard) -> str:
    if card.after is None:
        return "Not audited: nothing is said here about what it withstands. Run `sparring audit` on it."
    found = card.after
    return f"**{found.robust}** of {card.data['tested_on']} withstand {card.threat_text} ({found.effort} effort)."


def _accuracy(card: ModelCard) -> list[str]:
    if card.after is None or card.before is None:
        return []
    rows = [
        ("clean", str(card.before.clean), str(card.after.clean)),
        (f"robust, {card.threat_text}", str(card.before.robust), str(card.after.robust)),
    ]
    missed = card.after.missed_bound
    bound = (
        "" if missed is None else f" A spot check bounds what they missed at {100 * missed:.1f} % of what it covers."
    )
    return [
        "## Accuracy",
        f"On {card.data['tested_on']}, 95 % intervals.",
        _table(("", "as it was given", "hardened"), rows),
        f"Attacks: {', '.join(f'`{name}`' for name in card.after.attacks)}.{bound}",
    ]


def _training(card: ModelCard) -> list[str]:
    data = card.data
    turned = "" if card.final_method == card.method else f", which the watch turned into `{card.final_method}`"
    changed = {name: value for name, value in card.recipe.items() if value not in (None, 0, 0.0, (), [], False)}
    facts = [
        f"method: `{card.method}` ({card.paper}){turned}",
        f"threat: {card.threat_text}",
        f"data: {data['train']} images of shape {data['shape']}, {data['validation']} kept for validation",
        f"{card.hours:.2f} hours; an epoch costs {card.cost:.1f} times one of normal training",
        f"best epoch: {card.best_epoch}, chosen by PGD-10 accuracy on {card.data['watched']} validation images",
        f"parameters: {card.parameters:,}",
        *(f"{name}: {value}" for name, value in changed.items()),
    ]
    parts = ["## Training", _bullets(facts)]
    if card.changes:
        parts += ["The watch stepped in:", _bullets(card.changes)]
    return parts


def _history(card: ModelCard) -> list[str]:
    rows = [
        (
            f"{e.number}{'' if e.kept else ' (undone)'}",
            f"{e.eps:.3g}",
            f"{e.loss:.3f}",
            *(f"{100 * share:.1f}" for share in (e.clean, e.fgsm, e.pgd)),
            f"{e.aligned:.2f}",
            e.note,
        )
        for e in card.history
    ]
    return [
        "## Clean against robust accuracy as training went",
        f"% of {card.data['watched']} validation images; FGSM and PGD-10 at the eps of the moment. PGD-10 is a weak "
        "attack, good enough to compare epochs.",
        "![accuracies by epoch](history.png)",
        _table(("epoch", "eps", "loss", "clean", "FGSM", "PGD-10", "gradient cosine", "the watch"), rows),
    ]


def _inside(card: ModelCard) -> list[str]:
    if card.bend_before is None or card.bend_after is None or card.after is None:
        return []
    seen = min(LOOKED_AT, card.after.clean.n)
    pairs = [
        (name, getattr(card.bend_before, name), getattr(card.bend_after, name))
        for name in ("rise", "predicted", "bend")
    ]
    names = {
        "rise": "rise of the loss along the attack",
        "predicted": "what the gradient predicts",
        "bend": "bend (second difference)",
    }
    parts = [
        "## What changed inside",
        "Images, and the loss gradient at them before and after:",
        "![input gradients](gradients.png)",
        f"The cross-entropy on the way to a PGD-10 adversarial, means over {seen} of the images above:",
        _table(("", "as it was given", "hardened"), [(names[n], f"{a:.3f}", f"{b:.3f}") for n, a, b in pairs]),
    ]
    if card.other_norms:
        rows = [
            (
                f"{o.norm} {o.eps:g}",
                f"{o.loss_before:.2f}",
                f"{o.loss_after:.2f}",
                str(o.accuracy_before),
                str(o.accuracy_after),
            )
            for o in card.other_norms
        ]
        parts += [
            "## Norms it was not trained for",
            "Under PGD-20 alone, so accuracies are optimistic.",
            _table(("budget", "loss before", "loss after", "accuracy before", "accuracy after"), rows),
        ]
    return parts


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)
