"""Model and images on another device than the CPU: who moves what, and what is said where nobody does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.helpers_core import pictures, small_net
from tests.helpers_device import Away, far_device
from torch import Tensor, nn

import sparring as sp
from sparring.attacks import PGD, parse
from sparring.errors import InputError, ModelError
from sparring.model import device_of, model_digest

THREAT = sp.ThreatModel("linf", 0.4)


@pytest.fixture
def case() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    net, images = small_net().eval(), pictures(8, 1, 8, 8)
    return net, images, net(images).argmax(1)


def verdicts(evaluation: sp.Evaluation) -> list[tuple[object, ...]]:
    return [(r.prediction, r.broken_by, r.forwards, r.backwards) for r in evaluation.records]


def test_the_device_of_a_callable_is_that_of_the_images(case: tuple[nn.Module, Tensor, Tensor]) -> None:
    net, images, _ = case
    with far_device() as device:
        assert device_of(net, images.to(device)).type == "cpu"
        assert device_of(net.to(device), images).type == device.type
        for plain in (lambda x: x, nn.Flatten()):
            assert device_of(plain).type == "cpu"
            assert device_of(plain, images).type == "cpu"
            assert device_of(plain, images.to(device)).type == device.type


def test_goals_move(case: tuple[nn.Module, Tensor, Tensor]) -> None:
    *_, labels = case
    with far_device() as device:
        for goal in (sp.Untargeted(labels), sp.Targeted(labels), sp.Targeted(labels, labels.flip(0))):
            moved = goal.to(device)
            assert type(moved) is type(goal)
            assert isinstance(moved.reference, Away)
            assert torch.equal(moved.to("cpu").reference, goal.reference)
        assert isinstance(sp.Targeted(labels, labels).to(device).leaving, Away)


@pytest.mark.parametrize("images_too", [False, True], ids=["images here", "images there"])
@pytest.mark.parametrize("targeted", [False, True])
def test_an_evaluation_moves_the_images_to_the_model(
    case: tuple[nn.Module, Tensor, Tensor], images_too: bool, targeted: bool, tmp_path: Path
) -> None:
    net, images, labels = case
    targets = (labels + 1) % 10 if targeted else None
    attacks = ["fgsm", "pgd:steps=5,restarts=2", "random_noise"]
    expected = sp.evaluate(net, images, labels, THREAT, attacks=attacks, targets=targets)
    with far_device() as device:
        net, given = net.to(device), images.to(device) if images_too else images
        for _ in range(2):  # the second time from the records
            found = sp.evaluate(net, given, labels, THREAT, attacks=attacks, targets=targets, out=tmp_path)
            assert verdicts(found) == verdicts(expected)
        assert all(found.adversarials[i].device.type == "cpu" for i in found.adversarials)


def test_a_plain_callable_is_attacked_where_its_images_are(
    case: tuple[nn.Module, Tensor, Tensor], tmp_path: Path
) -> None:
    net, images, labels = case
    expected = sp.evaluate(lambda x: net(x), images, labels, THREAT, attacks=["pgd:steps=5"])
    with far_device() as device:
        net = net.to(device)
        for out in (None, tmp_path):
            found = sp.evaluate(lambda x: net(x), images.to(device), labels, THREAT, attacks=["pgd:steps=5"], out=out)
            assert verdicts(found) == verdicts(expected)
        with pytest.raises(ModelError, match="same device"):
            sp.evaluate(lambda x: net(x), images, labels, THREAT, attacks=["pgd:steps=5"])


@pytest.mark.parametrize(
    "text", ["fgsm", "pgd:steps=4,restarts=2", "mifgsm:steps=4", "bim:steps=4", "random_noise:draws=3"]
)
@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
def test_a_direct_call_works_where_model_and_images_are(
    case: tuple[nn.Module, Tensor, Tensor], text: str, norm: str
) -> None:
    net, images, labels = case
    attack, threat = parse(text), sp.ThreatModel(norm, {"linf": 0.1, "l2": 0.5, "l1": 2.0, "l0": 3}[norm])
    expected = attack(net, images, sp.Untargeted(labels), threat)
    with far_device() as device:
        found = attack(net.to(device), images.to(device), sp.Untargeted(labels), threat)
        assert isinstance(found, Away)
        assert torch.equal(found.cpu(), expected)


def test_a_direct_call_moves_no_images(case: tuple[nn.Module, Tensor, Tensor]) -> None:
    net, images, labels = case
    with far_device() as device:
        with pytest.raises(InputError, match=r"images are on lazy:0, the model is on cpu: pass images.to\('cpu'\)"):
            PGD(steps=2)(net, images.to(device), sp.Untargeted(labels), THREAT)
        with pytest.raises(InputError, match=r"images are on cpu, the model is on lazy:0"):
            PGD(steps=2)(net.to(device), images, sp.Untargeted(labels), THREAT)


@pytest.mark.parametrize("images_too", [False, True], ids=["images here", "images there"])
def test_an_audit_and_a_single_image_follow_the_model(
    case: tuple[nn.Module, Tensor, Tensor], images_too: bool, tmp_path: Path
) -> None:
    net, images, labels = case
    with far_device() as device:
        net, given = net.to(device), images.to(device) if images_too else images
        report = sp.audit(net, given, labels, THREAT, attacks=["pgd:steps=3"], out=tmp_path)
        assert report.complete
        assert report.attacker.compute.startswith("lazy:0")
        assert report.pictures
        report.save(tmp_path / "report.html")
        exhibit = sp.attack_image(net, given[:1], THREAT, PGD(steps=5))
        exhibit.save(tmp_path / "one")


def test_float64_from_end_to_end(case: tuple[nn.Module, Tensor, Tensor], tmp_path: Path) -> None:
    net, images, labels = case
    net, images = net.double(), images.double()
    for _ in range(2):
        found = sp.evaluate(net, images, labels, THREAT, attacks=["pgd:steps=5"], out=tmp_path)
    assert found.adversarials[next(iter(found.adversarials))].dtype == torch.float64
    assert sp.audit(net, images, labels, THREAT, attacks=["pgd:steps=3"]).complete
    exhibit = sp.attack_image(net, images[:1], THREAT, PGD(steps=5))
    assert exhibit.adversarial.dtype == torch.float64
    assert model_digest(net, (1, 8, 8), like=images) == model_digest(net, (1, 8, 8), like=images[:1])


def test_numbers_of_two_kinds_are_explained(case: tuple[nn.Module, Tensor, Tensor]) -> None:
    net, images, labels = case
    net = net.double()
    with pytest.raises(ModelError, match=r"computes in float64, the images are float32.*model.to\(torch.float32\)"):
        sp.evaluate(net, images, labels, THREAT, attacks=["fgsm"])
    with pytest.raises(ModelError, match=r"images.to\(torch.float32\)"):
        sp.evaluate(net.float(), images.double(), labels, THREAT, attacks=["fgsm"])
    with pytest.raises(ModelError, match=r"computes in float16") as caught:
        sp.evaluate(net.half(), images, labels, THREAT, attacks=["fgsm"])
    assert "images.to" not in str(caught.value)  # images in half precision are refused
    with pytest.raises(ModelError) as caught:  # another failure is not blamed on the numbers
        sp.evaluate(net.float(), pictures(4, 1, 9, 9), labels[:4], THREAT, attacks=["fgsm"])
    assert "computes in" not in str(caught.value)
