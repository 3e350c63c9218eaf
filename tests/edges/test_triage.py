"""Efforts choose images by what they saw; the spot check bounds what they left out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from tests.helpers_core import Linear, pictures
from torch import Tensor, nn

import sparring as sp
from sparring.attacks import Attack
from sparring.evaluation import EFFORTS, EvaluationInterrupted, Progress
from sparring.evaluation.effort import SAMPLE, Effort
from sparring.evaluation.spot_check import ALPHA, missed
from sparring.problem import Problem

N = 200
THREAT = sp.ThreatModel("linf", 1.0)


class Brightness(nn.Module):
    """Class 1 where the first pixel is over a half; the second pixel says how close to breaking an image looks."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        lead = torch.where(flat[:, 0] > 0.5, -1.0, 1.0) * (0.1 + flat[:, 1])
        return torch.stack([lead, torch.zeros_like(lead)], 1)


@dataclass(frozen=True, kw_only=True)
class Flip(Attack):
    """Breaks the images whose third pixel is over `above`."""

    above: float = 0.5
    name: str = "flip"

    def run(self, problem: Problem) -> Tensor:
        found = problem.images.clone()
        breakable = found.flatten(1)[:, 2] > self.above
        found.view(len(found), -1)[breakable, 0] = 1.0
        return found


def data(hidden: int) -> tuple[Tensor, Tensor]:
    """N images, `hidden` of them breakable by Flip, spread evenly over the margins."""
    images = torch.zeros(N, 1, 2, 2)
    images[:, 0, 0, 1] = torch.linspace(0.05, 1, N)  # room for every gradient to do what it says
    images[torch.linspace(0, N - 1, hidden).long(), 0, 1, 0] = 1.0
    images[:, 0, 1, 1] = torch.rand(N, generator=torch.Generator().manual_seed(1))
    return images, torch.zeros(N, dtype=torch.int64)


def effort(**parts: tuple[Attack, ...]) -> Effort:
    return Effort(about="", **({"everyone": (Flip(above=2.0, name="nothing"),)} | parts))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch):
    def evaluate(plan: Effort, hidden: int, **options: object) -> sp.evaluation.Evaluation:
        monkeypatch.setitem(EFFORTS, "mine", plan)
        images, labels = data(hidden)
        return sp.evaluate(Brightness(), images, labels, THREAT, effort="mine", **options)

    return evaluate


def test_nothing_hidden_leaves_the_bound_of_one_sample(run) -> None:
    found = run(effort(check=(Flip(),)), 0)
    left_out = N - math.ceil(0.12 * N)
    assert [s.purpose for s in found.stages] == ["", "spot check 1"]
    assert found.stages[1].tried == SAMPLE
    assert found.missed_bound == missed(left_out, SAMPLE, ALPHA / 2) / N


def test_a_break_in_the_sample_widens_the_stage_and_draws_afresh(run) -> None:
    found = run(effort(check=(Flip(),)), 100)
    purposes = [s.purpose for s in found.stages]
    assert purposes[:3] == ["", "spot check 1", "widened"]
    assert purposes[3] == "spot check 2"
    assert found.stages[1].broke > 0
    assert found.robust_accuracy < 0.75
    covered = {r.index for r in found.records if r.forwards > 2}
    assert len(covered) > SAMPLE


def test_the_bound_holds_as_often_as_it_says(run) -> None:
    """Whatever the sample did not find stays below the bound in at least 95 % of the seeds."""
    held = 0
    for seed in range(40):
        found = run(effort(close=(Flip(name="close"),), check=(Flip(),)), 6, seed=seed)
        still_hidden = 6 - sum(r.broken_by is not None for r in found.records)
        held += still_hidden / N <= found.missed_bound
    assert held >= 35, "5 % of 40, and chance"


@pytest.mark.parametrize(("population", "asked"), [(50, 10), (200, 60), (60, 60), (10, 0), (0, 0)])
def test_the_bound_is_the_exact_hypergeometric_one(population: int, asked: int) -> None:
    def none_seen(bad: int) -> float:
        return math.comb(population - bad, asked) / math.comb(population, asked)

    bound = missed(population, asked, 0.05)
    assert none_seen(bound) > 0.05 or bound == 0
    assert bound == population - asked or none_seen(bound + 1) <= 0.05


def test_close_images_get_the_strong_attack_and_the_rest_do_not(run) -> None:
    found = run(effort(close=(Flip(),)), N)
    broken = [r.index for r in found.records if r.broken_by]
    assert broken == list(range(math.ceil(0.12 * N))), "the smallest margins"
    assert found.missed_bound is None, "no check, no bound"


@dataclass(frozen=True, kw_only=True)
class BlindFlip(Flip):
    """The same without gradients."""

    access: ClassVar[str] = "logits"


def test_a_find_without_gradients_sends_the_deep_search_to_everyone(run) -> None:
    found = run(effort(search=(BlindFlip(),), deep=(BlindFlip(name="deep"),)), N)
    assert found.robust_accuracy == 0.0
    assert [s.purpose for s in found.stages[1:]] == ["spot check 1", "gradients mislead"]
    assert found.stages[2].attack == BlindFlip(name="deep").__str__()
    assert "gradients look masked" in found.warnings[0]
    assert found.missed_bound is None, "no check was asked for"


def test_the_sample_of_the_check_gets_the_search_too(run) -> None:
    found = run(effort(check=(Flip(above=2.0),), search=(BlindFlip(),)), 0)
    assert [s.purpose for s in found.stages[1:]] == ["spot check 1", "spot check 1"]
    assert found.stages[1].tried == found.stages[2].tried == SAMPLE
    assert found.missed_bound == missed(N - math.ceil(0.12 * N), SAMPLE, ALPHA / 2) / N
    assert found.warnings == ()


class Gated(nn.Module):
    """Passes no useful gradient for the images whose mean is over `gate`; the others are as they were."""

    def __init__(self, inner: nn.Module, gate: float, classes: int = 10) -> None:
        super().__init__()
        self.inner, self.gate = inner, gate
        self.register_buffer("noise", torch.randn(64, classes, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor) -> Tensor:
        hidden = (x.detach().mean((1, 2, 3)) > self.gate)[:, None]
        useless = self.inner(x.detach()) + 1e-6 * (x.flatten(1) @ self.noise)
        return torch.where(hidden, useless, self.inner(x))


def test_images_with_misleading_gradients_are_searched_without() -> None:
    """A few images among many mask their gradients: no sample may be relied on to meet them."""
    model = sp.load_model("digits-cnn")
    images, labels = sp.load_data("digits", n=100, lazy=False)
    threat = sp.ThreatModel("linf", 0.1)
    gated = Gated(model, float(images.mean((1, 2, 3)).quantile(0.95))).eval()
    honest, found = (sp.evaluate(m, images, labels, threat, effort="quick") for m in (model, gated))
    searched = [s for s in found.stages if s.purpose == "gradients mislead"]
    assert 1 <= searched[0].tried <= 5
    assert searched[0].broke > 0
    assert "gradients look masked" in found.warnings[0]
    assert found.robust_accuracy <= honest.robust_accuracy + 0.03
    assert honest.warnings == ()
    assert not any(s.purpose == "gradients mislead" for s in honest.stages)


def test_rounded_inputs_do_not_look_robust() -> None:
    """The gradient is zero everywhere, so gradient attacks find nothing; the search without gradients does."""

    class Rounded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Linear(16, 3, dtype=torch.float32)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner((x * 8).round() / 8)

    model, images = Rounded(), pictures(40, 1, 4, 4)
    labels = model(images).argmax(1)
    threat = sp.ThreatModel("linf", 0.3)
    undefended = sp.evaluate(model.inner, images, labels, threat, effort="quick").robust_accuracy
    found = sp.evaluate(model, images, labels, threat, effort="standard")
    assert any(s.purpose == "gradients mislead" for s in found.stages)
    assert found.robust_accuracy <= undefended + 0.1


@pytest.mark.parametrize("stop_at", [1, 3, 5, 7])
def test_an_interrupted_effort_is_labelled_and_resumes_exactly(tmp_path: Path, stop_at: int) -> None:
    model, images = Linear(16, 4, dtype=torch.float32), pictures(30, 1, 4, 4)
    labels = model(images).argmax(1)
    threat = sp.ThreatModel("linf", 0.02)
    whole = sp.evaluate(model, images, labels, threat, effort="standard")

    def stop(event: Progress) -> None:
        if event.number == stop_at:
            raise KeyboardInterrupt

    with pytest.raises(EvaluationInterrupted) as caught:
        sp.evaluate(model, images, labels, threat, effort="standard", out=tmp_path, progress=stop)
    partial = caught.value.evaluation
    assert not partial.complete
    assert partial.missed_bound is None
    assert partial.robust_accuracy >= whole.robust_accuracy
    resumed = sp.evaluate(model, images, labels, threat, effort="standard", out=tmp_path)
    assert resumed.records == whole.records
    assert resumed.missed_bound == whole.missed_bound
    assert [(s.attack, s.purpose, s.tried, s.broke) for s in resumed.stages] == [
        (s.attack, s.purpose, s.tried, s.broke) for s in whole.stages
    ]


def test_verdicts_of_an_effort_do_not_depend_on_the_batch_size() -> None:
    model = sp.load_model("digits-cnn")
    images, labels = sp.load_data("digits", n=100)
    threat = sp.ThreatModel("linf", 0.1)
    broken = [
        [r.broken_by is None for r in sp.evaluate(model, images, labels, threat, effort="quick", batch_size=b).records]
        for b in (7, 64, 250)
    ]
    assert broken[0] == broken[1] == broken[2]


@pytest.mark.parametrize(
    ("norm", "eps"),
    [
        ("linf", 0.1),
        ("l0", 3),
        pytest.param("l2", 0.5, marks=pytest.mark.slow),
        pytest.param("l1", 2.0, marks=pytest.mark.slow),
    ],
)
def test_efforts_get_stronger(norm: str, eps: float) -> None:
    model = sp.load_model("digits-cnn")
    images, labels = sp.load_data("digits", n=30)
    threat = sp.ThreatModel(norm, eps)
    one, two = (sp.evaluate(model, images, labels, threat, effort=e).robust_accuracy for e in ("quick", "standard"))
    assert two <= one
    assert one < 0.9
