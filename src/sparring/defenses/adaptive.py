"""What a stack is worth against an attacker who knows it: `evaluate_stack`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sparring.attacks import parse
from sparring.attacks.base import Attack, at_least, check_goal
from sparring.batching import plan as batch_plan
from sparring.black_box import access_of
from sparring.defenses.assembly import Measured, Replay
from sparring.defenses.attacking.pursuit import StageRow, pursue
from sparring.defenses.attacking.scene import Bill, Scene
from sparring.defenses.attacking.stages import EFFORTS, Search, plan
from sparring.defenses.convergence import convergence
from sparring.defenses.latency import latency
from sparring.defenses.outcome import Plausibility, StackOutcome
from sparring.defenses.scoring import scored
from sparring.defenses.stack import Stack
from sparring.defenses.transforms.base import checked
from sparring.errors import InputError
from sparring.estimate import Estimate, proportion
from sparring.evaluation.task import Images
from sparring.goal import Untargeted
from sparring.losses import class_margin
from sparring.model import device_of, frozen_eval
from sparring.problem import check_classes
from sparring.rng import digests
from sparring.threat import Threat, ThreatModel

NAIVE = ("pgd:steps=40", "pgd:steps=40,early_stop=false")
"""An attacker who stops at the first wrong answer, and one who goes on to the surest."""
Report = Callable[[str, int], None]


def evaluate_stack(
    stack: Stack,
    images: Images,
    labels: Tensor,
    threat: Threat,
    *,
    effort: str = "standard",
    naive: Sequence[Attack | str] = NAIVE,
    seed: int = 0,
    draws: int = 50,
    progress: Report | None = None,
) -> StackOutcome:
    """Attack `stack` on `images` (N, C, H, W) in [0, 1] by attackers who ignore it and by attackers who know it.

    Naive attacks are made on the bare model and replayed. The adaptive attacker differentiates through the transforms'
    declared gradients and past them, averages over randomness, puts the detectors' scores into the loss with swept
    weights, follows classifier and detector in turn, imitates clean images, and searches without gradients; every
    attack meets the images that still stand, and the worst point of each image counts. labels: int64 (N,). effort:
    "quick", "standard" or "thorough". naive: attacks on the bare model. draws: fresh draws by which a stack with
    randomness is scored, at least 50 (none of them is the attack's own).
    progress: called with the name of each stage and the number of images still standing after it.

    Raises `InputError` for unusable input.
    """
    task = _checked(stack, images, labels, threat, seed, draws, effort)
    report = progress or (lambda name, standing: None)
    with frozen_eval(stack.model):
        how = batch_plan(stack.model, task.images)
        with how.running():
            attacks = [parse(attack) if isinstance(attack, str) else attack for attack in naive]
            return _evaluated(task, effort, attacks, how.batch_size, report)


@dataclass(frozen=True, eq=False)
class _Task:
    stack: Stack
    images: Tensor
    labels: Tensor
    threat: ThreatModel
    seed: int
    draws: int


def _checked(stack: Stack, images: Images, labels: Tensor, threat: Threat, seed: int, draws: int, effort: str) -> _Task:
    if not isinstance(stack, Stack):
        raise InputError(f"stack must be a Stack, such as Stack(model, transforms=[...]), got {type(stack).__name__}")
    if not isinstance(threat, ThreatModel):
        raise InputError(f'threat must be a ThreatModel, such as ThreatModel("linf", "8/255"), got {threat!r}')
    if threat.bounds != (0.0, 1.0):
        raise InputError(
            f"transforms work on images in [0, 1], so the threat's bounds must be (0, 1), not {threat.bounds}"
        )
    if effort not in EFFORTS:
        raise InputError(f"effort must be one of {', '.join(EFFORTS)}, got {effort!r}")
    at_least("draws", draws, 50, whole=True)
    at_least("seed", seed, 0, whole=True)
    everything = images[0 : len(images)]
    checked(everything)
    check_goal(Untargeted(labels), len(everything))
    everything = everything.detach().to(device_of(stack.model, everything))
    return _Task(stack, everything, labels.long().to(everything.device), threat, seed, draws)


def _evaluated(task: _Task, effort: str, naive: Sequence[Attack], batch: int, report: Report) -> StackOutcome:
    stack, images, labels, notes = task.stack, task.images, task.labels, []
    clean = scored(stack, images, labels, task.draws, task.seed + 1)
    bare = scored(Stack(stack.model), images, labels, 1, 0)
    scene = _scene(task, batch)
    replays = [_replay(task, attack) for attack in naive]
    stages = plan(stack, effort, scene.scale)
    if access_of(stack.model) != "gradients":
        stages = [stage for stage in stages if isinstance(stage, Search)]
        notes.append("the model shows no gradients: only the gradient-free search ran, which is weak")
    found, table = pursue(scene, stages, [(f"naive {replay.attack}", replay.points) for replay in replays], report)
    worst = scored(stack, found.points, labels, task.draws, task.seed + 2)
    measured = Measured(labels.cpu(), clean, bare, replays, worst, found)
    notes += _suspicions(table)
    estimates = measured.estimates()
    return StackOutcome(
        stack=str(stack),
        threat=f"{task.threat.norm} {task.threat.eps_text}",
        effort=effort,
        seed=task.seed,
        draws=measured.draws,
        **estimates,
        naive_attacks=measured.naive_rows(),
        stages=tuple(table),
        detection=measured.detections(stack),
        convergence=convergence(scene, task.draws) if stack.random and len(stages) > 1 else (),
        latency=latency(stack, images),
        plausibility=_plausibility(task, estimates["adaptive"]) if stack.detectors else None,
        records=measured.records(),
        notes=tuple(notes),
        adversarials=found.points,
    )


def _scene(task: _Task, batch: int) -> Scene:
    region = task.threat.around(task.images)
    keys = digests(task.images)
    scene = Scene(task.stack, task.images, task.labels, task.threat, region, keys, task.seed, batch, 1.0, Bill())
    logits = task.stack(task.images, generator=torch.Generator().manual_seed(task.seed)).logits
    check_classes(Untargeted(task.labels), logits.shape[1])
    lead = class_margin(logits, task.labels)
    typical = float(lead[lead > 0].nan_to_num(posinf=0.0).median()) if bool((lead > 0).any()) else 1.0
    return replace(scene, scale=max(typical, 1e-6))


def _replay(task: _Task, attack: Attack) -> Replay:
    """A naive attack on the bare model; what left the budget counts as the image itself."""
    stack, generator = task.stack, torch.Generator().manual_seed(task.seed)
    points = attack(stack.model, task.images, Untargeted(task.labels), task.threat, generator=generator)
    allowed = task.threat.contains(task.images, points)
    points = torch.where(allowed.view(-1, 1, 1, 1), points, task.images)
    bare = scored(Stack(stack.model), points, task.labels, 1, 0)
    return Replay(str(attack), points, bare, scored(stack, points, task.labels, task.draws, task.seed + 3))


def _suspicions(table: Sequence[StageRow]) -> list[str]:
    """What the table says about its own attacks (Athalye et al. 2018: a search that sees no gradient must not win)."""
    notes = [f"{row.name} did not run: {row.note}" for row in table if row.note]
    blind = [row for row in table if row.name.startswith("gradient-free") and row.evaded]
    if blind:
        notes.append(
            f"the gradient-free search found {blind[0].evaded} evasions that no gradient attack found: gradients may "
            "be masked, and the adaptive number may still be too high"
        )
    return notes


def _plausibility(task: _Task, claimed: Estimate) -> Plausibility | None:
    """The bare model at half the budget."""
    half = task.threat.eps / 2
    threat = task.threat.with_eps(float(int(half)) if task.threat.norm == "l0" else half)
    if access_of(task.stack.model) != "gradients":
        return None
    kept = torch.ones(len(task.labels), dtype=torch.bool)
    bare = Stack(task.stack.model)
    for text in NAIVE[:1]:
        points = parse(text)(task.stack.model, task.images, Untargeted(task.labels), threat)
        for seen in (task.images, points):
            kept &= scored(bare, seen, task.labels, 1, 0).right == 1
    return Plausibility(threat.eps_text, claimed, proportion(int(kept.sum()), len(kept)))
