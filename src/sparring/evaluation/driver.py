"""The driver: sends still-robust images from attack to attack, verifies every candidate, keeps the records."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from sparring.attacks.base import Attack
from sparring.errors import InputError, ModelError
from sparring.estimate import proportion
from sparring.evaluation.effort import chosen_attacks
from sparring.evaluation.evaluation import Evaluation, StageSummary, State
from sparring.evaluation.records import Adversarials, ChunkResult, DiskStore, MemoryStore, Outcome
from sparring.evaluation.task import Images, Task, checked_task, run_key
from sparring.goal import Goal, Untargeted
from sparring.losses import class_margin
from sparring.model import Model, frozen_eval
from sparring.problem import Problem, check_classes
from sparring.rng import Streams, digests
from sparring.threat import ThreatModel


@dataclass(frozen=True)
class Progress:
    """Where the work is: stage `number` of `stages`, `done` of `total` `unit`, robust accuracy so far."""

    stage: str
    number: int
    stages: int
    done: int
    total: int
    robust: float
    unit: str = "images"


class EvaluationInterrupted(KeyboardInterrupt):
    """Ctrl-C during an evaluation; `evaluation` holds what is known so far, marked incomplete."""

    def __init__(self, evaluation: Evaluation) -> None:
        super().__init__("evaluation interrupted")
        self.evaluation = evaluation


def evaluate(
    model: Model,
    images: Images,
    labels: Tensor,
    threat: ThreatModel,
    *,
    attacks: Sequence[Attack | str] | None = None,
    effort: str = "standard",
    targets: Tensor | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    out: str | Path | None = None,
    keep: bool = True,
    progress: Callable[[Progress], None] | None = None,
) -> Evaluation:
    """Robust accuracy of `model` on `images` (N, C, H, W) in the threat's box, under one attack after another.

    Only images that still stand go on to the next attack. Every candidate is checked against box and budget in
    float64, and the model is asked again, before it counts. labels: int64 (N,). targets: one class per image for a
    targeted evaluation. attacks: objects or text; else those of `effort` ("quick", "standard", "thorough").
    out: a folder for records and adversarials; an interrupted run with the same model, data, threat, attacks and
    seed goes on from there. keep: False forgets the adversarials (where only the counts are wanted). batch_size:
    images per call of the model, chosen from the model when None.
    progress: called after every chunk.

    Raises `InputError` or `ModelError` for unusable input, `EvaluationInterrupted` on Ctrl-C.
    """
    chosen = chosen_attacks(attacks, effort)
    task = checked_task(model, images, labels, targets, threat, seed, batch_size)
    for attack in chosen:
        attack.check_threat(threat)
    store = MemoryStore(keep) if out is None else DiskStore(Path(out), run_key(task, chosen))
    try:
        with frozen_eval(model), task.plan.running():
            return _run(task, chosen, store, progress or (lambda _: None))
    finally:
        store.close()


def _run(
    task: Task, attacks: list[Attack], store: MemoryStore | DiskStore, report: Callable[[Progress], None]
) -> Evaluation:
    state = State(task.labels, task.targets)
    names = [str(attack) for attack in attacks]
    summaries: list[StageSummary] = []

    def evaluation(complete: bool) -> Evaluation:
        found = Adversarials(store.adversarials())
        records = state.records(names)
        return Evaluation(task.threat, records, tuple(summaries), found, task.seed, complete, task.targets is not None)

    results: list[ChunkResult] = []
    number = 0
    try:
        for number, attack in enumerate([None, *attacks]):
            results = []
            for chunk, part in enumerate(task.chunks()):
                result = _chunk(task, attack, number, chunk, part, state, store)
                state.apply(result)
                results.append(result)
                seen = max(1, int(state.seen.sum()))
                name = str(attack) if attack else "clean"
                report(Progress(name, number, len(attacks), part.stop, len(task.labels), state.robust() / seen))
            if attack is not None:
                summaries.append(_summary(str(attack), results, state, complete=True))
    except KeyboardInterrupt:
        if number > 0:
            summaries.append(_summary(names[number - 1], results, state, complete=False))
        raise EvaluationInterrupted(evaluation(complete=False)) from None
    return evaluation(complete=True)


def _chunk(
    task: Task,
    attack: Attack | None,
    stage: int,
    chunk: int,
    part: slice,
    state: State,
    store: MemoryStore | DiskStore,
) -> ChunkResult:
    standing = state.standing()[part]
    if attack is not None and not bool(standing.any()):
        return ChunkResult(stage, chunk, "", (), torch.empty(0, dtype=torch.int64), None, 0, 0.0, ())
    images = task.read(part)
    identity = task.chunk_digest(images, part)
    if attack is None:
        state.digests[part] = [d.hex()[:16] for d in digests(images)]
    stored = store.load(stage, chunk, identity)
    if stored is not None:
        return stored
    start = time.perf_counter()
    result = _clean_pass(task, images, part) if attack is None else _attack_pass(task, attack, images, part, standing)
    result = replace(result, stage=stage, chunk=chunk, digest=identity, seconds=time.perf_counter() - start)
    store.save(result)
    return result


def _clean_pass(task: Task, images: Tensor, part: slice) -> ChunkResult:
    goal = task.goal(part)
    problem = _problem(task, images, goal, "clean")
    logits = problem.logits(images)
    check_classes(Untargeted(task.labels[part]), logits.shape[1])
    unanswered = logits.isnan().any(1)
    if bool(unanswered.any()):
        first = part.start + int(unanswered.nonzero()[0])
        raise ModelError(f"the model returns NaN for {int(unanswered.sum())} clean images, first for image {first}")
    rows = torch.arange(part.start, part.stop)
    distance = torch.zeros(len(rows), dtype=torch.float64)
    outcomes = _outcomes(problem, rows, logits, torch.zeros_like(unanswered), distance)
    return _result(outcomes, rows[:0], None, 0, problem)


def _attack_pass(task: Task, attack: Attack, images: Tensor, part: slice, standing: Tensor) -> ChunkResult:
    rows = standing.nonzero().flatten() + part.start
    given = _problem(task, images[standing.to(images.device)], task.goal(rows), str(attack))
    candidates = _checked_candidates(attack, attack.run(given), given.images)
    # Verified against fresh originals, goal and flags: what the attack did to those it was given is of no account.
    with frozen_eval(task.model):
        originals = images[standing.to(images.device)]
        problem = Problem.build(task.model, originals, task.goal(rows), task.threat, given.streams, task.plan)
        problem = replace(problem, ledger=given.ledger)
        fits = task.threat.contains(originals, candidates)
        candidates = torch.where(fits.view(-1, *[1] * (images.dim() - 1)), candidates, originals)
        logits = problem.logits(candidates)
    unanswered = int(logits.isnan().any(1).sum())
    if unanswered:
        problem.ledger.notes[f"the model answered NaN to {unanswered} candidates; they do not count"] = None
    met = problem.goal.is_met(logits) & fits
    distance = task.threat.distance(originals, candidates)
    outcomes = _outcomes(problem, rows, logits, met, distance)
    return _result(outcomes, rows[met.cpu()], candidates[met].cpu(), int((~fits).sum()), problem)


def _checked_candidates(attack: Attack, found: object, images: Tensor) -> Tensor:
    if not isinstance(found, Tensor) or found.shape != images.shape or found.dtype != images.dtype:
        got = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise InputError(f"{attack} returned {got}, expected candidates {images.dtype} {tuple(images.shape)}")
    return found.detach().to(images.device)


def _outcomes(problem: Problem, rows: Tensor, logits: Tensor, met: Tensor, distance: Tensor) -> tuple[Outcome, ...]:
    margins = problem.goal.sign * class_margin(logits, problem.goal.reference)
    columns = (rows, logits.argmax(1), margins, met, distance, problem.ledger.forwards, problem.ledger.backwards)
    return tuple(
        Outcome(i, p, m if math.isfinite(m) else None, ok, d, f, b)
        for i, p, m, ok, d, f, b in zip(*(column.tolist() for column in columns), strict=True)
    )


def _result(
    outcomes: tuple[Outcome, ...], broken: Tensor, adversarials: Tensor | None, rejected: int, problem: Problem
) -> ChunkResult:
    notes = tuple(problem.ledger.notes)
    return ChunkResult(0, 0, "", outcomes, broken, adversarials, rejected, 0.0, notes)


def _problem(task: Task, images: Tensor, goal: Goal, purpose: str) -> Problem:
    streams = Streams(task.seed, purpose, digests(images))
    return Problem.build(task.model, images, goal, task.threat, streams, task.plan)


def _summary(name: str, results: list[ChunkResult], state: State, *, complete: bool) -> StageSummary:
    outcomes = [outcome for result in results for outcome in result.outcomes]
    return StageSummary(
        attack=name,
        tried=len(outcomes),
        broke=sum(o.met for o in outcomes),
        robust_after=proportion(state.robust(), int(state.seen.sum())),
        forwards=sum(o.forwards for o in outcomes),
        backwards=sum(o.backwards for o in outcomes),
        seconds=sum(r.seconds for r in results),
        rejected=sum(r.rejected for r in results),
        complete=complete,
        notes=tuple(dict.fromkeys(note for r in results for note in r.notes)),
    )
