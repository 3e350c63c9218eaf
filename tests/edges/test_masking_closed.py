"""Models that record no gradient: what runs under no_grad is opened, what cannot be opened stops nothing."""

import pytest
import torch
from torch import nn

import sparring as sp
from sparring.auditing.preflight import preflight
from sparring.black_box import BlackBox
from sparring.diagnosis.repair import margin_left, repaired

THREAT = sp.ThreatModel("linf", 0.15)


@pytest.fixture(scope="module")
def data():
    images, labels = sp.load_data("digits", n=16)
    return images[0:16], labels


@pytest.fixture(scope="module")
def net():
    return sp.load_model("digits-cnn")


class Closed(nn.Module):
    """Records nothing; `change` happens to the images before the net."""

    def __init__(self, net, guard=torch.no_grad, change=lambda x: x):
        super().__init__()
        self.net, self.guard, self.change = net, guard, change

    def forward(self, x):
        with self.guard():
            return self.net(self.change(x))


@pytest.mark.parametrize("change", [lambda x: x, lambda x: (128 * x).round() / 128])
def test_what_runs_under_no_grad_is_opened(net, data, change):
    model = Closed(net, change=change)
    repair = repaired(model, *data, THREAT)
    assert repair.own is None
    assert "'what runs under no_grad'" in str(repair) or "before net" in str(repair)
    assert repair.mended < margin_left(net, *data, THREAT) + 0.3
    with torch.no_grad():
        assert torch.equal(repair.model(data[0]), model(data[0]))
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("closed", [lambda net: Closed(net, torch.inference_mode), BlackBox], ids=["inference", "box"])
def test_what_cannot_be_opened_has_no_repair(net, data, closed):
    assert repaired(closed(net), *data, THREAT) is None


@pytest.mark.slow
@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
def test_an_audit_of_a_model_without_gradients_ends(net, data, guard):
    report = sp.audit(Closed(net, guard), *data, THREAT, effort="quick")
    assert "no-gradient" in {finding.code for finding in report.findings}
    if guard is torch.no_grad:
        assert report.believable
        assert report.evaluation.robust_accuracy.value <= sp.evaluate(net, *data, THREAT).robust_accuracy.value + 0.01


class Noisy(nn.Module):
    """A little noise on the logits, and something done to the image."""

    def __init__(self, net, change=lambda x: x):
        super().__init__()
        self.net, self.change = net, change

    def forward(self, x):
        logits = self.net(self.change(x))
        return logits + 0.01 * torch.randn_like(logits)


class Backward(torch.autograd.Function):
    """The identity, with a gradient that points the other way."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return -grad


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda x: x, set()),
        (Backward.apply, {"gradient-misleads"}),
        (lambda x: x + 0.01 * torch.sin(700 * x), {"gradient-misleads", "unstable-loss"}),
    ],
    ids=["honest", "backward", "shattered"],
)
def test_a_false_gradient_does_not_hide_behind_noise(net, data, change, told):
    ready = preflight(Noisy(net, change).eval(), *data, (0.0, 1.0))
    codes = {finding.code for finding in ready.findings}
    assert "random-outputs" in codes
    assert codes - {"random-outputs"} <= told
    assert bool(codes & told) == bool(told)


def test_noise_from_elsewhere_is_no_evidence_of_a_false_gradient(net, data):
    import numpy as np

    draw = np.random.default_rng(0)
    model = Noisy(lambda x: net(x) + 3 * torch.from_numpy(draw.normal(size=(len(x), 10))).to(x)).eval()
    codes = {finding.code for finding in preflight(model, *data, (0.0, 1.0)).findings}
    assert not codes & {"gradient-misleads", "unstable-loss"}
