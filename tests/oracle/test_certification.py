"""Certificates against what is known exactly: recursion by hand, closed forms, mixed-integer programs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.helpers_certification import crown_by_hand, dense_net
from tests.helpers_core import Linear, digits, forked_seed, pictures, train
from torch import Tensor, nn

import sparring as sp
from sparring.certification import Smoothing, blocks, bounds, bracket, windows
from sparring.certification.bounds import intervals, lower_bound, margins, rivals, tightened
from sparring.certification.curves import SMOOTH, Curve
from sparring.certification.graph import trace
from sparring.certification.layers import Conv
from sparring.certification.lipschitz import conv_norm, lipschitz
from sparring.certification.region import Domain
from sparring.model import Normalised


@pytest.mark.parametrize("eps", [0.01, 0.05, 0.2])
def test_lines_equal_an_independent_recursion(eps: float) -> None:
    net, images = dense_net((16, 12, 10, 8, 4)), pictures(4, 1, 4, 4, dtype=torch.float64)
    labels = net(images).argmax(1)
    layers = trace(net, images).layers()
    domain = Domain.build(sp.ThreatModel("linf", eps), images)
    with torch.no_grad():
        plain = intervals(layers, domain)
        known = tightened(layers, domain)
        found = lower_bound(layers, known, len(layers) - 1, rivals(labels, 4, images), domain)
    for i in range(len(images)):
        rows = rivals(labels[i : i + 1], 4, images)[0].numpy()
        theirs = crown_by_hand(net, images[i], eps, rows)
        assert np.abs(found[i].numpy() - theirs).max() < 1e-5
    assert all(
        bool((a[0] <= b[0] + 1e-9).all() and (a[1] >= b[1] - 1e-9).all()) for a, b in zip(plain, known, strict=True)
    )


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(
    ("one", "two"), [((3, 2, 1), (3, 1, 1)), ((4, 2, 1), (4, 2, 1)), ((3, 1, 0), (5, 3, 2)), ((5, 1, 2), (3, 2, 0))]
)
def test_a_window_of_the_picture_says_as_much_as_the_whole(
    norm: str, one: tuple[int, int, int], two: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second convolution's bounds by way of windows, beside those by way of all pixels."""
    images = pictures(3, 2, 13, 11, dtype=torch.float64)
    with forked_seed(1):
        net = nn.Sequential(nn.Conv2d(2, 4, *one), nn.ReLU(), nn.Conv2d(4, 5, *two), nn.ReLU(), nn.Flatten()).double()
    scaled = Normalised(net, 0.4, 0.3).eval()
    for model in (net, scaled):
        layers = trace(model, images).layers()
        domain = Domain.build(sp.ThreatModel(norm, 0.05 if norm == "linf" else 0.5), images)
        place = [i for i, layer in enumerate(layers) if isinstance(layer, Conv)][1]
        found = windows.windowed(layers, place, norm)
        assert (found is None) is (model is scaled and norm == "l2")
        with torch.no_grad():
            near = tightened(layers, domain)[place]
            with monkeypatch.context() as patch:
                patch.setattr(windows, "windowed", lambda *_: None)
                whole = tightened(layers, domain)[place]
        open_ = (whole[0] < 0) & (whole[1] > 0)
        assert float(open_.double().mean()) > 0.05
        assert all(torch.allclose(a[open_], b[open_], atol=1e-7) for a, b in zip(near, whole, strict=True))


@pytest.mark.parametrize("pooled", [(1, 1), (2, 2), (2, 3)])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "side", "bias"),
    [(3, 1, 1, 12, True), (3, 2, 0, 13, True), (5, 1, 2, 12, False), (2, 2, 1, 10, True)],
)
def test_a_block_passed_at_once_is_its_layers_passed_in_turn(
    kernel: int, stride: int, padding: int, side: int, bias: bool, pooled: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    images, threat = pictures(3, 2, side, side, dtype=torch.float64), sp.ThreatModel("linf", 0.1)
    with forked_seed(3):
        conv = nn.Conv2d(2, 5, kernel, stride, padding, bias=bias)
        pool = [] if pooled == (1, 1) else [nn.MaxPool2d(pooled)]
        net = nn.Sequential(conv, nn.ReLU(), *pool, nn.Flatten(), nn.LazyLinear(6), nn.ReLU(), nn.Linear(6, 4))
        net(torch.zeros(1, 2, side, side))
    net = net.double().eval()
    layers, labels = trace(net, images).layers(), torch.tensor([0, 1, 2])
    domain, place = Domain.build(threat, images), 3 if pool else 2
    block = blocks.block_at(layers, place)
    assert block is not None
    assert block.pool is layers[place] or not pool
    assert blocks.block_at(layers, place - 1) is None or pool
    found = []
    for _ in range(2):
        with torch.no_grad():
            known = tightened(layers, domain)
            found.append([*known[-3], margins(layers, known, labels, domain, "crown")])
        monkeypatch.setattr(bounds, "block_at", lambda *_: None)
    assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(*found, strict=True))
    assert float((known[-3][0] < 0).double().mean()) > 0.2


def test_large_layers_keep_their_intervals_and_are_named() -> None:
    with forked_seed(4):
        net = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
        )
    images, threat = pictures(4, 1, 8, 8), sp.ThreatModel("linf", 0.05)
    labels = net(images).argmax(1)
    plain, lifted = (sp.certify(net, images, labels, threat, work=most) for most in (63, 64))
    assert "2 (Conv2d) (64 values); work=64" in plain.notes[0]
    assert not lifted.notes
    assert bool((lifted.lower > plain.lower).all())
    assert not sp.certify(net, images, labels, threat, method="crown-ibp", work=63).notes


def test_intervals_are_exact_on_a_monotone_net() -> None:
    net, images = dense_net((16, 12, 3)), pictures(5, 1, 4, 4, dtype=torch.float64)
    for layer in net:
        if isinstance(layer, nn.Linear):
            layer.weight.data.abs_()
    threat = sp.ThreatModel("linf", 0.1)
    layers = trace(net, images).layers()
    with torch.no_grad():
        low, high = intervals(layers, Domain.build(threat, images))[-1]
        region = threat.around(images)
        assert torch.allclose(low, net(region.lower), atol=1e-6)
        assert torch.allclose(high, net(region.upper), atol=1e-6)


def exact_radius(net: nn.Sequential, image: Tensor, label: int, rival: int, most: float) -> float:
    """The smallest linf change that makes `rival` win, by mixed-integer programming (Tjeng et al. 2019)."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    first, last = (m for m in net if isinstance(m, nn.Linear))
    w, b = first.weight.detach().numpy(), first.bias.detach().numpy()
    v = (last.weight[label] - last.weight[rival]).detach().numpy()
    c = float((last.bias[label] - last.bias[rival]).detach())
    x = image.flatten().numpy()
    d, h = len(x), len(b)
    low, high = np.maximum(x - most, 0), np.minimum(x + most, 1)
    mid, rad = w @ (low + high) / 2 + b, np.abs(w) @ (high - low) / 2
    down, up = np.minimum(mid - rad, -1e-6), np.maximum(mid + rad, 1e-6)
    # variables: x' (d), hidden (h), on (h), eps
    eye, zero = np.eye(d), np.zeros
    rows = [
        (np.hstack([eye, zero((d, 2 * h)), -np.ones((d, 1))]), -np.inf, x),
        (np.hstack([-eye, zero((d, 2 * h)), -np.ones((d, 1))]), -np.inf, -x),
        (np.hstack([-w, np.eye(h), zero((h, h + 1))]), b, np.inf),
        (np.hstack([-w, np.eye(h), -np.diag(down), zero((h, 1))]), -np.inf, b - down),
        (np.hstack([zero((h, d)), np.eye(h), -np.diag(up), zero((h, 1))]), -np.inf, 0),
        (np.concatenate([zero(d), v, zero(h + 1)])[None], -np.inf, -c),
    ]
    solved = milp(
        np.concatenate([zero(d + 2 * h), [1.0]]),
        constraints=[LinearConstraint(a, lo, hi) for a, lo, hi in rows],
        integrality=np.concatenate([zero(d + h), np.ones(h), [0]]),
        bounds=Bounds(
            np.concatenate([low, zero(2 * h + 1)]), np.concatenate([high, np.full(h, np.inf), np.ones(h), [most]])
        ),
    )
    return float(solved.x[-1]) if solved.success else most


def test_certified_radii_come_near_the_exact_ones() -> None:
    """Never beyond, and the median at least half."""
    images, labels = digits()
    with forked_seed(0):
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    train(net, images[:1000], labels[:1000], 20)
    x, y = images[1000:1030], labels[1000:1030]
    right = net(x).argmax(1) == y
    x, y = x[right][:3].double(), y[right][:3]
    net = net.double()
    found = sp.certify(net, x, y, sp.ThreatModel("linf", 0.15), radius=14).radius
    assert found is not None
    exact = torch.tensor(
        [min(exact_radius(net, x[i], int(y[i]), j, 0.35) for j in range(10) if j != y[i]) for i in range(len(x))]
    )
    assert bool((found <= exact + 1e-4).all())
    assert float((found / exact).median()) >= 0.5


@pytest.mark.slow
def test_certified_radii_come_near_the_exact_ones_on_more_nets() -> None:
    """Of 24 images and three nets: never beyond, and the median at least half."""
    images, labels = digits()
    shares = []
    for seed, hidden in enumerate((6, 8, 10)):
        with forked_seed(seed):
            net = nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))
        train(net, images[:1000], labels[:1000], 20)
        x, y = images[1000:1060], labels[1000:1060]
        right = net(x).argmax(1) == y
        x, y, net = x[right][:8].double(), y[right][:8], net.double()
        found = sp.certify(net, x, y, sp.ThreatModel("linf", 0.15), radius=14).radius
        assert found is not None
        for i in range(len(x)):
            exact = min(exact_radius(net, x[i], int(y[i]), j, 0.35) for j in range(10) if j != y[i])
            assert float(found[i]) <= exact + 1e-4
            shares.append(float(found[i]) / exact)
    assert len(shares) >= 20
    assert float(torch.tensor(shares).median()) >= 0.5


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("method", ["ibp", "crown", "lipschitz"])
def test_a_linear_model_is_certified_to_its_closed_form(norm: str, method: str) -> None:
    """Without the box's help: the distance is margin / ‖w‖ in the dual norm."""
    images = 0.5 + 0.01 * pictures(20, 1, 3, 3, dtype=torch.float64)
    model = Linear(9, 2, dtype=torch.float64)
    labels = model(images).argmax(1)
    apart = model.weight[1] - model.weight[0]
    dual = {"linf": apart.abs().sum(), "l2": apart.norm()}[norm]
    exact = ((model(images)[:, 0] - model(images)[:, 1]).abs() / dual).detach()
    eps = float(exact.median())
    if method == "ibp" and norm == "l2":
        return  # intervals know the ball's box alone
    threat = sp.ThreatModel(norm, eps, bounds=(-10, 10))
    found = sp.certify(model, images, labels, threat, method=method, radius=20)
    away = (exact - eps).abs() > 1e-4
    assert torch.equal(found.certified[away], (exact > eps)[away])
    assert 0 < int(found.certified.sum()) < 20


def test_smoothing_reproduces_the_radius_of_a_linear_model() -> None:
    """The smoothed class of a linear model is its own, at distance |margin| / ‖w‖ (Cohen et al. 2019, appendix B)."""
    model = Linear(9, 2, seed=4)
    images = pictures(12, 1, 3, 3, seed=2)
    logits = model(images).detach()
    apart = (model.weight[1] - model.weight[0]).detach().norm()
    exact = (logits[:, 0] - logits[:, 1]).abs() / apart
    how = Smoothing(sigma=0.5, n=20_000)
    said, radius = how.certify(model, images)
    small = exact < 1.0
    assert int(small.sum()) >= 4
    decided = said >= 0
    assert torch.equal(said[decided], logits.argmax(1)[decided])
    assert bool((radius <= exact + 1e-3).all())
    assert float((exact - radius)[small & decided].max()) < 0.06
    assert how.ceiling == pytest.approx(0.5 * 3.3945, abs=2e-2)
    again = Smoothing(sigma=0.5, n=20_000, batch_size=333).certify(model, images.flip(0))
    assert torch.equal(again[1].flip(0), radius)


def test_smoothing_is_wrong_no_more_often_than_it_says() -> None:
    """At alpha = 0.2 a bound may lie above the truth for a fifth of the images, not for more."""
    model, images = Linear(4, 2, seed=1), pictures(150, 1, 2, 2, seed=5)
    logits = model(images).detach()
    exact = (logits[:, 0] - logits[:, 1]).abs() / (model.weight[1] - model.weight[0]).detach().norm()
    _, radius = Smoothing(sigma=0.5, n=500, alpha=0.2).certify(model, images)
    over = float((radius > exact + 1e-9).double().mean())
    assert 0.02 < over < 0.3


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups", "kernel"),
    [
        (1, 1, 1, 1, 3),
        (2, 1, 1, 1, 3),
        (1, 2, 2, 1, 3),
        (2, 0, 1, 2, 3),
        (1, 1, 1, 4, 3),
        (2, 1, 1, 4, 3),
        (1, 0, 1, 1, 1),
    ],
)
def test_the_norm_of_a_convolution_is_an_upper_bound(
    stride: int, padding: int, dilation: int, groups: int, kernel: int
) -> None:
    with forked_seed(3):
        out = 4 if groups == 4 else 6
        conv = nn.Conv2d(4, out, kernel, stride, padding, dilation, groups, bias=False).double()
    eye = torch.eye(4 * 49, dtype=torch.float64).view(-1, 4, 7, 7)
    with torch.no_grad():
        exact = float(torch.linalg.matrix_norm(conv(eye).flatten(1), 2))
        made = Conv(
            (0,),
            tuple(conv(eye[:1]).shape[1:]),
            "",
            conv.weight,
            None,
            (stride,) * 2,
            (padding,) * 2,
            (dilation,) * 2,
            groups,
            (4, 7, 7),
        )
    bound = conv_norm(made)
    assert exact <= bound * (1 + 1e-9)
    assert bound <= 1.35 * exact


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_no_two_points_are_farther_apart_than_the_lipschitz_bound(norm: str) -> None:
    with forked_seed(2):
        net = nn.Sequential(
            nn.Conv2d(1, 4, 3, 2, 1),
            nn.GELU(),
            nn.MaxPool2d(3, 1, 1),
            nn.Conv2d(4, 4, 3),
            nn.SiLU(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.LazyLinear(3),
        )
        net(torch.zeros(1, 1, 12, 12))
    net = net.double().eval().requires_grad_(False)
    x, y = (pictures(200, 1, 12, 12, seed=s, dtype=torch.float64) for s in (0, 1))
    bound = lipschitz(trace(net, x).layers(), norm)[-1]
    order = 2 if norm == "l2" else math.inf
    with torch.no_grad():
        for other in (y, x + 1e-3 * (y - x)):
            ratio = (net(x) - net(other)).norm(order, 1) / (x - other).flatten(1).norm(order, 1)
            assert float(ratio.max()) <= bound


@pytest.mark.parametrize("name", SMOOTH)
def test_the_stated_shape_of_a_function_holds(name: str) -> None:
    apply, shape = SMOOTH[name]
    x = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    step = 24 / 200_000
    y = apply(x)
    slope, bend = y.diff() / step, y.diff(n=2) / step**2
    far = torch.ones_like(x[1:-1], dtype=torch.bool)
    for kink in shape.kinks:
        far &= (x[1:-1] - kink).abs() > 2 * step
    assert float(slope.abs().max()) <= shape.slope + 1e-9
    assert float(bend.abs()[far].max()) <= shape.curvature + 1e-5
    falls = slope < -1e-9
    if shape.lowest is None:
        assert not bool(falls.any())
    else:
        assert abs(float(x[int(y.argmin())]) - shape.lowest) < 2 * step
        assert not bool(falls[x[:-1] > shape.lowest + step].any())
        assert not bool((slope > 1e-9)[x[:-1] < shape.lowest - step].any())


ACTIVATIONS = [
    nn.ReLU(),
    nn.LeakyReLU(0.1),
    nn.GELU(),
    nn.GELU("tanh"),
    nn.SiLU(),
    nn.ELU(),
    nn.SELU(),
    nn.CELU(0.7),
    nn.Softplus(),
    nn.Sigmoid(),
    nn.Tanh(),
    nn.Hardtanh(),
    nn.ReLU6(),
    nn.Hardswish(),
    nn.Hardsigmoid(),
    nn.Mish(),
]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_lines_and_intervals_hold_everywhere(activation: nn.Module) -> None:
    net = nn.Sequential(nn.Flatten(), activation)
    layers = trace(net, pictures(1, 1, 1, 2)).layers()
    layer = layers[-1]
    g = torch.Generator().manual_seed(0)
    low = 8 * torch.rand(3000, generator=g, dtype=torch.float64) - 5
    high = low + 6 * torch.rand(3000, generator=g, dtype=torch.float64) ** 3
    x = low + (high - low) * torch.linspace(0, 1, 101, dtype=torch.float64)[:, None]
    y = layer.value(x)
    least, most = layer.interval((low, high))
    assert bool((y >= least - 1e-9).all() and (y <= most + 1e-9).all())
    for sign in (1.0, -1.0):
        a = torch.full((1, 1, 3000), sign, dtype=torch.float64)
        (slope,), _ = layer.pull(a, (low[None], high[None]))
        if isinstance(layer, Curve):
            lines = layer.lines(low, high)
            each = lines[1] if sign > 0 else -lines[3]
        else:
            up, down = high.clamp_min(0), low.clamp_max(0)
            each = torch.zeros_like(low) if sign > 0 else up * down / (up - down)
        assert bool((sign * y >= slope[0, 0] * x + each - 1e-9).all())


def test_the_bracket_counts() -> None:
    net, images = dense_net((16, 8, 3)), pictures(6, 1, 4, 4, dtype=torch.float64)
    labels = net(images).argmax(1)
    found = sp.certify(net, images, labels, sp.ThreatModel("linf", 1e-4))
    assert bool(found.certified.all())
    both = bracket(found, [True, *[False] * 5])
    assert both.contradicted == (0,)
    assert both.status.count("certified") == 5
    assert both.lower <= both.upper
