"""The driver: sends still-robust images from attack to attack, verifies every candidate, keeps the records."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from sparring.attacks.base import Attack
from sparring.batching import give_memory_back
from sparring.certification.certificate import Certificate
from sparring.errors import InputError, ModelError
from sparring.estimate import proportion
from sparring.evaluation.adversarials import Adversarials
from sparring.evaluation.effort import chosen_plan
from sparring.evaluation.evaluation import Evaluation, StageSummary, State
from sparring.evaluation.probe import setting
from sparring.evaluation.progress import Progress
from sparring.evaluation.records import ChunkResult, DiskStore, MemoryStore, Outcome
from sparring.evaluation.stages import Plan, Stage
from sparring.evaluation.suspicions import ASKED_TWICE, INFINITE, suspicions
from sparring.evaluation.task import Images, Task, checked_proof, checked_task, run_key
from sparring.goal import Untargeted
from sparring.losses import class_margin
from sparring.model import Model, frozen_eval
from sparring.norms import per_image
from sparring.problem import Problem, added_up, check_classes
from sparring.rng import seeded
from sparring.threat import Threat


class EvaluationInterrupted(KeyboardInterrupt):
    """Ctrl-C during an evaluation; `evaluation` holds what is known so far, marked incomplete."""

    def __init__(self, evaluation: Evaluation) -> None:
        super().__init__("evaluation interrupted")
        self.evaluation = evaluation


def evaluate(
    model: Model,
    images: Images,
    labels: Tensor,
    threat: Threat,
    *,
    attacks: Sequence[Attack | str] | None = None,
    effort: str = "standard",
    targets: Tensor | None = None,
    certified: Certificate | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    out: str | Path | None = None,
    keep: bool = True,
    progress: Callable[[Progress], None] | None = None,
) -> Evaluation:
    """Robust accuracy of `model` on `images` (N, C, H, W) in the threat's box, under one attack after another.

    Only images that still stand go on to the next attack. Every candidate is checked against box and budget in
    float64, and the model is asked again, before it counts. labels: int64 (N,). targets: one class per image for a
    targeted evaluation. attacks: objects or text; else `effort` ("quick", "standard",
    "thorough", "autoattack") chooses them image by image.
    certified: a certificate of these images for this threat or a larger one (`sp.certify`): what it proves counts as
    robust without an attack, but for a random twentieth, one at least, that is attacked like all others; if one of
    these falls, the certificate is thrown away and `.warnings` says so. out: a folder for records and adversarials; an
    interrupted run with the same model, data, threat, attacks and seed goes on from there. keep: False forgets the
    adversarials (where only the counts are wanted). batch_size: images per call, chosen from the model when None.
    progress: called after every chunk. `.warnings` says if the model looks random or returns probabilities.

    Raises `InputError` or `ModelError` for unusable input, `EvaluationInterrupted` on Ctrl-C.
    """
    plan, drawn_on = chosen_plan(attacks, effort)
    with seeded(seed, "looked at"):
        task = checked_task(model, images, labels, targets, threat, seed, batch_size)
    if attacks is not None:
        for attack in drawn_on:
            attack.check_threat(threat)
            attack.check_access(model, threat)
    proved = checked_proof(certified, task)
    state = State(task.labels, task.targets, proved)
    recipe = [str(attack) for attack in drawn_on] if attacks is not None else [f"effort {effort}"]
    store: MemoryStore | DiskStore = MemoryStore(keep)
    if out is not None:
        with seeded(seed, "identified"):
            key = run_key(task, recipe, drawn_on, proved)
        store = DiskStore(Path(out), key, keep, task.ranks.rank)
    try:
        with frozen_eval(model), task.plan.running():
            found = _run(task, state, plan, len(drawn_on), store, progress or (lambda _: None), certified)
    finally:
        store.close()
    if certified is None or not any(r.certified and r.broken_by is not None for r in found.records):
        return found
    given = {"attacks": attacks, "effort": effort, "seed": seed, "batch_size": batch_size, "out": out, "keep": keep}
    again = evaluate(model, images, labels, threat, progress=progress, **given)  # type: ignore[arg-type]
    return replace(again, warnings=(*again.warnings, DISPROVED))


LARGE = 2**20
"""Pixel values of a chunk from which the memory it took is given back at once."""
DISPROVED = "an attack broke an image that the certificate proves: the certificate was thrown away, all images attacked"


def _check_subject(certified: Certificate, state: State) -> None:
    """Raise `InputError` where a certificate is about other images, or another model's answers to them."""
    if certified.images and list(certified.images) != state.digests:
        raise InputError("the certificate is about other images: certify those that are evaluated, in their order")
    proved = certified.certified.cpu()
    if bool((certified.prediction.cpu() != state.predictions)[proved].any()):
        raise InputError("the certificate is about another model: it was given other answers to the same images")


def _run(
    task: Task,
    state: State,
    plan: Plan,
    expected: int,
    store: MemoryStore | DiskStore,
    report: Callable[[Progress], None],
    certified: Certificate | None,
) -> Evaluation:
    summaries: list[StageSummary] = []
    clean: list[ChunkResult] = []

    def evaluation(complete: bool) -> Evaluation:
        return Evaluation(
            task.threat,
            state.records([summary.attack for summary in summaries]),
            tuple(summaries),
            Adversarials(store.adversarials()),
            task.seed,
            complete,
            task.targets is not None,
            state.missed_bound if complete else None,
            (*added_up(note for result in clean for note in result.notes), *state.doubts),
        )

    stage: Stage | None = None
    results: list[ChunkResult] = []
    try:
        _over_chunks(task, None, 0, expected, state, store, report, clean)
        if certified is not None:
            _check_subject(certified, state)
        state.spare(task.seed)
        for number, stage in enumerate(plan(state, setting(task, state, expected, report)), start=1):
            results = []
            _over_chunks(task, stage, number, max(expected, number), state, store, report, results)
            summaries.append(_summary(stage, results, state, complete=True))
            stage = None  # what is interrupted from here to the next one is between two stages
    except KeyboardInterrupt:
        if stage is not None:
            summaries.append(_summary(stage, results, state, complete=False))
        raise EvaluationInterrupted(evaluation(complete=False)) from None
    return evaluation(complete=True)


def _over_chunks(
    task: Task,
    stage: Stage | None,
    number: int,
    stages: int,
    state: State,
    store: MemoryStore | DiskStore,
    report: Callable[[Progress], None],
    results: list[ChunkResult],
) -> None:
    """One stage on all chunks, each result applied and appended to `results`; stage None is the clean pass."""
    chosen = None
    if stage is not None:
        chosen = state.standing() if stage.rows is None else stage.rows & state.standing()
    name = str(stage.attack) if stage else "clean"

    def work() -> list[ChunkResult]:
        own, shares = [], task.shares(chosen)
        for share, rows in enumerate(shares):
            if task.ranks.mine(share):
                with seeded(task.seed, number, share):
                    result = _share(task, stage, number, share, rows, store)
                state.apply(result)
                results.append(replace(result, adversarials=None))  # the store has them
                if task.ranks.size > 1:
                    own.append(store.portable(result))
            robust = state.robust() / max(1, int(state.seen.sum()))
            done = task.done(shares, share)
            report(Progress(name, number, stages, done, len(task.labels), robust))
        return own

    for result in task.ranks.gathered(work):
        if not task.ranks.mine(result.chunk):
            state.apply(result)
            results.append(replace(result, adversarials=None))
            store.remember(result)


def _share(
    task: Task, stage: Stage | None, number: int, chunk: int, rows: Tensor, store: MemoryStore | DiskStore
) -> ChunkResult:
    part = task.span(rows)
    images = task.read(part)
    identity = f"{task.chunk_digest(images, part)}|{'clean' if stage is None else stage.attack}"
    stored = store.load(number, chunk, identity)
    if stored is not None and [outcome.index for outcome in stored.outcomes] == rows.tolist():
        return stored
    start = time.perf_counter()
    result = _clean_pass(task, images, part) if stage is None else _attack_pass(task, stage.attack, images, part, rows)
    result = replace(result, stage=number, chunk=chunk, digest=identity, seconds=time.perf_counter() - start)
    store.save(result)
    if images.numel() > LARGE:
        give_memory_back()
    return result


def _clean_pass(task: Task, images: Tensor, part: slice) -> ChunkResult:
    goal = task.goal(part)
    problem = task.problem(images, goal, "clean")
    logits = problem.logits(images)
    check_classes(Untargeted(task.labels[part]), logits.shape[1])
    unanswered = logits.isnan().any(1)
    if bool(unanswered.any()):
        first = part.start + int(unanswered.nonzero()[0])
        raise ModelError(f"the model returns NaN for {int(unanswered.sum())} clean images, first for image {first}")
    infinite = int((logits == torch.inf).any(1).sum())
    if infinite:
        problem.ledger.notes[
            f"{INFINITE} for {infinite} clean images, where no margin and no gradient has a meaning"
        ] = None
    if part.start == 0:
        twice = torch.arange(len(images), device=images.device) < ASKED_TWICE
        again = problem.select(twice).logits(images[twice])
        problem.ledger.notes.update(dict.fromkeys(suspicions(logits[twice], again)))
    rows = torch.arange(part.start, part.stop)
    distance = torch.zeros(len(rows), dtype=torch.float64)
    outcomes = _outcomes(problem, rows, logits, torch.zeros_like(unanswered), distance)
    return _result(outcomes, rows[:0], None, 0, problem)


def _attack_pass(task: Task, attack: Attack, images: Tensor, part: slice, rows: Tensor) -> ChunkResult:
    here = (rows - part.start).to(images.device)
    given = task.problem(images[here], task.goal(rows), str(attack))
    candidates = _checked_candidates(attack, attack.run(given), given.images)
    # Verified against fresh originals, goal and flags: what the attack did to those it was given is of no account.
    with frozen_eval(task.model):
        originals = images[here]
        problem = Problem.build(task.model, originals, task.goal(rows), task.threat, given.streams, task.plan)
        problem = replace(problem, ledger=given.ledger)
        fits = task.threat.contains(originals, candidates)
        candidates = torch.where(per_image(fits, images), candidates, originals)
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
    names = problem.streams.names
    return tuple(
        Outcome(i, name, p, m if math.isfinite(m) else None, ok, d, f, b)
        for name, i, p, m, ok, d, f, b in zip(names, *(column.tolist() for column in columns), strict=True)
    )


def _result(
    outcomes: tuple[Outcome, ...], broken: Tensor, adversarials: Tensor | None, rejected: int, problem: Problem
) -> ChunkResult:
    notes = tuple(problem.ledger.notes)
    return ChunkResult(0, 0, "", outcomes, broken, adversarials, rejected, 0.0, notes)


def _summary(stage: Stage, results: list[ChunkResult], state: State, *, complete: bool) -> StageSummary:
    outcomes = [outcome for result in results for outcome in result.outcomes]
    return StageSummary(
        attack=str(stage.attack),
        purpose=stage.purpose,
        tried=len(outcomes),
        broke=sum(o.met for o in outcomes),
        robust_after=proportion(state.robust(), int(state.seen.sum())),
        forwards=sum(o.forwards for o in outcomes),
        backwards=sum(o.backwards for o in outcomes),
        seconds=sum(r.seconds for r in results),
        rejected=sum(r.rejected for r in results),
        complete=complete,
        notes=added_up(note for r in results for note in r.notes),
    )
