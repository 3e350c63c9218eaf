"""Which attacks on one model fool another; and a surrogate learnt from the target's answers (Papernot et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax, one_hot, softmax

from sparring.attacks import DIFGSM, FGSM, MIFGSM, TIFGSM, Attack
from sparring.attacks.base import at_least
from sparring.diagnosis.result import Transfer
from sparring.diagnosis.work import answers
from sparring.goal import Untargeted
from sparring.model import Model, frozen_eval
from sparring.rng import digests, forked
from sparring.threat import ThreatModel

ATTACKS: tuple[Attack, ...] = (
    FGSM(),
    MIFGSM(early_stop=False),
    DIFGSM(early_stop=False),
    TIFGSM(early_stop=False),
)
BATCH = 64
DENSE_SIDE = 32
"""Pixels along a side that a surrogate without convolutions sees at most."""


def transfer_matrix(
    models: Mapping[str, Model],
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    *,
    attacks: Sequence[Attack] = ATTACKS,
) -> tuple[Transfer, ...]:
    """Every model as surrogate for every other: success on the images that the target has right, same budget."""
    rows, goal = [], Untargeted(labels)
    right = {name: _answers(model, images) == labels for name, model in models.items()}
    for surrogate, model in models.items():
        for attack in attacks:
            points = attack(model, images, goal, threat)
            for target, other in models.items():
                mine = right[target]
                fooled = (_answers(other, points) != labels) & mine
                share = float(fooled.sum() / mine.sum().clamp_min(1))
                rows.append(
                    Transfer(
                        surrogate=surrogate, target=target, attack=str(attack), success=share, images=int(mine.sum())
                    )
                )
    return tuple(rows)


def distilled(target: Model, images: Tensor, *, queries: int, epochs: int = 20, seed: int = 0) -> nn.Module:
    """A small convolutional surrogate that learnt the target's answers to `queries` pictures: the given ones
    (N, C, H, W), then noisy copies of them. The target shows logits or labels; no more calls are made.
    """
    at_least("queries", queries, 1, whole=True)
    generator = torch.Generator().manual_seed(seed)
    with forked():
        torch.manual_seed(seed)
        picks = torch.arange(queries) % len(images)
        asked = images[picks.to(images.device)].clone()
        noise = 0.1 * torch.randn(asked.shape, generator=generator).to(asked)
        asked[len(images) :] = (asked + noise)[len(images) :].clamp(images.min(), images.max())
        with frozen_eval(target):
            given = answers(target, asked).clamp_min(-1e4)
        soft = softmax(given / given.std().clamp_min(1e-6) * 2, 1)
        return _taught(_student(images, soft.shape[1]), asked, soft, epochs, generator)


def learnt(images: Tensor, labels: Tensor, classes: int, *, epochs: int = 20, seed: int = 0) -> dict[str, nn.Module]:
    """Surrogates of two kinds, a convolutional one and one without convolutions, that learnt from images (N, C, H, W)
    and labels (N,) of an attacker's own, without the target. By name.
    """
    found: dict[str, nn.Module] = {}
    truth = one_hot(labels, classes).to(images)
    for name, build in (("convolutions", _student), ("dense layers", _dense)):
        generator = torch.Generator().manual_seed(seed)
        with forked():
            torch.manual_seed(seed)
            net = _taught(build(images, classes), images, truth, epochs, generator)
        found[f"{name}, learnt from {len(images):,} other images"] = net
    return found


def apart(images: Tensor, others: Tensor) -> Tensor:
    """Bool (M,): which of `others` (M, C, H, W) are none of `images`."""
    known = set(digests(images))
    return torch.tensor([digest not in known for digest in digests(others)], dtype=torch.bool)


def _taught(net: nn.Module, images: Tensor, wanted: Tensor, epochs: int, generator: torch.Generator) -> nn.Module:
    """`net` after some epochs on probabilities (N, K)."""
    step = _adam(list(net.parameters()))
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(images), generator=generator), BATCH):
            with torch.enable_grad():
                step(kl_div(log_softmax(net(images[rows]), 1), wanted[rows], reduction="batchmean"))
    return net.eval()


def _adam(weights: list[nn.Parameter], rate: float = 3e-3) -> Callable[[Tensor], None]:
    """A step of Adam down a loss (Kingma & Ba 2015). That of torch.optim would import a compiler first: two seconds."""
    first, second = ([torch.zeros_like(w) for w in weights] for _ in range(2))
    done = 0

    def step(loss: Tensor) -> None:
        nonlocal done
        done += 1
        grads = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            for w, grad, mean, square in zip(weights, grads, first, second, strict=True):
                mean.lerp_(grad, 0.1)
                square.lerp_(grad.square(), 0.001)
                size = (square / (1 - 0.999**done)).sqrt_().add_(1e-8)
                w.sub_(rate / (1 - 0.9**done) * mean / size)

    return step


def _student(images: Tensor, classes: int) -> nn.Module:
    channels, side = images.shape[1], 4
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(side),
        nn.Flatten(),
        nn.Linear(32 * side * side, classes),
    ).to(images)


def _dense(images: Tensor, classes: int) -> nn.Module:
    channels, side = images.shape[1], min(DENSE_SIDE, *images.shape[2:])
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(side),
        nn.Flatten(),
        nn.Linear(channels * side * side, 128),
        nn.ReLU(),
        nn.Linear(128, classes),
    ).to(images)


def _answers(model: Model, points: Tensor) -> Tensor:
    with frozen_eval(model):
        return answers(model, points).argmax(1)
