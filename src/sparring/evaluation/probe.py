"""What a plan may know of the model besides verdicts: what it shows, and where its gradients mislead."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sparring.black_box import access_of
from sparring.evaluation.evaluation import State
from sparring.evaluation.progress import Progress
from sparring.evaluation.stages import Setting
from sparring.evaluation.suspicions import misleading
from sparring.evaluation.task import Task
from sparring.rng import seeded
from sparring.threat import ThreatModel


def setting(task: Task, state: State, stages: int, report: Callable[[Progress], None]) -> Setting:
    """What a plan may know of the model: what it shows and, if it asks, which gradients mislead."""

    def probed() -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        own, shares = [], task.shares(state.standing())
        for share, rows in enumerate(shares):
            if task.ranks.mine(share):
                here = (rows - rows[0]).to(task.device)
                problem = task.problem(task.read(task.span(rows))[here], task.goal(rows), "gradients")
                with seeded(task.seed, "probe", share):
                    misled = misleading(problem).cpu()
                own.append((rows, misled, problem.ledger.forwards, problem.ledger.backwards))
            robust = state.robust() / max(1, int(state.seen.sum()))
            done = task.done(shares, share)
            report(Progress("gradient probe", 0, stages, done, len(task.labels), robust))
        return own

    def doubtful() -> Tensor:
        found = torch.zeros(len(task.labels), dtype=torch.bool)
        if isinstance(task.threat, ThreatModel):
            for rows, misled, forwards, backwards in task.ranks.gathered(probed):
                found[rows] = misled
                state.forwards[rows] += forwards
                state.backwards[rows] += backwards
        return found

    return Setting(task.threat.norm, access_of(task.model), task.seed, doubtful)
