"""NaN from the model in the middle of an attack is counted, once per point, and told."""

import pytest
import torch
from tests.edges.auditing_models import Around
from tests.helpers_core import Linear, pictures

import sparring as sp
from sparring.batching import Plan
from sparring.problem import Problem, added_up
from sparring.rng import Streams, digests

THREAT = sp.ThreatModel("linf", 0.2)


def problem(model, images, batch_size=4):
    labels = model(images).nan_to_num().argmax(1)
    streams = Streams(0, "test", digests(images))
    return Problem.build(model, images, sp.Untargeted(labels), THREAT, streams, Plan(batch_size, False))


class Shy(torch.nn.Module):
    """Answers NaN to images whose first number lies above 0.5."""

    def __init__(self):
        super().__init__()
        self.net = Linear(12, 3)

    def forward(self, x):
        return self.net(x).masked_fill((x.flatten(1)[:, :1] > 0.5), torch.nan)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_every_way_to_ask_counts_the_points_without_an_answer(batch_size):
    images = pictures(10, 1, 3, 4)
    silent = int((images.flatten(1)[:, 0] > 0.5).sum())
    assert 0 < silent < 10
    asked = problem(Shy(), images, batch_size)
    assert not asked.ledger.notes
    asked.logits(images)
    assert list(asked.ledger.notes) == [f"the model answered NaN to {silent} points the attack visited"]
    asked.gradient(images, "margin")
    told = [note for note in asked.ledger.notes if "visited" in note]
    assert told == [f"the model answered NaN to {2 * silent} points the attack visited"]
    keep = images.flatten(1)[:, 0] > 0.5
    asked.select(keep).logits(images[keep])
    assert asked.ledger.unanswered == 3 * silent
    asked.logits_at(images[keep].repeat(2, 1, 1, 1), torch.arange(silent).repeat(2))
    assert asked.ledger.unanswered == 5 * silent


def test_a_model_that_answers_leaves_no_note():
    asked = problem(Linear(12, 3), pictures(5, 1, 3, 4))
    asked.logits(asked.images)
    asked.gradient(asked.images, "margin")
    assert asked.ledger.notes == {}


def test_infinity_is_an_answer():
    model = Around(Linear(12, 3), after=lambda z: z.masked_fill(z < 0, -torch.inf))
    asked = problem(model, pictures(5, 1, 3, 4))
    asked.logits(asked.images)
    assert asked.ledger.unanswered == 0


def test_an_evaluation_adds_up_the_chunks():
    images = pictures(2100, 1, 3, 4)  # three chunks
    images[:, 0, 0, 0] = images[:, 0, 0, 0] * 0.4
    model = Shy()
    labels = model(images).argmax(1)
    found = sp.evaluate(model, images, labels, THREAT, attacks=["random_noise:draws=3"])
    (note,) = [note for note in found.stages[0].notes if "visited" in note]
    assert note.startswith("the model answered NaN to ")
    assert int(note.split()[5]) > 10


def test_notes_are_added_up_only_where_they_count_answers():
    notes = ["DLR needs 3 classes", "the model answered NaN to 2 points", "DLR needs 3 classes", "a 1", "a 2"]
    assert added_up([*notes, "the model answered NaN to 5 points"]) == (
        "DLR needs 3 classes",
        "the model answered NaN to 7 points",
        "a 1",
        "a 2",
    )
    assert added_up([]) == ()
