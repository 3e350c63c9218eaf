"""First-order, curvature, Lipschitz and bias figures against closed forms on linear and quadratic models."""

import math

import pytest
import torch
from torch import nn

import sparring as sp
from sparring.diagnosis.health import compared, health, parameter_gradient, saturated, training_bias
from sparring.diagnosis.landscape import directions, landscape
from sparring.diagnosis.lipschitz import chain, operator_norm, sensitivity
from sparring.diagnosis.taylor import curvature_along, first_order, top_curvature

CLOSE = 1e-5


@pytest.fixture
def linear():
    generator = torch.Generator().manual_seed(1)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).double()
    with torch.no_grad():
        net[1].weight.copy_(torch.randn(3, 12, generator=generator, dtype=torch.float64))
        net[1].bias.zero_()
    return net


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(2)
    return 0.4 + 0.2 * torch.rand(6, 1, 3, 4, generator=generator, dtype=torch.float64)


class Quadratic(nn.Module):
    """Two logits: x'Ax / 2 + b'x, and 0. The margin loss of class 1 is the first."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        half = torch.randn(12, 12, generator=generator, dtype=torch.float64)
        self.matrix = nn.Parameter(half + half.T)
        self.slope = nn.Parameter(torch.randn(12, generator=generator, dtype=torch.float64))

    def forward(self, x):
        flat = x.flatten(1)
        value = (flat @ self.matrix * flat).sum(1) / 2 + flat @ self.slope
        return torch.stack([value, torch.zeros_like(value)], 1)


def close(a, b):
    return abs(float(a) - float(b)) <= CLOSE * max(1.0, abs(float(b)))


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2), ("l1", math.inf)])
def test_the_margin_of_a_linear_model_is_its_own_first_order_line(linear, images, norm, dual):
    labels = linear(images).argmin(1)
    threat = sp.ThreatModel(norm, 0.02)
    found = first_order(linear, images, labels, threat, loss="margin", top=2)
    with torch.no_grad():
        logits = linear(images)
    for line in found.lines:
        i, y = line.index, int(labels[line.index])
        lead = linear[1].weight[int(logits[i].argmax())] - linear[1].weight[y]
        at = line.eps.index(0.02)
        promised = float(lead.detach().norm(p=dual)) * 0.02
        assert close(line.unclipped[at], line.true[0] + promised)
        assert close(line.true[at], line.clipped[at])
        assert close(line.gap, 0)
        assert close(line.curvature, 0)
        assert line.top is None or close(line.top, 0)


def test_the_box_takes_its_share_of_the_clipped_step(linear):
    images = torch.zeros(1, 1, 3, 4, dtype=torch.float64)  # only upwards
    labels = torch.tensor([0])
    with torch.no_grad():
        linear[1].bias.copy_(torch.tensor([1.0, 0.0, 0.5]))
    line = first_order(linear, images, labels, sp.ThreatModel("linf", 0.1), loss="margin", top=0).lines[0]
    with torch.no_grad():
        logits = linear(images)
    rival = 1 + int(logits[0, 1:].argmax())
    lead = (linear[1].weight[rival] - linear[1].weight[0]).detach()
    at = line.eps.index(0.1)
    assert close(line.clipped[at] - line.true[0], 0.1 * float(lead.clamp_min(0).sum()))
    assert line.clipped[at] < line.unclipped[at]


def test_curvature_of_a_quadratic_is_that_of_its_matrix(images):
    net, labels = Quadratic(), torch.ones(6, dtype=torch.int64)
    matrix = net.matrix.detach()
    threat = sp.ThreatModel("l2", 0.05)
    found = first_order(net, images, labels, threat, loss="margin", top=0)
    grad = images.flatten(1) @ matrix + net.slope.detach()
    step = 0.05 * grad / grad.norm(dim=1, keepdim=True)
    for line in found.lines:
        d = step[line.index]
        assert close(line.curvature, d @ matrix @ d / (d @ d))
        assert close(line.gap, d @ matrix @ d / 2)
    tops = top_curvature(net, images, labels, "margin", iterations=2000)
    largest = torch.linalg.eigvalsh(matrix)
    expected = largest[largest.abs().argmax()]
    assert all(close(value, expected) for value in tops)
    along = torch.ones_like(images)
    assert close(curvature_along(net, images, labels, "margin", along)[0], matrix.sum() / 12)


def test_lipschitz_bounds_of_a_linear_model(linear, images):
    labels = torch.zeros(6, dtype=torch.int64)
    found = sensitivity(linear, images, labels, sp.ThreatModel("l2", 0.1))
    weight = linear[1].weight.detach()
    lower = max(float((weight[0] - weight[j]).norm()) for j in (1, 2))
    assert all(close(value, lower) for value in found.lower)
    upper = math.sqrt(2) * float(torch.linalg.matrix_norm(weight, 2))
    assert close(found.upper, upper)
    assert close(found.ratio, upper / lower)
    assert found.stretches == "1"


@pytest.mark.parametrize("options", [{"padding": 1}, {"stride": 2}, {"padding": 2, "dilation": 2}])
def test_the_norm_of_a_convolution_is_that_of_its_matrix(options):
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 3, 3, **options).double()
    columns = torch.eye(2 * 6 * 6, dtype=torch.float64).view(-1, 2, 6, 6)
    matrix = (layer(columns) - layer(torch.zeros_like(columns[:1]))).flatten(1).detach()
    assert close(operator_norm(layer, (2, 6, 6)), torch.linalg.matrix_norm(matrix, 2))


def test_a_model_whose_operations_are_not_known_has_no_upper_bound(images):
    found = sensitivity(Quadratic(), images, torch.ones(6, dtype=torch.int64), sp.ThreatModel("l2", 0.1))
    assert found.upper is None
    assert "layer" in found.why
    with pytest.raises(ValueError, match="layers"):
        chain(lambda x: x, images[0])


class Residual(nn.Module):
    """z = W (x + V x): no chain, and its graph of operations is known."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(4)
            self.inner, self.last = nn.Linear(12, 12), nn.Linear(12, 3)
        self.inner.weight.data *= 3

    def forward(self, x):
        flat = x.flatten(1)
        return self.last(flat + self.inner(flat))


def test_a_residual_model_is_bounded_by_its_graph(images):
    net = Residual().double()
    labels = net(images).argmax(1)
    found = sensitivity(net, images, labels, sp.ThreatModel("l2", 0.1))
    v, w = net.inner.weight.detach(), net.last.weight.detach()
    apart = max(float((w[i] - w[j]).norm()) for i in range(3) for j in range(3))
    assert found.upper == pytest.approx(apart * (1 + float(torch.linalg.matrix_norm(v, 2))), rel=1e-4)
    leads = w @ (torch.eye(12, dtype=v.dtype) + v)
    largest = max(float((leads[int(labels[i])] - leads[j]).norm()) for i in range(6) for j in range(3))
    assert close(max(found.lower), largest)
    assert not found.why
    assert found.stretches == "inner (Linear)"


def test_the_gradient_of_blocks_is_added_up_and_its_growth_is_a_power(images):
    images = images.repeat_interleave(2, 2)[:, :, :4]
    weight = torch.randn(16, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2, bias=False)).double()
    net[1].weight.data = torch.stack([weight, torch.zeros_like(weight)])
    found = sensitivity(net, images, torch.zeros(6, dtype=torch.int64), sp.ThreatModel("l2", 0.1))
    blocks = weight.view(2, 2, 2, 2).sum((1, 3))
    expected = {1: weight.sum().abs(), 4: blocks.abs().sum(), 16: weight.abs().sum()}
    assert [r.dimension for r in found.resolutions] == [1, 4, 16]
    assert [r.blocks for r in found.resolutions] == [True, True, False]
    assert all(close(r.l1, expected[r.dimension]) for r in found.resolutions)
    assert close(found.resolutions[1].l2, blocks.norm())
    net[1].weight.data = torch.stack([torch.ones_like(weight), torch.zeros_like(weight)])
    same = sensitivity(net, images, torch.zeros(6, dtype=torch.int64), sp.ThreatModel("l2", 0.1))
    assert abs(same.growth) < CLOSE, "a gradient of one sign is as large in blocks"
    net[1].weight.data[0] = (torch.arange(16) % 2 * 2 - 1) * torch.linspace(1, 1.1, 16)
    mixed = sensitivity(net, images, torch.zeros(6, dtype=torch.int64), sp.ThreatModel("l2", 0.1))
    assert mixed.growth > 1, "one of changing signs cancels out"
    wide = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2)).double()
    taken = sensitivity(wide, images, torch.zeros(6, dtype=torch.int64), sp.ThreatModel("l2", 0.1))
    assert [r.dimension for r in taken.resolutions] == [1, 4, 16, 64]
    assert not any(r.blocks for r in taken.resolutions)
    assert abs(taken.growth) < CLOSE


def test_flat_units_of_code_without_a_module_are_counted(images):
    class Code(nn.Module):
        def __init__(self, act):
            super().__init__()
            self.act, self.first, self.last = act, nn.Linear(12, 8), nn.Linear(8, 3)
            self.first.weight.data.normal_(generator=torch.Generator().manual_seed(0))

        def forward(self, x):
            return self.last(self.act(self.first(x.flatten(1))))

    labels = torch.zeros(6, dtype=torch.int64)
    for act, share in (
        (torch.relu, lambda h: h <= 0),
        (lambda h: nn.functional.hardtanh(h), lambda h: h.abs() >= 1),
        (torch.sign, lambda h: h == h),
    ):
        net = Code(act).double()
        expected = float(share(net.first(images.flatten(1))).double().mean())
        assert expected > 0
        (found,) = saturated(net, images, labels)
        assert (found.name, found.kind) == ("first to last", "code")
        assert close(found.share, expected)
    assert saturated(Code(torch.tanh).double(), images, labels) == ()


def test_parameter_gradient_and_bias_of_a_linear_model(linear, images):
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    mine = parameter_gradient(linear, images, labels)
    with torch.no_grad():
        off = torch.softmax(linear(images), 1) - torch.eye(3, dtype=torch.float64)[labels]
    weight = off.T @ images.flatten(1) / 6
    assert torch.allclose(mine, torch.cat([weight.flatten(), off.mean(0)]), atol=CLOSE)
    assert all(p.requires_grad and p.grad is None for p in linear.parameters())
    bias = compared(2 * mine, mine)
    assert close(bias.cosine, 1)
    assert close(bias.relative_norm, 2)
    two = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).double()  # its sign never changes, so one step is the best step
    same = training_bias(two, images, labels % 2, sp.ThreatModel("linf", 0.01))
    assert same is not None
    assert abs(same.cosine - 1) < CLOSE
    assert abs(same.relative_norm - 1) < CLOSE


def test_a_plane_holds_the_loss_at_its_points(linear, images):
    threat = sp.ThreatModel("linf", 0.05)
    label = torch.tensor(1)
    planes = directions(linear, images[0], label, threat, 0)
    assert close((planes[0] * planes[1]).sum(), 0)
    seen = landscape(linear, images[0], label, planes, (0.0, 1.0), side=5, reach=1.0)
    corner = images[:1] + planes[0] - planes[1]
    with torch.no_grad():
        logits = linear(corner.clamp(0, 1))
    assert close(seen.loss[0][4], nn.functional.cross_entropy(logits, label[None]))
    assert seen.classes[0][4] == int(logits.argmax())
    assert seen.loss[2][4] > seen.loss[2][0]


def test_scaled_logits_ask_for_another_loss_than_cross_entropy():
    net = sp.load_model("digits-cnn")
    images, labels = sp.load_data("digits", n=60)
    scaled = nn.Sequential(net, Times(1000.0))
    found = health(scaled, images[0:60], labels, sp.ThreatModel("linf", 0.1))
    plain = health(net, images[0:60], labels, sp.ThreatModel("linf", 0.1))
    assert found.zero > 0.5
    assert found.saturated_softmax > 0.9
    assert found.recommended_loss != "cross_entropy"
    assert plain.zero == 0
    assert plain.saturated_softmax < 0.1


class Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, logits):
        return self.factor * logits
