"""The contract every detector keeps: thresholds that hold, scores that no batch changes, files that are safe."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.helpers_core import digits, forked_seed, generator, global_random_state, pictures, small_net, train
from torch import Tensor, nn

import sparring as sp
from sparring.defenses import detectors as d
from sparring.defenses.detectors.calibration import conformal_threshold
from sparring.defenses.detectors.evidence import Evidence
from sparring.defenses.transforms import BitDepth, Median
from sparring.errors import DataError, InputError, SparringError, UnsupportedError

THREAT = sp.ThreatModel("linf", 0.15)
CHEAP = {"reconstruction": {"epochs": 2}, "odds": {"draws": 4}, "lid": {"attacks": ("fgsm",)}, "statistics": {}}
NAMES = [*d.DETECTORS, "divergence"]


@pytest.fixture(scope="module")
def net() -> nn.Module:
    images, labels = digits()
    return train(small_net(), images[:600], labels[:600], epochs=6)


def detector(name: str) -> d.Detector:
    if name == "divergence":
        return d.Reconstruction(measure="divergence", epochs=2)
    return d.DETECTORS[name](**CHEAP.get(name, {}))


@pytest.fixture(scope="module")
def fitted(net: nn.Module) -> dict[str, d.Fitted]:
    images = digits()[0][600:1000]
    return {name: detector(name).fit(net, images, fpr=0.1, threat=THREAT) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_the_false_positive_rate_holds_on_other_images(name: str, net: nn.Module, fitted: dict[str, d.Fitted]) -> None:
    images = digits()[0][1000:]
    rate = float(fitted[name].flags(fitted[name].scores(net, images)).double().mean())
    spread = 3.5 * math.sqrt(0.09 * (1 / fitted[name].n + 1 / len(images)))
    assert abs(rate - 0.1) < spread, (rate, spread)


@pytest.mark.parametrize("name", NAMES)
def test_scores_do_not_depend_on_the_batch(name: str, net: nn.Module, fitted: dict[str, d.Fitted]) -> None:
    images, state = digits()[0][1000:1012], global_random_state()
    whole = fitted[name].scores(net, images, generator=generator(1))
    assert whole.shape == (12,)
    assert bool(whole.isfinite().all())
    alone = torch.cat([fitted[name].scores(net, images[i : i + 1], generator=generator(1)) for i in range(12)])
    torch.testing.assert_close(alone, whole, rtol=1e-4, atol=1e-4)
    other = fitted[name].scores(net, images, generator=generator(2))
    assert torch.equal(whole, other) != fitted[name].detector.random
    assert global_random_state() == state
    assert all(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_scores_have_a_gradient(name: str, net: nn.Module, fitted: dict[str, d.Fitted]) -> None:
    from sparring.rng import Streams, digests

    images = digits()[0][1000:1004]
    x = images.clone().requires_grad_()
    sight = sp.defenses.Stack(net, detectors=[fitted[name]]).look(x, Streams(0, "", digests(images)))
    (grad,) = torch.autograd.grad(sight.scores.sum(), x)
    assert bool(grad.isfinite().all())
    assert bool(grad.any())


@pytest.mark.parametrize("name", NAMES)
def test_a_file_holds_it_all(name: str, net: nn.Module, fitted: dict[str, d.Fitted], tmp_path: Path) -> None:
    file = fitted[name].save(tmp_path / "detector.safetensors")
    again = d.load_detector(file, net)
    assert (again.name, again.threshold, again.fpr, again.n) == (
        fitted[name].name,
        fitted[name].threshold,
        fitted[name].fpr,
        fitted[name].n,
    )
    assert again.detector == fitted[name].detector
    images = digits()[0][1000:1020]
    assert torch.equal(again.scores(net, images), fitted[name].scores(net, images))


def test_another_model_is_refused(net: nn.Module, fitted: dict[str, d.Fitted], tmp_path: Path) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = net

        def forward(self, images: Tensor) -> Tensor:
            return 2 * self.inner(images)

    file = fitted["margin"].save(tmp_path / "a")
    with forked_seed(5):
        other = small_net()
    for wrong in (other, Scaled()):
        with pytest.raises(InputError, match="fitted to another model"):
            d.load_detector(file, wrong)
        with pytest.raises(InputError, match="fitted to another model"):
            fitted["margin"].scores(wrong, digits()[0][:2])
        with pytest.raises(InputError, match="fitted to another model"):
            sp.defenses.Stack(wrong, detectors=[fitted["margin"]])


def test_a_truncated_or_changed_file_is_refused(fitted: dict[str, d.Fitted], tmp_path: Path) -> None:
    file = fitted["mahalanobis"].save(tmp_path / "whole")
    content = file.read_bytes()
    for size in [0, 1, 7, 8, 9, 100, len(content) // 2, len(content) - 1]:
        file.write_bytes(content[:size])
        with pytest.raises(DataError, match=r"truncated|damaged"):
            d.load_detector(file)
    changed = bytearray(content)
    changed[-3] ^= 0x40
    for wrong in (bytes(changed), content.replace(b'\\"fpr\\": 0.1', b'\\"fpr\\": 0.2')):
        assert wrong != content
        file.write_bytes(wrong)
        with pytest.raises(DataError, match="changed or damaged"):
            d.load_detector(file)
    with pytest.raises(DataError, match="does not exist"):
        d.load_detector(tmp_path / "nowhere")
    d.MMD().fit(pictures(20, 1, 4, 4)).save(file)
    with pytest.raises(DataError, match="not a detector"):
        d.load_detector(file)


def test_nothing_is_ever_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
            return Path.touch, (str(tmp_path / "ran"),)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("unpickled")

    file = tmp_path / "bomb"
    file.write_bytes(pickle.dumps(Bomb()))
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    with pytest.raises(DataError):
        d.load_detector(file)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("fpr", [0.01, 0.05, 0.2, 0.5])
@pytest.mark.parametrize("n", [99, 100, 101, 250])
def test_the_threshold_is_the_conformal_one(n: int, fpr: float) -> None:
    scores = torch.rand(n, generator=generator(n), dtype=torch.float64)
    rank = math.ceil(round((n + 1) * (1 - fpr), 9))
    assert conformal_threshold(scores, fpr) == sorted(scores.tolist())[rank - 1]


def test_the_guarantee_holds_in_finite_samples() -> None:
    """Mean rate over many calibrations with few images: at most fpr, and not far below."""
    g = generator(0)
    scores = torch.rand(4000, 29, generator=g)
    rates = [1 - conformal_threshold(row, 0.1) for row in scores]
    assert np.mean(rates) <= 0.1 + 3 * np.std(rates) / 60
    assert np.mean(rates) >= 0.1 - 3 * np.std(rates) / 60
    biased = [1 - sorted(row.tolist())[math.ceil(25 * 0.9) - 1] for row in scores[:, :25]]
    assert np.mean(biased) > 0.1, "the naive quantile promises too much"


def test_too_few_images_and_bad_rates_are_refused(net: nn.Module) -> None:
    images = digits()[0]
    with pytest.raises(InputError, match="at least 19"):
        d.Margin().fit(net, images[:18], fpr=0.05)
    d.Margin().fit(net, images[:19], fpr=0.05)
    for fpr in (0, 1, -0.1, "0.1", True, None):
        with pytest.raises(InputError, match="fpr"):
            d.Margin().fit(net, images[:50], fpr=fpr)
    with pytest.raises(InputError, match="threat"):
        d.Statistics().fit(net, images[:100])
    with pytest.raises(InputError, match="one per image"):
        d.Margin().fit(net, images[:100], labels=torch.zeros(3).long())
    with pytest.raises(UnsupportedError, match="torch"):
        d.Mahalanobis().fit(lambda x: x.flatten(1)[:, :10], images[:100])
    with pytest.raises(InputError, match="did you mean"):
        d.Mahalanobis(layer="00").fit(net, images[:100])


def test_flags_are_strictly_above_the_threshold(fitted: dict[str, d.Fitted]) -> None:
    one = fitted["margin"]
    line = torch.tensor(one.threshold, dtype=torch.float64)
    scores = torch.stack([line - 1, line, line.nextafter(torch.tensor(torch.inf).double()), line * torch.nan])
    assert one.flags(scores).tolist() == [False, False, True, True]


def test_feature_squeezing_by_the_papers_formula(net: nn.Module) -> None:
    images = digits()[0][:40]
    one = d.FeatureSqueezing().fit(net, images)
    assert one.detector.squeezers == (BitDepth(bits=1), Median(size=2))
    answers = [torch.softmax(net(x), 1) for x in (images, (images >= 0.5).float(), Median()(images))]
    found = one.scores(net, images)
    expected = torch.maximum(*((answers[0] - squeezed).abs().sum(1) for squeezed in answers[1:]))
    plain = ((images * 1).round() - (images >= 0.5).float()).flatten(1).any(1)  # halves round to even
    torch.testing.assert_close(found[~plain], expected[~plain])
    assert len(d.FeatureSqueezing().suited(net, pictures(1, 3, 32, 32)).squeezers) == 3
    assert d.FeatureSqueezing().suited(net, pictures(1, 3, 224, 224)).squeezers[2].search == 11


def test_feature_squeezing_asks_the_model_once(net: nn.Module) -> None:
    calls = []
    one = d.FeatureSqueezing().fit(net, digits()[0][:40])
    handle = net.register_forward_hook(lambda module, inputs, output: calls.append(len(output)))
    sp.defenses.Stack(net, detectors=[one])
    calls.clear()
    sp.defenses.Stack(net, detectors=[one])(digits()[0][:8])
    handle.remove()
    assert calls[-1:] == [24]
    assert calls.count(24) == 1


def evidence(features: Tensor, logits: Tensor) -> Evidence:
    return Evidence(torch.zeros(len(logits), 1, 1, 1), logits, (), {"layer": features})


def test_mahalanobis_and_density_by_their_formulas() -> None:
    g = generator(3)
    features, logits = torch.randn(5, 3, generator=g).double(), torch.randn(5, 2, generator=g).double()
    means, root = torch.randn(2, 3, generator=g).double(), torch.randn(3, 3, generator=g).double()
    state = {"means": means, "precision": root @ root.T}
    found = d.Mahalanobis(layer="layer").score(evidence(features, logits), state)
    for i in range(5):
        away = (features[i] - means).numpy()
        assert abs(min(a @ state["precision"].numpy() @ a for a in away) - float(found[i])) < 1e-9
    known, classes = torch.randn(6, 3, generator=g).double(), torch.tensor([0, 0, 1, 1, 1, 1])
    state = {"features": known, "classes": classes, "bandwidth": torch.tensor([0.7], dtype=torch.float64)}
    found = d.KernelDensity(layer="layer").score(evidence(features, logits), state)
    for i in range(5):
        own = known[classes == logits[i].argmax()]
        kernels = np.exp(-((features[i] - own).numpy() ** 2).sum(1) / (2 * 0.49))
        assert abs(-math.log(kernels.mean()) - float(found[i])) < 1e-9


def test_the_dimension_of_a_line_and_of_a_plane() -> None:
    """The estimate of local intrinsic dimensionality is 1 on a line and 2 on a plane."""
    g = generator(0)
    for dimension in (1, 2):
        flat = torch.zeros(20000, 5)
        flat[:, :dimension] = torch.rand(20000, dimension, generator=g)
        middle = torch.full((200, 5), 0.0)
        middle[:, :dimension] = 0.3 + 0.4 * torch.rand(200, dimension, generator=g)
        one = d.LID(neighbours=100, reference=101, names=("layer",))
        found = one._dimensions({"layer": middle}, {"reference0": flat})
        assert abs(float(found.mean()) - dimension) < 0.1 * dimension


def test_confidence_by_hand() -> None:
    seen = evidence(torch.zeros(1, 1), torch.tensor([[1.0, 3.0, 2.0]]))
    assert float(d.Margin().score(seen, {})) == -1
    assert abs(float(d.Energy().score(seen, {})) + math.log(sum(math.exp(z) for z in (1, 2, 3)))) < 1e-6
    assert abs(float(d.MaxSoftmax().score(seen, {})) - math.log(sum(math.exp(z) for z in (-2, 0, -1)))) < 1e-6


def test_a_window_of_traffic() -> None:
    images = digits()[0]
    test = d.MMD(permutations=199).fit(images[:300])
    fine = [test.p_value(images[a : a + 40]) for a in range(300, 1500, 40)]
    assert sum(p <= 0.1 for p in fine) <= 9, "exchangeable windows are flagged about one time in ten"
    noisy = (images[300:340] + 0.3 * torch.randn(images[300:340].shape, generator=generator(0))).clamp(0, 1)
    assert test.p_value(noisy) <= 0.01


def test_a_window_test_round_trips_and_refuses(tmp_path: Path) -> None:
    test = d.MMD(permutations=49).fit(pictures(30, 1, 4, 4))
    again = d.load_mmd(test.save(tmp_path / "mmd"))
    window = pictures(9, 1, 4, 4, seed=4)
    assert again.p_value(window) == test.p_value(window)
    for wrong in (pictures(9, 1, 5, 4), pictures(1, 1, 4, 4)):
        with pytest.raises(InputError):
            test.p_value(wrong)
    with pytest.raises(InputError):
        d.MMD().fit(pictures(3, 1, 4, 4))


@pytest.mark.parametrize("name", d.DETECTORS)
def test_declared_and_named(name: str) -> None:
    one = detector(name)
    assert d.detector_from(json.loads(json.dumps(one.described()))) == one
    assert type(one).paper
    with pytest.raises(AttributeError):
        one.anything = 1
    with pytest.raises(InputError, match="setting"):
        d.detector_from({"kind": name, "nonsense": 1})


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "squeezing"},
        {},
        {"kind": "odds", "draws": 0},
        {"kind": "odds", "std": "much"},
        {"kind": "feature_squeezing", "squeezers": ["jpg"]},
        {"kind": "feature_squeezing", "squeezers": 3},
        {"kind": "lid", "attacks": []},
    ],
)
def test_bad_declarations_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(SparringError):
        d.detector_from(wrong)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 1), (3, 40, 33), (1, 512, 512)], ids=str)
@pytest.mark.parametrize("name", ["feature_squeezing", "margin", "odds", "reconstruction", "divergence"])
def test_any_size_and_colour(name: str, shape: tuple[int, ...]) -> None:
    if shape[-1] > 100 and name != "feature_squeezing":
        pytest.skip("one large picture will do")
    with forked_seed(1):
        net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(shape[0], 4))
    images = pictures(20 if shape[-1] < 100 else 2, *shape)
    squeezers = {"squeezers": (BitDepth(bits=3), Median())} if name == "feature_squeezing" else {}
    one = d.DETECTORS[name](**squeezers) if squeezers else detector(name)
    fitted = one.fit(net, images, fpr=0.4)
    assert fitted.scores(net, images).shape == (len(images),)
