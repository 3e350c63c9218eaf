"""Per-sample attack losses. Each value is what the attacker wants to see grow.

Every loss is unchanged when a constant is added to all logits of an image, and none averages over the batch,
so an image's gradient never depends on its neighbours. `reference` is the true label (untargeted) or the target.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from sparring.errors import InputError, unknown
from sparring.goal import Goal, Targeted

Loss = Callable[[Tensor, Goal], Tensor]


def class_margin(logits: Tensor, reference: Tensor) -> Tensor:
    """z_ref minus the largest other logit, shape (N,). Positive where the reference class wins."""
    own = logits.gather(1, reference[:, None]).squeeze(1)
    others = logits.scatter(1, reference[:, None], -torch.inf)
    return own - others.amax(1)


def cross_entropy(logits: Tensor, goal: Goal) -> Tensor:
    """Cross-entropy of the label; for a target, minus that of the target (Goodfellow et al. 2015), (N,)."""
    return goal.sign * functional.cross_entropy(logits, goal.reference, reduction="none")


def margin(logits: Tensor, goal: Goal) -> Tensor:
    """Largest other logit minus the label's; for a target, the reverse (Carlini & Wagner 2017, f6), (N,).

    A target with a class to leave: the target's logit minus that class's.
    """
    if isinstance(goal, Targeted) and goal.leaving is not None:
        return (logits.gather(1, goal.targets[:, None]) - logits.gather(1, goal.leaving[:, None])).squeeze(1)
    return -goal.sign * class_margin(logits, goal.reference)


def dlr(logits: Tensor, goal: Goal) -> Tensor:
    """Difference of logits ratio (Croce & Hein 2020, eqs. 5 and 6): scale- and shift-free, (N,).

    Untargeted: -(z_y - max other) / (z_1 - z_3), z sorted from the largest; needs 3 classes.
    Targeted: -(max other - z_t) / (z_1 - (z_3 + z_4) / 2); needs 4 classes. With the class to
    leave unknown, the paper's z_y is the strongest class that is not the target.
    """
    top = logits.topk(min(4, logits.shape[1]), dim=1).values
    low = (top[:, 2] + top[:, 3]) / 2 if isinstance(goal, Targeted) else top[:, 2]
    return margin(logits, goal) / (top[:, 0] - low + 1e-12)


LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "margin": margin, "dlr": dlr}


def checked(name: str | Loss) -> None:
    """Raise `InputError` unless `name` is a function or the name of a loss."""
    if not callable(name) and not (isinstance(name, str) and name in LOSSES):
        raise InputError(unknown("loss", name, list(LOSSES)))


def resolve(name: str | Loss, classes: int, *, targeted: bool) -> tuple[Loss, str | None]:
    """The loss function for a model with `classes` classes, and a note where another had to stand in.

    DLR needs 3 classes (4 when targeted); with fewer the margin is used instead. Raises `InputError` for an
    unknown name.
    """
    if callable(name):
        return name, None
    checked(name)
    needed = 4 if targeted else 3
    if name == "dlr" and classes < needed:
        kind = "targeted DLR" if targeted else "DLR"
        return (
            margin,
            f"{kind} needs {needed} classes, the model has {classes}: the margin loss was used instead",
        )
    return LOSSES[name], None
