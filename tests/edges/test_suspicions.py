"""Probabilities and random answers are noticed by a glance at a few images; honest models are not suspected."""

import pytest
import torch
from tests.edges.auditing_models import Around, Counted
from tests.helpers_core import Linear, pictures

import sparring as sp
from sparring.evaluation.suspicions import ASKED_TWICE, look_like_probabilities, relative_change

NET = Linear(12, 3)
IMAGES = pictures(40, 1, 3, 4)
NAN, INF = torch.nan, torch.inf


def warnings(model, images=IMAGES):
    labels = NET(images).argmax(1)
    return sp.evaluate(model, images, labels, sp.ThreatModel("linf", 0.0), attacks=["random_noise:draws=1"]).warnings


def test_an_honest_model_is_not_suspected():
    assert warnings(NET) == ()
    assert warnings(NET, IMAGES[:1]) == ()


def test_it_asks_little_and_counts_it():
    model = Counted(NET)
    evaluation = sp.evaluate(
        model, IMAGES, (NET(IMAGES).argmax(1) + 1) % 3, sp.ThreatModel("linf", 0), attacks=["fgsm"]
    )
    assert sum(record.forwards for record in evaluation.records) == len(IMAGES) + ASKED_TWICE
    assert model.asked - sum(record.forwards for record in evaluation.records) <= 1, "one to learn its device and speed"
    assert not any(record.attacked for record in evaluation.records), "all were wrong to begin with"
    assert evaluation.attack_success_rate.n == 0


def test_a_resumed_evaluation_still_warns(tmp_path):
    model, labels = Around(NET, after=lambda z: z.softmax(1)), NET(IMAGES).argmax(1)
    for _ in range(2):
        result = sp.evaluate(model, IMAGES, labels, sp.ThreatModel("linf", 0), attacks=["fgsm"], out=tmp_path)
        assert "returns probabilities" in result.warnings[0]


@pytest.mark.parametrize("temper", [1.0, 0.01, 100.0])
def test_probabilities_are_noticed(temper):
    (warning,) = warnings(Around(NET, after=lambda z: (temper * z).softmax(1)))
    assert "returns probabilities" in warning
    assert "OutputAdapter" in warning


@pytest.mark.parametrize(
    "after",
    [lambda z: z.log_softmax(1), lambda z: z.sigmoid(), lambda z: 2 * z.softmax(1), lambda z: z.softmax(1) - 0.1],
)
def test_what_merely_resembles_probabilities_is_not(after):
    assert warnings(Around(NET, after=after)) == ()


def test_random_answers_are_noticed():
    (warning,) = warnings(Around(NET, before=lambda x: x + 0.01 * torch.randn_like(x)))
    assert "the model is random" in warning
    both = warnings(Around(NET, before=lambda x: x + torch.randn_like(x), after=lambda z: z.softmax(1)))
    assert len(both) == 2


def test_rounding_is_not_randomness():
    calls = iter(range(100))
    assert warnings(Around(NET, after=lambda z: z * (1 + 1e-6 * next(calls)))) == ()


@pytest.mark.parametrize(
    ("first", "second", "change"),
    [
        ([1.0, -INF], [1.0, -INF], 0.0),
        ([1.0, NAN], [1.0, NAN], 0.0),
        ([2.0, 0.0], [2.0, 1.0], 0.5),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([1.0, NAN], [NAN, 1.0], INF),
        ([1.0, INF], [1.0, -INF], INF),
        ([1.0, INF], [1.0, 3.0], INF),
    ],
)
def test_change_is_measured_in_units_of_the_largest_logit(first, second, change):
    assert relative_change(torch.tensor([first]), torch.tensor([second])) == change


def test_probabilities_by_definition():
    assert look_like_probabilities(torch.tensor([[0.2, 0.8], [1.0, 0.0]]))
    assert not look_like_probabilities(torch.tensor([[0.2, 0.8], [1.0, 0.1]]))
    assert not look_like_probabilities(torch.tensor([[1.2, -0.2]]))
    assert not look_like_probabilities(torch.tensor([[NAN, 1.0]]))
