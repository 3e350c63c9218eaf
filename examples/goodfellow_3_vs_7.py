"""Goodfellow, Shlens & Szegedy (2015), section 5: FGSM against a logistic regression that tells 3s from 7s.

For a linear model FGSM is not an approximation. The loss grows fastest where every pixel moves by eps against the
sign of its weight, so the perturbation, and the error rate it causes, are known in closed form. This script fits the
model with scikit-learn, attacks it with sparring, and prints the two side by side.

    python examples/goodfellow_3_vs_7.py

It needs the extra "mnist" (pip install 'sparring[mnist]').
"""
# ruff: noqa: T201

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

import sparring as sp

EPS = 0.25
PENALTIES = (1.0, 0.01, 100.0)
"""Inverse strengths C of scikit-learn's l2 penalty: its default first, then a hundred times stronger and weaker."""
BOXES = {"clipped to [0, 1]": (0.0, 1.0), "not clipped": (-1.0, 2.0)}
"""From [0, 1], eps 0.25 never reaches the second box: there the ball alone decides."""


@dataclass(frozen=True)
class Attacked:
    """FGSM in one box: what it did, and what theory says it must do."""

    box: str
    error: float
    expected_error: float
    largest_difference: float
    mean_confidence: float


@dataclass(frozen=True)
class Result:
    """Everything the page prints. Errors are shares of the test images."""

    c: float
    train: int
    test: int
    clean_error: float
    attacked: tuple[Attacked, ...]


@functools.cache
def threes_and_sevens(split: str) -> tuple[Tensor, Tensor]:
    """Images (N, 1, 28, 28) in float64 and labels, 0 for a three and 1 for a seven."""
    images, labels = sp.load_data("mnist5k", split=split)
    chosen = (labels == 3) | (labels == 7)
    return images[:][chosen].double(), (labels[chosen] == 7).long()


def fitted(images: Tensor, labels: Tensor, c: float) -> nn.Module:
    """Logistic regression as a two-class linear model: logits (0, w·x + b)."""
    found = LogisticRegression(C=c, max_iter=5000, tol=1e-6).fit(images.flatten(1).numpy(), labels.numpy())
    linear = nn.Linear(images[0].numel(), 2).double()
    with torch.no_grad():
        linear.weight.zero_()[1] = torch.from_numpy(found.coef_[0])
        linear.bias.zero_()[1] = float(found.intercept_[0])
    return nn.Sequential(nn.Flatten(), linear)


def attacked(model: nn.Module, images: Tensor, labels: Tensor, box: str) -> Attacked:
    """FGSM on every image, beside the closed-form optimum of the linear model."""
    low, high = BOXES[box]
    threat = sp.ThreatModel("linf", EPS, bounds=(low, high))
    found = sp.attacks.FGSM()(model, images, sp.Untargeted(labels), threat)

    linear = model[1]
    w, b = linear.weight[1].detach(), linear.bias[1].detach()
    towards_label = (2.0 * labels - 1).view(-1, 1)  # +1 for a seven, -1 for a three
    flat = images.flatten(1)
    optimum = (flat - EPS * towards_label * w.sign()).clamp(low, high)
    margin = towards_label[:, 0] * (flat @ w + b)
    reach = ((flat - optimum) * towards_label * w).sum(1)  # without a box: eps * ‖w‖₁ for every image

    probabilities = torch.softmax(model(found).detach(), 1)
    wrong = probabilities.argmax(1) != labels
    return Attacked(
        box=box,
        error=float(wrong.double().mean()),
        expected_error=float((margin <= reach).double().mean()),
        largest_difference=float((found.flatten(1) - optimum).abs().max()),
        mean_confidence=float(probabilities.amax(1)[wrong].mean()),
    )


def experiments() -> list[Result]:
    """For every penalty: fit on the 3s and 7s of the training part, attack those of the test part."""
    train, test = threes_and_sevens("train"), threes_and_sevens("test")
    images, labels = test
    results = []
    for c in PENALTIES:
        model = fitted(*train, c)
        clean_error = float((model(images).argmax(1) != labels).double().mean())
        rows = tuple(attacked(model, *test, box) for box in BOXES)
        results.append(Result(c, len(train[1]), len(labels), clean_error, rows))
    return results


def lines(result: Result) -> list[str]:
    """One line on the clean images, one per box."""
    said = [f"{'clean':<24} error {100 * result.clean_error:5.1f} %"]
    for row in result.attacked:
        said.append(
            f"{'FGSM, ' + row.box:<24} error {100 * row.error:5.1f} %   closed form {100 * row.expected_error:5.1f} %"
            f"   mean confidence {100 * row.mean_confidence:.1f} %"
        )
    return said


def main() -> None:
    """Print the tables of the documentation."""
    for result in experiments():
        print(f"C = {result.c:g}, {result.train} training and {result.test} test images, eps {EPS}")
        print("\n".join(lines(result)))


if __name__ == "__main__":
    main()
