"""All stages against one stack, one after the other, each on the images that still stand; the worst point per image."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sparring.defenses.attacking.climb import climb
from sparring.defenses.attacking.scene import Aims, Bill, Judged, Scene
from sparring.defenses.attacking.search import searched
from sparring.defenses.attacking.stages import Search, Stage
from sparring.errors import UnsupportedError
from sparring.norms import per_image

SELECTING = 24
"""Draws by which a random stack's candidates are compared; what is reported comes from others."""
ROUNDING = 1e-5
"""Gap that another batch's rounding may open again."""


@dataclass(frozen=True)
class StageRow:
    """What one stage did: images tried, evasions found (of a stack with randomness: images made worse), robust accuracy
    with detection after it, images asked about forward and backward, seconds, and why it did not run.
    """

    name: str
    tried: int
    evaded: int
    standing: int
    forwards: int
    backwards: int
    seconds: float
    note: str = ""


class Found:
    """The worst point known per image: share of draws in which it evades, gap, and the stage that found it."""

    def __init__(self, scene: Scene) -> None:
        self.draws = SELECTING if scene.stack.random else 1
        judged = self._judged(scene, scene.images)
        self.points = scene.images.clone()
        self.rate, self.gap, self.lead = judged.rate.clone(), judged.gap.clone(), judged.lead.clone()
        self.by: list[str | None] = ["clean" if rate == 1 else None for rate in judged.rate.tolist()]

    @property
    def standing(self) -> Tensor:
        """Rows (M,) worth attacking further."""
        return (self.rate < 1).nonzero().flatten()

    def _judged(self, scene: Scene, points: Tensor) -> Judged:
        """As `scene` judges; of a stack without randomness, what rounding could undo does not count as found."""
        judged = scene.judged(points, "selecting", self.draws)
        return judged if self.draws > 1 else replace(judged, rate=judged.rate * (judged.gap < -ROUNDING))

    def offer(self, scene: Scene, rows: Tensor, points: Tensor, name: str) -> int:
        """Judge `points` of these images afresh, and take over those allowed and worse; how many."""
        allowed = scene.threat.contains(scene.images, points)
        points = torch.where(per_image(allowed, points), points, scene.images)
        judged = self._judged(scene, points)
        had, before = self.rate[rows], self.gap[rows]
        worse = (judged.rate > had) | ((judged.rate == had) & (judged.gap < before))
        news = int((judged.rate > had).sum())
        taken = rows[worse]
        self.points[taken] = points[worse]
        self.rate[taken], self.gap[taken] = judged.rate[worse], judged.gap[worse]
        self.lead[rows] = torch.minimum(self.lead[rows], judged.lead)
        for i in rows[judged.rate > had].tolist():
            self.by[i] = name
        return news


def pursue(
    scene: Scene,
    stages: Sequence[Stage | Search],
    seen: Sequence[tuple[str, Tensor]],
    report: Callable[[str, int], None],
) -> tuple[Found, list[StageRow]]:
    """Run the stages. `seen`: named candidates (N, C, H, W) made elsewhere, which are offered first."""
    found, table = Found(scene), []
    guides = _guides(scene)
    for name, points in seen:
        everyone = torch.arange(len(scene), device=scene.images.device)
        found.offer(scene, everyone, points, name)
    for stage in stages:
        row = _run(scene, stage, found, guides)
        table.append(row)
        report(stage.name, row.standing)
    return found, table


def _run(scene: Scene, stage: Stage | Search, found: Found, guides: Guides) -> StageRow:
    rows = found.standing
    if isinstance(stage, Search):
        rows = rows[found.gap[rows].argsort(stable=True)[: stage.most]]
    elif stage.foolable:
        rows = rows[found.lead[rows] < 0]
    bill, start, news, tried, note = Bill(), time.perf_counter(), 0, len(rows), ""
    try:
        for run in range(1 if isinstance(stage, Search) else stage.restarts):
            rows = rows[found.rate[rows] < 1]
            if len(rows):
                news += _once(replace(scene.select(rows), bill=bill), stage, found, guides, rows, run)
    except UnsupportedError as error:
        note = str(error)
    seconds = time.perf_counter() - start
    return StageRow(stage.name, tried, news, len(found.standing), bill.forwards, bill.backwards, seconds, note)


def _once(part: Scene, stage: Stage | Search, found: Found, guides: Guides, rows: Tensor, run: int) -> int:
    """One run of a stage on the images `rows`; how many it made worse."""
    purpose = f"{stage.name} {run}"
    if isinstance(stage, Search):
        best = searched(part, found.points[rows], stage.queries, stage.draws, purpose)
        return found.offer(part, rows, best.points, stage.name)
    start = part.region.sample(part.streams(f"{purpose} start")) if stage.start == "random" else found.points[rows]
    best, last = climb(part, guides.aims(part, rows, stage.aim, run), start, stage, purpose)
    found.lead[rows] = torch.minimum(found.lead[rows], best.lead)
    news = found.offer(part, rows, best.points, stage.name)
    if part.stack.random:
        news += found.offer(part, rows, last, stage.name)
    return news


@dataclass(frozen=True, eq=False)
class Guides:
    """The clean images as patterns: their bare logits, features and answers, which are right and accepted, and for each
    image its classes from the strongest wrong one on.
    """

    logits: Tensor
    features: dict[str, Tensor]
    labels: Tensor
    fine: Tensor
    ranked: Tensor

    def aims(self, part: Scene, rows: Tensor, aim: str, run: int) -> Aims:
        """What run number `run` of a stage is about, for the images `rows`."""
        if aim == "any":
            return Aims(part.labels)
        wanted = self.ranked[rows, run % self.ranked.shape[1]]
        if aim == "strongest":
            return Aims(part.labels, wanted)
        chosen = self._nearest(rows, wanted)
        features = {name: values[chosen] for name, values in self.features.items()}
        return Aims(part.labels, wanted, self.logits[chosen], features)

    def _nearest(self, rows: Tensor, wanted: Tensor) -> Tensor:
        """Of the fine images of the wanted class, else of any other class, the one with the nearest logits."""
        far = torch.cdist(self.logits[rows].double(), self.logits.double())
        own = self.labels[rows][:, None] == self.labels
        far = far.masked_fill(own | ~self.fine, 1e30)
        other = wanted[:, None] != self.labels
        return (far + 1e15 * other).argmin(1)


def _guides(scene: Scene) -> Guides:
    logits, fine, ranked, features = [], [], [], []
    with torch.no_grad():
        for rows in torch.arange(len(scene)).split(max(1, scene.batch // scene.stack.width)):  # type: ignore[no-untyped-call]
            part = scene.select(rows)
            sight = scene.stack.look(part.images, part.streams("guides"))
            bare = sight.answers if sight.evidence is None else sight.evidence.logits
            logits.append(bare)
            features.append({} if sight.evidence is None else sight.evidence.features)
            fine.append((sight.served.argmax(1) == part.labels) & ~sight.flagged)
            wrong = sight.answers.scatter(1, part.labels[:, None], -torch.inf)
            ranked.append(wrong.argsort(1, descending=True)[:, :-1])
    merged = {name: torch.cat([part[name] for part in features]) for name in features[0]}
    return Guides(torch.cat(logits), merged, scene.labels, torch.cat(fine), torch.cat(ranked))
