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
    chunks = task.chunks()

    def probed() -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        own = []
        for chunk in filter(task.ranks.mine, range(len(chunks))):
            part = chunks[chunk]
            here = state.standing()[part].nonzero().flatten()
            if len(here):
                rows = here + part.start
                problem = task.problem(task.read(part)[here.to(task.device)], task.goal(rows), "gradients")
                with seeded(task.seed, "probe", chunk):
                    misled = misleading(problem).cpu()
                own.append((rows, misled, problem.ledger.forwards, problem.ledger.backwards))
            robust = state.robust() / max(1, int(state.seen.sum()))
            report(Progress("gradient probe", 0, stages, part.stop, len(task.labels), robust))
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
