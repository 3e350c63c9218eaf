"""The other libraries' FGSM and PGD behind one signature, with the work-arounds they need.

    python bench/peers.py      # runs every peer on a toy model and says what works

A contestant is `prepare(model) -> attack(images, labels, batch) -> adversarials`; what is done in
`prepare` is not timed. All take the same eps, step size, steps and a uniform random start.
"""

from __future__ import annotations

import sys
import types
import warnings
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec

import torch
from torch import Tensor, nn

Attack = Callable[[Tensor, Tensor, int], Tensor]
Prepare = Callable[[nn.Module], Attack]

EPS, STEPS, STEP_SIZE = 0.1, 40, 0.01
PACKAGES = ("foolbox", "torchattacks", "adversarial-robustness-toolbox", "adv-lib", "pyautoattack")


def in_batches(attack: Callable[[Tensor, Tensor], Tensor]) -> Attack:
    def run(images: Tensor, labels: Tensor, batch: int) -> Tensor:
        pairs = zip(images.split(batch), labels.split(batch), strict=True)
        return torch.cat([attack(x, y).detach() for x, y in pairs])

    return run


# --- foolbox ---------------------------------------------------------------


def _foolbox(make: Callable[[], object]) -> Prepare:
    def prepare(model: nn.Module) -> Attack:
        import foolbox

        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
        attack = make()
        return in_batches(lambda x, y: attack(wrapped, x, y, epsilons=EPS)[1])

    return prepare


def foolbox_fgsm() -> Prepare:
    from foolbox.attacks import LinfFastGradientAttack

    return _foolbox(lambda: LinfFastGradientAttack(random_start=False))


def foolbox_pgd(steps: int = STEPS) -> Prepare:
    from foolbox.attacks import LinfPGD

    return _foolbox(lambda: LinfPGD(abs_stepsize=STEP_SIZE, steps=steps, random_start=True))


# --- torchattacks ----------------------------------------------------------


def torchattacks_fgsm() -> Prepare:
    import torchattacks

    return lambda model: in_batches(torchattacks.FGSM(model, eps=EPS))


def torchattacks_pgd(steps: int = STEPS) -> Prepare:
    import torchattacks

    return lambda model: in_batches(torchattacks.PGD(model, eps=EPS, alpha=STEP_SIZE, steps=steps, random_start=True))


# --- adversarial-robustness-toolbox ----------------------------------------


def _art(make: Callable[[object, int], object]) -> Prepare:
    def prepare(model: nn.Module) -> Attack:
        from art.estimators.classification import PyTorchClassifier

        classifier = PyTorchClassifier(
            model,
            loss=nn.CrossEntropyLoss(),
            input_shape=(1, 28, 28),
            nb_classes=10,
            clip_values=(0.0, 1.0),
            device_type="cpu",
        )

        def run(images: Tensor, labels: Tensor, batch: int) -> Tensor:
            return torch.from_numpy(make(classifier, batch).generate(images.numpy(), labels.numpy()))

        return run

    return prepare


def art_fgsm() -> Prepare:
    from art.attacks.evasion import FastGradientMethod

    return _art(lambda classifier, batch: FastGradientMethod(classifier, eps=EPS, batch_size=batch))


def _art_pgd(name: str, steps: int) -> Prepare:
    from art.attacks import evasion

    def make(classifier: object, batch: int) -> object:
        return getattr(evasion, name)(
            classifier,
            eps=EPS,
            eps_step=STEP_SIZE,
            max_iter=steps,
            num_random_init=1,
            batch_size=batch,
            verbose=False,
        )

    return _art(make)


def art_pgd(steps: int = STEPS) -> Prepare:
    """The class ART's documentation names; for a PyTorch model it runs ART's PyTorch version."""
    return _art_pgd("ProjectedGradientDescent", steps)


def art_pgd_numpy(steps: int = STEPS) -> Prepare:
    return _art_pgd("ProjectedGradientDescentNumpy", steps)


# --- adversarial-library ---------------------------------------------------


def _stub_missing(name: str, **attributes: object) -> None:
    """adv-lib imports torchvision and visdom at the top of files whose other parts we call; neither is used."""
    if find_spec(name) is None and name not in sys.modules:
        module = types.ModuleType(name)
        module.__dict__.update(attributes)
        sys.modules[name] = module


def advlib(name: str) -> Callable[..., Tensor]:
    """One function of adversarial-library."""
    stubbed = set(sys.modules)
    _stub_missing("torchvision", models=types.ModuleType("torchvision.models"))
    _stub_missing("visdom", Visdom=None)
    try:
        import adv_lib.attacks
    finally:  # others probe for torchvision by importing it: leave no stub behind
        for module in {"torchvision", "visdom"} - stubbed:
            if getattr(sys.modules.get(module), "__file__", None) is None:
                sys.modules.pop(module, None)
    return getattr(adv_lib.attacks, name)


def advlib_pgd(steps: int = STEPS) -> Prepare:
    attack = advlib("pgd_linf")
    return lambda model: in_batches(
        lambda x, y: attack(model, x, y, EPS, steps=steps, random_init=True, absolute_step_size=STEP_SIZE)
    )


# --- pyautoattack ----------------------------------------------------------


def autoattack_apgd(steps: int = STEPS) -> Prepare:
    """Not FGSM or PGD, and not judged: APGD-CE stands for the package in the check below."""

    def prepare(model: nn.Module) -> Attack:
        from pyautoattack import AutoAttack

        attack = AutoAttack(model, norm="Linf", eps=EPS, version="custom", attacks=["apgd-ce"], seed=0)
        attack.apgd.n_iter = steps
        return lambda images, labels, batch: attack.run_standard_evaluation(images, labels, batch_size=batch)[0]

    return prepare


FGSM = {"foolbox": foolbox_fgsm, "torchattacks": torchattacks_fgsm, "ART": art_fgsm}
PGD = {
    "foolbox": foolbox_pgd,
    "torchattacks": torchattacks_pgd,
    "ART": art_pgd,
    "ART (numpy)": art_pgd_numpy,
    "adv-lib": advlib_pgd,
}
# The peers that the PGD target names; the others are shown beside them.
JUDGED = ("foolbox", "torchattacks", "ART", "ART (numpy)")


def versions() -> dict[str, str]:
    return {name: version(name) for name in (*PACKAGES, "torch", "numpy")}


def main() -> int:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10)).eval()
    images, failures = torch.rand(12, 1, 28, 28), 0
    labels = model(images).argmax(1)
    table = {f"{name} FGSM": make for name, make in FGSM.items()}
    table |= {f"{name} PGD": make for name, make in PGD.items()} | {"pyautoattack APGD-CE": autoattack_apgd}
    for name, make in table.items():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                adversarials = make()(model)(images, labels, 5)
            except Exception as error:  # noqa: BLE001 - a check of strangers' code: say what broke, go on
                print(f"{name:24} FAILED {type(error).__name__}: {error}")
                failures += 1
                continue
        distance = float((adversarials.double() - images.double()).abs().max())
        left = int((model(adversarials).argmax(1) == labels).sum())
        said = "; ".join(sorted({f"{w.category.__name__}: {str(w.message)[:70]}" for w in caught}))
        print(f"{name:24} ok  {left:2d}/12 left, distance {distance:.9f}, {adversarials.dtype}  {said}")
    print(", ".join(f"{name} {number}" for name, number in versions().items()))
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
