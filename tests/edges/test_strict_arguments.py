"""Arguments of the wrong kind are refused with a sentence that says what was expected."""

import pytest
import torch
from tests.helpers_core import Linear, pictures

import sparring as sp
from sparring.errors import InputError

NET = Linear(12, 3)
IMAGES = pictures(6, 1, 3, 4)
LABELS = NET(IMAGES).argmax(1)
THREAT = sp.ThreatModel("linf", 0.1)


@pytest.mark.parametrize("attacks", ["fgsm", sp.attacks.FGSM(), 3], ids=repr)
def test_attacks_are_a_list(attacks):
    for call in (sp.evaluate, sp.audit):
        with pytest.raises(InputError, match="attacks must be a list such as"):
            call(NET, IMAGES, LABELS, THREAT, attacks=attacks)
    with pytest.raises(InputError, match="attacks must be a list such as"):
        sp.robustness_curve(NET, IMAGES, LABELS, eps=[0.1], attacks=attacks)


@pytest.mark.parametrize("mark", ["0.5", True, -0.1, 1.1, float("nan"), [0.5]], ids=repr)
def test_the_pass_mark_is_a_number(mark):
    with pytest.raises(InputError, match="fail_under must be a number between 0 and 1"):
        sp.audit(NET, IMAGES, LABELS, THREAT, fail_under=mark)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"labels": LABELS.tolist()}, "labels must be a torch tensor"),
        ({"labels": LABELS[:4]}, "4 labels or targets for 6 images"),
        ({"labels": LABELS.float()}, "labels must hold integers"),
        ({"targets": LABELS[:4]}, "4 labels or targets for 6 images"),
        ({"targets": LABELS.tolist()}, "targets must be a torch tensor"),
        ({"images": IMAGES.numpy()}, "images must be a torch tensor"),
        ({"images": list(IMAGES)}, "images must be"),
        ({"eps": "8/255"}, "eps must be a list of budgets"),
        ({"eps": 0.1}, "eps must be a list of budgets"),
        ({"eps": None}, "eps must be a list of budgets"),
        ({"eps": []}, "eps is empty"),
        ({"eps": [0.1, -0.1]}, "eps must be >= 0"),
        ({"carry": "no"}, "carry must be True or False"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"bounds": (1, 0)}, "low < high"),
    ],
    ids=str,
)
def test_a_curve_says_what_it_cannot_use(changes, said):
    arguments = {"model": NET, "images": IMAGES, "labels": LABELS, "eps": [0.1], **changes}
    with pytest.raises(InputError, match=said):
        sp.robustness_curve(**arguments)


def test_a_curve_of_a_targeted_attacker():
    targets = (LABELS + 1) % 3
    towards = sp.robustness_curve(NET, IMAGES, LABELS, eps=[0.0, 0.05, 1.0], targets=targets)
    any_wrong = sp.robustness_curve(NET, IMAGES, LABELS, eps=[0.0, 0.05, 1.0])
    assert towards.accuracy[0] == any_wrong.accuracy[0] == 1
    assert all(t >= u for t, u in zip(towards.accuracy, any_wrong.accuracy, strict=True))
    stuck = sp.robustness_curve(NET, IMAGES, LABELS, eps=[1.0], targets=LABELS)
    assert stuck.accuracy == (1.0,)


def test_a_curve_tells_how_far_it_is():
    told = []
    sp.robustness_curve(NET, IMAGES, LABELS, eps=[0.0, 0.01, 5.0], progress=told.append)
    assert [event.done for event in told] == sorted(event.done for event in told)
    assert told[-1].done == told[-1].total == 4 * len(IMAGES), (
        "three budgets, halved twice, and twice for what is confirmed"
    )
    assert [event.done for event in told].count(told[-1].total) == 1
    assert torch.tensor([event.total for event in told]).unique().tolist() == [4 * len(IMAGES)]
