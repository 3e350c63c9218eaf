"""The whole diagnosis in one call."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from sparring.attacks import FGSM, PGD
from sparring.attacks.base import at_least
from sparring.black_box import access_of
from sparring.diagnosis.blockers import traced
from sparring.diagnosis.health import health, training_bias
from sparring.diagnosis.landscape import COARSE, SIDE, between, directions, failure, landscape
from sparring.diagnosis.lipschitz import sensitivity
from sparring.diagnosis.repair import blocking
from sparring.diagnosis.result import TARGET, Diagnosis, Landscape
from sparring.diagnosis.taylor import DUAL, LARGE, first_order
from sparring.diagnosis.transfer import apart, distilled, learnt, transfer_matrix
from sparring.diagnosis.work import answers, at_once
from sparring.errors import InputError, UnsupportedError
from sparring.evaluation.task import Images, Subset, checked_task
from sparring.goal import Untargeted
from sparring.model import Model, frozen_eval, hookable, logits_of, model_name
from sparring.problem import check_classes
from sparring.rng import forked, seeded
from sparring.threat import Threat, ThreatModel

PLANE = (PGD(steps=20, loss="margin", early_stop=False), FGSM())
"""Two attacks whose ways span a picture of the loss."""
TRACED = 32
"""Images whose gradients are followed through the model, fewer where they are large."""
SAMPLE = 128
"""Images, drawn with the seed, for the sections that look at each image many times."""


def diagnose(
    model: Model,
    images: Images,
    labels: Tensor,
    threat: Threat,
    *,
    sample: int = SAMPLE,
    landscapes: int = 2,
    queries: int = 0,
    surrogates: Mapping[str, Model] | None = None,
    others: tuple[Tensor, Tensor] | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Diagnosis:
    """Why `model` falls: first-order picture, sensitivity, gradient health, training bias, landscapes, transfer.

    images: (N, C, H, W) in the threat's box, of which at most `sample` are looked at; labels: int64 (N,). threat: an
    linf, l2 or l1 `ThreatModel`. landscapes: images with two pictures of the loss around them, in the
    plane of the gradient and a random direction and in that of two attacks. queries: with more than 0, a
    surrogate learns from that many of the target's answers and is attacked. surrogates: other models by name, for the
    matrix of transfers. others: images and labels of an attacker's own, from which two small nets of different kinds
    learn and are attacked, too; what is also among `images` is left out. progress: called with each section's name.

    Raises `UnsupportedError` for another threat or a model that shows no gradients, `InputError` for unusable input.
    """
    started, tell = time.perf_counter(), progress or (lambda _: None)
    if not isinstance(threat, ThreatModel) or threat.norm not in DUAL:
        raise UnsupportedError(f"a diagnosis needs a threat in {', '.join(DUAL)}, got {threat!r}")
    if access_of(model) != "gradients":
        raise UnsupportedError("a diagnosis needs gradients, but the model was declared to show none")
    for name, value, least in (("sample", sample, 1), ("landscapes", landscapes, 0), ("queries", queries, 0)):
        at_least(name, value, least, whole=True)
    if TARGET in (surrogates or {}):
        raise InputError(f"a surrogate may have any name but {TARGET!r}, which is the model's own")
    with forked():
        task = checked_task(model, images, labels, None, threat, seed, None)
    order = torch.randperm(len(task.labels), generator=torch.Generator().manual_seed(seed))[:sample]
    rows = sorted(order.tolist())
    x = Subset(images, rows)[0 : len(rows)].detach().to(task.device)
    y = task.labels[torch.tensor(rows)].to(task.device)
    if x.dim() != 4 and (queries or others is not None):
        raise UnsupportedError(f"surrogates learn from pictures (N, C, H, W), got images {tuple(images[0:1].shape)}")
    with task.plan.running(), seeded(seed, "diagnose"), frozen_eval(model):
        right = answers(model, x).argmax(1) == y
        blocked, notes = _blocked(model, x, y)
        tell("first-order picture")
        lines = first_order(model, x, y, threat)
        tell("sensitivity")
        sensitive = sensitivity(model, x, y, threat)
        tell("gradient health")
        healthy = health(model, x, y, threat, seed=seed)
        tell("training bias")
        bias = training_bias(model, x, y, threat)
        tell("landscapes")
        moved = PGD(steps=20, loss="margin")(model, x, Untargeted(y), threat)
        fell = failure(model, x, moved, y)
        planes = [
            plane for i in range(min(landscapes, len(rows))) for plane in _planes(model, x[i], y[i], threat, seed)
        ]
        planes = [plane.model_copy(update={"index": rows[k // 2]}) for k, plane in enumerate(planes)]
        tell("transfer")
        models: dict[str, Model] = {TARGET: model, **(surrogates or {})}
        if queries:
            models[f"distilled from {queries} answers"] = distilled(model, x, queries=queries, seed=seed)
        if others is not None:
            models |= _learnt(model, x, others, seed)
        transfer = transfer_matrix(models, x, y, threat) if len(models) > 1 else ()
    lines = lines.model_copy(
        update={
            "lines": tuple(line.model_copy(update={"index": rows[line.index]}) for line in lines.lines),
            "lowered": tuple(rows[i] for i in lines.lowered),
        }
    )
    return Diagnosis(
        sparring_version=_version(),
        model=model_name(model),
        threat=f"{threat.norm} eps {threat.eps_text}",
        images=len(rows),
        seed=seed,
        seconds=time.perf_counter() - started,
        clean_accuracy=float(right.float().mean()),
        first_order=lines,
        sensitivity=sensitive,
        health=healthy,
        bias=bias,
        failure=fell,
        landscapes=tuple(planes),
        transfer=transfer,
        blocked=blocked,
        notes=notes,
    )


def _learnt(model: Model, images: Tensor, others: tuple[Tensor, Tensor], seed: int) -> dict[str, nn.Module]:
    """Surrogates from those of `others` that are none of `images`."""
    own, labels = others[0].detach().to(images), others[1].to(images.device)
    if own.shape[1:] != images.shape[1:] or len(own) != len(labels):
        wanted = tuple(images.shape[1:])
        raise InputError(f"others must be images {wanted} with a label each, got {tuple(own.shape)} and {len(labels)}")
    new = apart(images, own).to(images.device)
    if not bool(new.any()):
        raise InputError("others holds no image that is not among those that are looked at")
    with torch.no_grad():
        classes = logits_of(model, images[:1]).shape[1]
    check_classes(Untargeted(labels), classes)
    return learnt(own[new], labels[new], classes, seed=seed)


def _planes(model: Model, image: Tensor, label: Tensor, threat: ThreatModel, seed: int) -> tuple[Landscape, Landscape]:
    """Gradient and a random direction; and the ways of two attacks."""
    two = tuple(attack for attack in PLANE if threat.norm in attack.threats)
    names = (str(two[0]), f"{two[1]}, at right angles")
    ways = between(model, image, label, threat, two)
    side = SIDE if image.numel() < LARGE else COARSE
    return (
        landscape(model, image, label, directions(model, image, label, threat, seed), threat.bounds, side=side),
        landscape(model, image, label, ways, threat.bounds, names=names, side=side),
    )


def _blocked(model: Model, images: Tensor, labels: Tensor) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if not isinstance(model, nn.Module):
        return (), ("the model is a function: its parts cannot be hooked",)
    if not hookable(model):
        return (), ("the model is TorchScript: its parts cannot be hooked",)
    few = min(TRACED, at_once(images))
    found = blocking(traced(model, images[:few], labels[:few]))
    return found, tuple(f"the gradient of some images stops at {name}" for name in found)


def _version() -> str:
    from sparring import __version__

    return __version__
