"""Masked and honest models under an audit: which findings it raises, and how near its robust accuracy is to the truth.

    python bench/diagnose.py            # the masked models, then the honest ones; a record after each
    python bench/diagnose.py --honest 4 # fewer of them

Small nets on scikit-learn's digits, trained here in seconds. The truth beside a masked model is the best of references
that know where the mask is: long attacks through an identity put in its place by hand, Auto-PGD on the model as it is,
Square, EOT. Judged by fresh draws where the model is random. The record is bench/results/diagnose/confusion.json.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import sparring as sp
from sparring.diagnosis.randomised import drawn

RECORD = Path(__file__).resolve().parent / "results" / "diagnose" / "confusion.json"
MASKING = {
    "zero-gradient",
    "no-gradient",
    "gradient-misleads",
    "blocked-gradient",
    "vanishing-cross-entropy",
    "random-outputs",
    "noise-beats-gradient",
    "one-step-beats-many",
    "unbounded-survivors",
    "gradient-free-wins",
    "search-found-more",
    "gradient-underflow",
    "unstable-loss",
    "success-does-not-grow",
    "more-steps-help",
    "transfer-wins",
    "surrogate-only",
    "silent-success",
    "stronger-attack-found",
    "certificate-contradicted",
}
ACTIVATIONS = (nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.ELU)
THREAT = sp.ThreatModel("linf", 0.1)


def net(activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        activation(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        activation(),
        nn.Flatten(),
        nn.Linear(512, 32),
        activation(),
        nn.Linear(32, 10),
    )


def trained(model: nn.Module, images: Tensor, labels: Tensor, *, robust: bool, epochs: int, cool: float = 1.0) -> Any:
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(64):
            x, y = images[rows], labels[rows]
            if robust:
                x = sp.attacks.PGD(steps=4, early_stop=False)(model, x, sp.Untargeted(y), THREAT)
            loss = cross_entropy(model(x) / cool, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


class Lambda(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Hard(nn.Module):
    """Saturates hard from a fifth of a unit on."""

    def forward(self, x: Tensor) -> Tensor:
        return (5 * x).clamp(-1, 1)


def jpeg(x: Tensor) -> Tensor:
    with torch.no_grad():
        return sp.defenses.transforms.JPEG(quality=75)(x.detach().clamp(0, 1))


def masked(base: nn.Module, train: tuple[Tensor, Tensor]) -> dict[str, tuple[nn.Module, dict[str, str], set[str]]]:
    """Name to model, where a hand-made identity goes, and the findings of which one is right."""
    blocked = {"zero-gradient", "no-gradient", "gradient-misleads", "blocked-gradient"}
    return {
        "rounded input": (nn.Sequential(Lambda(lambda x: (8 * x).round() / 8), base), {"0": "identity"}, blocked),
        "jpeg": (nn.Sequential(Lambda(jpeg), base), {"0": "identity"}, blocked),
        "noise": (nn.Sequential(Lambda(lambda x: x + 0.1 * torch.randn_like(x)), base), {}, {"random-outputs"}),
        "scaled logits": (nn.Sequential(base, Lambda(lambda z: 1000 * z)), {}, {"vanishing-cross-entropy"}),
        "distilled": (trained(net(), *train, robust=False, epochs=30, cool=50.0), {}, {"vanishing-cross-entropy"}),
        "hard activations": (trained(net(Hard), *train, robust=False, epochs=15), {}, MASKING),
        "shattered": (
            nn.Sequential(Lambda(lambda x: x + 0.004 * torch.sin(1256 * x)), base),
            {"0": "identity"},
            blocked,
        ),
    }


def truth(model: nn.Module, around: dict[str, str], images: Tensor, labels: Tensor, name: str, queries: int) -> float:
    if name == "noise":
        return float(drawn(model, images, labels, THREAT, seed=7).worst.mean())
    known = sp.bpda(model, around) if around else model
    stand = torch.ones(len(labels), dtype=torch.bool)
    long = ["pgd:steps=100,loss=margin,restarts=3", "multi_targeted:steps=50", "apgd:steps=100"]
    for subject, attacks in ((known, long), (model, [f"square:queries={queries}"])):
        found = sp.evaluate(subject, images, labels, THREAT, attacks=attacks, seed=3, keep=False)
        stand &= torch.tensor([r.broken_by is None and r.prediction == r.label for r in found.records])
    return float(stand.float().mean())


def audited(name: str, model: nn.Module, images: Tensor, labels: Tensor, effort: str) -> dict[str, Any]:
    start = time.process_time()
    report = sp.audit(model, images, labels, THREAT, effort=effort)
    codes = sorted({f.code for f in report.findings} & MASKING)
    row = {
        "model": name,
        "clean": round(report.evaluation.clean_accuracy.value or 0, 4),
        "robust": round(report.evaluation.robust_accuracy.value or 0, 4),
        "findings": codes,
        "believable": report.believable,
        "seconds": round(time.process_time() - start, 1),
    }
    print(json.dumps(row), flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--honest", type=int, default=20)
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--effort", default="standard")
    parser.add_argument("--queries", type=int, default=5000, help="of Square, in the reference")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    train = sp.load_data("digits", split="train", lazy=False)
    images, labels = sp.load_data("digits", n=options.n, lazy=False)
    base = trained(net(), *train, robust=True, epochs=8)
    rows: dict[str, Any] = {"n": options.n, "effort": options.effort, "masked": [], "honest": []}
    for name, (model, around, right) in masked(base, train).items():
        row = audited(name, model, images, labels, options.effort)
        row |= {
            "truth": round(truth(model, around, images, labels, name, options.queries), 4),
            "right": bool(right & {*row["findings"]}),
        }
        rows["masked"].append(row)
        RECORD.write_text(json.dumps(rows, indent=1) + "\n")
    for i in range(options.honest):
        torch.manual_seed(i)
        activation, robust = ACTIVATIONS[i % len(ACTIVATIONS)], i % 2 == 1
        model = trained(net(activation), *train, robust=robust, epochs=6 if robust else 12)
        kind = f"{activation.__name__}, {'PGD' if robust else 'standard'}, seed {i}"
        rows["honest"].append(audited(kind, model, images, labels, options.effort))
        RECORD.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
