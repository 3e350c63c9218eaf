"""Decoupled direction and norm (Rony et al. 2019, arXiv:1811.09600)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparring.attacks.base import at_least
from sparring.attacks.minimal import MinimalAttack, Pace, Position, dual_length, length, walk
from sparring.goal import Goal
from sparring.norms import per_image
from sparring.problem import Problem


@dataclass(frozen=True, kw_only=True)
class DDN(MinimalAttack):
    """Gradient steps that say only where to go; how far is decided by itself: after every step the perturbation is
    scaled to a norm that shrinks by `gamma` while the image is adversarial and grows by `gamma` while it is not.

    steps: gradients at most (the paper's 100). step_size: length of the first step in units of the norm (the paper's
    1), which falls to a hundredth along a cosine. gamma: the first change of the norm, falling likewise (the paper's
    stays at 0.05). skip: so many steps of the schedule are left out whenever three in a row have brought an image less
    than 1 % nearer; 0 for the paper's fixed number. search_steps: forward passes of the final bisection towards the
    image. The norm starts at the distance of a linear boundary, and until the first adversarial it grows at least that
    far. The gradient is that of the label's log-odds: the direction of the cross-entropy's, but it does not vanish for
    a confident model.
    """

    threats: ClassVar[tuple[str, ...]] = ("l2",)
    paper: ClassVar[str] = (
        "Rony et al., Decoupling Direction and Norm for Efficient Gradient-Based L2 Adversarial Attacks and Defenses, "
        "CVPR 2019"
    )

    steps: int = 100
    step_size: float = 1.0
    gamma: float = 0.1
    skip: int = 5
    search_steps: int = 4

    def __post_init__(self) -> None:
        at_least("steps", self.steps, 1, whole=True)
        at_least("step_size", self.step_size, 0)
        at_least("gamma", self.gamma, 0)
        at_least("skip", self.skip, 0, whole=True)
        at_least("search_steps", self.search_steps, 0, whole=True)

    def nearest(self, problem: Problem, enough: float) -> Tensor:
        """The nearest adversarial of the walk, drawn in towards the image."""
        pace = Pace(len(problem), self.steps, self.skip, problem.images)
        best = walk(problem, enough, pace, log_odds, self._move)
        best.draw_in(problem, self.search_steps, enough)
        return best.points

    def _move(self, at: Position, pace: Pace) -> tuple[Tensor, Tensor]:
        gamma = pace.between(self.gamma, self.gamma / 100)
        grown = at.radius * (1 + gamma)
        grown = torch.where(at.found, grown, torch.maximum(grown, at.boundary))
        radius = torch.where(at.met, at.radius * (1 - gamma), grown).minimum(at.outermost)
        images, region = at.problem.images, at.problem.region
        size = radius * pace.between(self.step_size, self.step_size / 100)
        delta = at.points - images + at.grad * per_image(size / dual_length(at.grad, "l2"), images)
        delta = delta * per_image(radius / length(delta, "l2").clamp_min(1e-12), images)
        return torch.clamp(images + delta, region.lower, region.upper), radius


def log_odds(logits: Tensor, goal: Goal) -> Tensor:
    """log((1 - p) / p) of the label, log(p / (1 - p)) of the target, (N,), in the logits' own unit: p is what they
    would say if the largest were 6 above their mean, about as in a trained net, so that their scale changes nothing.
    """
    spread = (logits.amax(1, keepdim=True) - logits.mean(1, keepdim=True)).detach()
    unit = 6 / spread.clamp_min(torch.finfo(logits.dtype).tiny)
    own = logits.gather(1, goal.reference[:, None])
    others = logits.scatter(1, goal.reference[:, None], -torch.inf)
    return goal.sign * ((unit * others).logsumexp(1, keepdim=True) / unit - own).squeeze(1)
