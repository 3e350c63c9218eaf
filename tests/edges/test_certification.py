"""What certificates refuse, and how they are shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.helpers_core import digits, forked_seed, pictures, small_net
from torch import Tensor, nn
from typer.testing import CliRunner

import sparring as sp
from sparring.certification import Smoothing
from sparring.cli import app
from sparring.defenses import Stack
from sparring.defenses import transforms as t
from sparring.errors import UnsupportedError
from sparring.hardening.draws import Draws
from sparring.hardening.method import Batch
from sparring.hardening.methods.gaussian import Gaussian
from sparring.reports.certificates import html

LABELS = torch.zeros(2, dtype=torch.int64)


class Named(nn.Module):
    """A model with a part that happens to be called a stack."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.stack(x)


def test_a_stack_is_refused_and_a_part_of_that_name_is_not() -> None:
    images, threat = pictures(2, 1, 4, 4), sp.ThreatModel("linf", 0.01)
    assert len(sp.certify(Named().eval(), images, LABELS, threat, method="ibp").certified) == 2
    guarded = Stack(Named().eval(), [t.BitDepth(bits=4)]).as_model()
    for method in ("ibp", "crown", "lipschitz"):
        with pytest.raises(UnsupportedError, match="stack"):
            sp.certify(guarded, images, LABELS, threat, method=method)


def test_the_command_shows_numbers_chart_and_images(tmp_path: Path) -> None:
    page, plain = tmp_path / "c.html", tmp_path / "c.json"
    asked = ["certify", "-m", "digits-cnn", "--eps", "0.01", "-n", "6", "--radius", "--work", "0", "--bracket"]
    done = CliRunner().invoke(app, [*asked, "--report", str(page), "--report", str(plain)])
    assert done.exit_code == 0, done.output
    found, text = json.loads(plain.read_text()), page.read_text()
    assert [row["label"] for row in found["images"]] == sp.load_data("digits", n=6)[1].tolist()
    assert "interval bounds are kept at" in found["notes"][0]
    assert found["notes"][0] in text
    assert all(low["certified"] <= low["attacked"] for low in found["bracket"])
    assert text.count("<svg") == 1
    assert text.count("<tr>") == 2 + 1 + 9 + 1 + 6 + (1 if "radius, median" in text else 0)
    assert "digits-cnn on digits" in text
    assert "does not cover a stack" in text
    assert "<script" not in text


def test_a_page_escapes_names_and_a_smoothed_model_says_so() -> None:
    images = pictures(3, 1, 4, 4)
    how = Smoothing(sigma=0.5, n0=10, n=100, alpha=0.01)
    labels = torch.zeros(3, dtype=torch.int64)
    proof = sp.certify(Named().eval(), images, labels, sp.ThreatModel("l2", 0.1), method="smoothing", smoothing=how)
    text = html(proof, [], model="<b>net</b>", data="d", eps="0.1")
    assert "&lt;b&gt;net" in text
    assert "<b>net" not in text
    assert "the smoothed model" in text
    assert "largest radius that can be shown" in text
    assert "abstained" in text


def test_a_radius_reaches_twice_the_budget_where_it_can() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    net[1].weight.data = torch.stack([torch.ones(16), -torch.ones(16)])
    net[1].bias.data.zero_()
    images, labels = torch.full((2, 1, 4, 4), 0.5), torch.zeros(2, dtype=torch.int64)
    proof = sp.certify(net, images, labels, sp.ThreatModel("linf", 0.1), radius=3)
    assert proof.radius is not None
    assert proof.radius.tolist() == pytest.approx([0.2, 0.2])
    assert proof.certified_at(0.2).value == 1


@pytest.mark.parametrize("norm", ["l1", "l0"])
def test_norms_without_bounds_are_named(norm: str) -> None:
    with pytest.raises(UnsupportedError, match=norm):
        sp.certify(Named().eval(), pictures(2, 1, 4, 4), LABELS, sp.ThreatModel(norm, 1))


def test_noise_while_it_learns_is_borne_better() -> None:
    """At a noise that takes a plainly trained net half of its accuracy."""
    images, labels = digits()
    x, y, g = images[1200:1500], labels[1200:1500], torch.Generator().manual_seed(1)
    noisy = x + 0.6 * torch.randn(x.shape, generator=g)
    right = []
    for method in ("clean", "gaussian:sigma=0.6"):
        with forked_seed(0):
            net = small_net()
        data, threat = (images[:1200], labels[:1200]), sp.ThreatModel("l2", 0.25)
        done = sp.harden(net, data, threat, method=method, epochs=40, lr=5e-3, seed=0, effort=None)
        with torch.no_grad():
            right.append(float((done.model(noisy).argmax(1) == y).float().mean()))
    assert right[1] > right[0] + 0.1


def test_noise_is_fresh_in_every_step_and_leaves_the_box() -> None:
    seen: list[Tensor] = []
    model = Named().train()
    model.register_forward_hook(lambda _module, given, _output: seen.append(given[0].detach()))
    images = pictures(2, 1, 4, 4)
    for seed in (0, 1):
        batch = Batch(model, model, images, LABELS, sp.ThreatModel("l2", 0.5), Draws(2, seed))
        method = Gaussian(sigma=2.0)
        method.loss(batch, method.craft(batch))
    assert not torch.equal(seen[0], seen[1])
    assert float(seen[0].min()) < 0
    assert 1.0 < float((seen[0] - images).std()) < 3.0
