"""The other libraries' attacks beyond FGSM and PGD, each behind `prepare(model) -> attack(images, labels, batch)`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from peers import Attack, Prepare, advlib, in_batches

UPPER = {"linf": "Linf", "l2": "L2", "l1": "L1"}


def adv_lib(name: str, **settings: Any) -> Prepare:
    """A function `name(model, inputs, labels, **settings)` of adversarial-library."""

    def prepare(model: nn.Module) -> Attack:
        attack = advlib(name)
        return in_batches(lambda x, y: attack(model, x, y, **settings))

    return prepare


def foolbox(name: str, *, eps: float | None = None, **settings: Any) -> Prepare:
    """A class of foolbox; without `eps` it looks for the nearest adversarial."""

    def prepare(model: nn.Module) -> Attack:
        import foolbox

        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
        attack = getattr(foolbox.attacks, name)(**settings)
        return in_batches(lambda x, y: attack(wrapped, x, y, epsilons=eps)[0 if eps is None else 1])

    return prepare


def torchattacks(name: str, **settings: Any) -> Prepare:
    def prepare(model: nn.Module) -> Attack:
        import torchattacks

        return in_batches(getattr(torchattacks, name)(model, **settings))

    return prepare


def art(name: str, *, batched: bool = True, one_hot: bool = False, softmax: bool = False, **settings: Any) -> Prepare:
    """A class of ART's evasion attacks. `one_hot`: it wants labels so. `softmax`: it wants probabilities."""

    def prepare(model: nn.Module) -> Attack:
        from art.attacks import evasion
        from art.estimators.classification import PyTorchClassifier

        classifier = PyTorchClassifier(
            nn.Sequential(model, nn.Softmax(1)).eval() if softmax else model,
            loss=nn.CrossEntropyLoss(),
            input_shape=(1, 28, 28),
            nb_classes=10,
            clip_values=(0.0, 1.0),
            device_type="cpu",
        )

        def run(images: Tensor, labels: Tensor, batch: int) -> Tensor:
            size = {"batch_size": batch} if batched else {}
            quiet = {} if name == "FastGradientMethod" else {"verbose": False}
            attack = getattr(evasion, name)(classifier, **quiet, **size, **settings)
            answers = torch.eye(10)[labels].numpy() if one_hot else labels.numpy()
            return torch.from_numpy(attack.generate(images.numpy(), answers))

        return run

    return prepare


def autoattack(kind: str, norm: str, eps: float, **settings: Any) -> Prepare:
    """One stage of pyautoattack: "square", "apgd", "apgd-t", "fab"."""

    def prepare(model: nn.Module) -> Attack:
        from pyautoattack import autopgd_base, fab_pt, square

        classes = {
            "square": square.SquareAttack,
            "apgd": autopgd_base.APGDAttack,
            "apgd-t": autopgd_base.APGDAttack_targeted,
            "fab": fab_pt.FABAttack_PT,
        }

        def run(x: Tensor, y: Tensor) -> Tensor:  # seeds torch itself: give it what the repeat's seed gives
            seed = int(torch.randint(2**31, (1,)))
            attack = classes[kind](model, norm=UPPER[norm], eps=eps, seed=seed, device="cpu", **settings)
            return attack.perturb(x, y)

        return in_batches(run)

    return prepare


def art_universal(norm: str, eps: float, **settings: Any) -> Prepare:
    return art("UniversalPerturbation", norm="inf" if norm == "linf" else 2, eps=eps, one_hot=True, **settings)
