"""Diagnosing: repairs by hooks, random models, the call as a whole, the command."""

import json
from contextlib import contextmanager
from unittest import mock

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import sparring as sp
from sparring.auditing import curves, insight, remedies
from sparring.auditing.side_by_side import compare_models
from sparring.cli import app
from sparring.diagnosis import transfer, work
from sparring.diagnosis.blockers import traced
from sparring.diagnosis.detours import Detour, Detoured
from sparring.diagnosis.fits import Joint
from sparring.diagnosis.health import parameter_gradient
from sparring.diagnosis.lipschitz import lead_gradients, sensitivity
from sparring.diagnosis.randomised import drawn
from sparring.diagnosis.repair import blocking, repaired
from sparring.diagnosis.taylor import first_order, gradient
from sparring.diagnosis.transfer import distilled, transfer_matrix
from sparring.errors import InputError, ModelError, UnsupportedError
from sparring.reports import html, models

THREAT = sp.ThreatModel("linf", 0.15)


@pytest.fixture(scope="module")
def data():
    images, labels = sp.load_data("digits", n=40)
    return images[0:40], labels


@pytest.fixture(scope="module")
def net():
    return sp.load_model("digits-cnn")


class Rounding(nn.Module):
    def forward(self, x):
        return (8 * x).round() / 8


class ByNumpy(nn.Module):
    def forward(self, x):
        return torch.from_numpy(x.numpy().copy()).clamp(0.05, 0.95)


class Inverted(nn.Module):
    """Rounds without a module of its own, upside down: an identity would lead the wrong way."""

    def __init__(self, net):
        super().__init__()
        self.turned = Turned(net)

    def forward(self, x):
        return self.turned(1 - (8 * x).round() / 8)


class Turned(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(1 - x)


def test_an_honest_model_needs_no_repair(net, data):
    assert repaired(net, *data, THREAT) is None
    assert blocking(traced(net, *data)) == ()


@pytest.mark.parametrize(
    ("masked", "name"),
    [
        (lambda net: nn.Sequential(Rounding(), net), "0"),
        (lambda net: nn.Sequential(ByNumpy(), net), "0"),
        (Inverted, "what runs before turned"),
    ],
)
def test_the_part_that_blocks_is_found_and_gone_around(net, data, masked, name):
    model = masked(net)
    images, labels = data
    repair = repaired(model, images, labels, THREAT)
    assert repair is not None
    assert repair.blocked == (name,)
    assert repair.model.detours
    with torch.no_grad():
        truth = model(images)
    x = images.clone().requires_grad_()
    assert torch.equal(repair.model(x).detach(), truth)
    attack = sp.attacks.PGD(steps=20, loss="margin")
    broken = sp.evaluate(repair.model, images, labels, THREAT, attacks=[attack]).robust_accuracy
    assert broken < 0.5
    assert all(p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


class Plain(nn.Module):
    """Two layers, and code between and after them that no hook can name."""

    def __init__(self, hidden, after=lambda z: z):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(5)
            self.first, self.last = nn.Linear(64, 24), nn.Linear(24, 10)
        self.hidden, self.after = hidden, after

    def forward(self, x):
        return self.after(self.last(self.hidden(self.first(x.flatten(1)))))


def rounded(h):
    return (8 * h).round() / 8


def by_numpy(h):
    return torch.from_numpy(h.numpy().copy())


def one_hot(z):
    return nn.functional.one_hot(z.argmax(1), 10).to(z)


@pytest.mark.parametrize(
    ("hidden", "after", "smooth", "name"),
    [
        (lambda h: rounded(h.relu()), lambda z: z, torch.relu, "what runs between first and last"),
        (lambda h: by_numpy(h).sign(), lambda z: z, torch.tanh, None),
        (torch.relu, one_hot, torch.relu, "what runs after last"),
        (torch.relu, lambda z: (4 * z).round(), torch.relu, "what runs after last"),
    ],
    ids=["rounded", "numpy", "labels", "rounded logits"],
)
def test_code_between_the_modules_is_gone_around(data, hidden, after, smooth, name):
    images, _ = data
    model = Plain(hidden, after).eval()
    with torch.no_grad():
        labels = model(images).argmax(1)
    repair = repaired(model, images, labels, THREAT)
    assert repair is not None
    assert name is None or name in repair.blocked
    with torch.no_grad():
        assert torch.equal(repair.model(images), model(images))
    attack = sp.attacks.PGD(steps=20, loss="margin")
    left = sp.evaluate(repair.model, images, labels, THREAT, attacks=[attack]).robust_accuracy
    twin = Plain(smooth).eval()
    easy = sp.evaluate(twin, images, twin(images).argmax(1), THREAT, attacks=[attack]).robust_accuracy
    assert left <= easy + 0.1


class Thermometer(nn.Module):
    """Thresholds as channels: a picture with one channel becomes one with seven."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(2)
            self.net = nn.Sequential(nn.Conv2d(7, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))

    def forward(self, x):
        return self.net((x > torch.linspace(0.1, 0.9, 7).view(1, 7, 1, 1)).float())


def test_thresholds_get_a_slope_each(data):
    images, _ = data
    model = Thermometer().eval()
    labels = model(images).argmax(1)
    repair = repaired(model, images, labels, THREAT)
    assert repair is not None
    assert repair.model.detours[0].kind == "spread"
    attack = sp.attacks.PGD(steps=20, loss="margin")
    assert sp.evaluate(repair.model, images, labels, THREAT, attacks=[attack]).robust_accuracy < 0.2


def test_a_table_holds_the_function_and_its_slope():
    u = torch.linspace(-2, 2, 4001)
    joint = Joint.fitted(u, torch.tanh(u))
    at = torch.tensor([-1.0, 0.0, 0.5])
    assert joint.explained > 0.999
    assert torch.allclose(joint.slope(at, 0.1), 1 - torch.tanh(at) ** 2, atol=0.05)
    assert Joint.fitted(u, torch.rand(4001)).explained < 0.1
    step = Joint.fitted(u, u.sign())
    assert float(step.slope(torch.tensor([0.0]), 0.25)) > 1
    assert float(step.slope(torch.tensor([1.5]), 0.25)) == 0


def test_a_detour_to_a_part_that_does_not_run_is_refused(net, data):
    idle = nn.Sequential(net)
    idle[0].add_module("spare", nn.Identity())
    idle[0].forward = lambda x: x.flatten(1)
    with pytest.raises(sp.SparringError, match="never ran"):
        Detoured(idle, (Detour("0.spare", "through"),), data[0])
    del idle[0].forward
    del idle[0].spare


def test_a_random_model_is_judged_by_fresh_draws_and_the_global_seed_stays(data):
    images, labels = data

    class Coin(nn.Module):
        def forward(self, x):
            return torch.rand(len(x), 10)

    state = torch.get_rng_state()
    found = drawn(Coin(), images, labels, THREAT, attacks=())
    assert torch.equal(torch.get_rng_state(), state)
    assert abs(float(found.clean.mean()) - 0.1) < 0.03
    assert abs(float(found.worst.mean()) - 0.1) < 0.03


def test_transfer_to_itself_is_the_attack_and_queries_are_counted(net, data):
    images, labels = data
    rows = transfer_matrix({"a": net}, images, labels, THREAT, attacks=[sp.attacks.FGSM()])
    moved = sp.attacks.FGSM()(net, images, sp.Untargeted(labels), THREAT)
    with torch.no_grad():
        right, now = net(images).argmax(1) == labels, net(moved).argmax(1) == labels
    assert rows[0].success == pytest.approx(float((right & ~now).sum() / right.sum()))
    asked = 0

    def counting(x):
        nonlocal asked
        asked += len(x)
        return net(x)

    assert distilled(counting, images, queries=70, epochs=1)(images).shape == (40, 10)
    assert asked == 70


def test_surrogates_learn_from_other_images_alone(net, data):
    images, labels = data
    own, truth = sp.load_data("digits", n=200, split="train")
    both = torch.cat([own[0:200], images]), torch.cat([truth, labels])
    assert transfer.apart(images, both[0]).tolist() == [True] * 200 + [False] * 40
    found = sp.diagnose(net, images, labels, THREAT, sample=40, landscapes=0, others=both, surrogates={"twin": net})
    names = {t.surrogate for t in found.transfer}
    assert names == {
        "target",
        "twin",
        "convolutions, learnt from 200 other images",
        "dense layers, learnt from 200 other images",
    }
    assert len(found.transfer) == 4 * 4 * 4
    best = {
        name: max(t.success for t in found.transfer if (t.surrogate, t.target) == (name, "target")) for name in names
    }
    assert best["twin"] == best["target"] > best["dense layers, learnt from 200 other images"] > 0.1
    with pytest.raises(InputError, match="not among"):
        sp.diagnose(net, images, labels, THREAT, sample=40, others=(images, labels))
    with pytest.raises(InputError, match="any name but"):
        sp.diagnose(net, images, labels, THREAT, sample=40, surrogates={"target": net})
    torch.manual_seed(1)
    state = torch.get_rng_state()
    learnt = transfer.learnt(own[0:200], truth, 10, epochs=5)
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        assert all(float((one(images).argmax(1) == labels).float().mean()) > 0.5 for one in learnt.values())


def test_a_diagnosis_is_plain_data(net, data):
    found = sp.diagnose(net, *data, sp.ThreatModel("l2", 0.5), sample=16, landscapes=1)
    assert sp.Diagnosis.model_validate_json(found.model_dump_json()) == found
    assert len(found.first_order.lines) == found.images == 16
    assert found.sensitivity.upper > max(found.sensitivity.lower)
    assert not found.blocked
    with pytest.raises(sp.SparringError):
        sp.diagnose(net, *data, sp.ThreatModel("l0", 4))


def test_the_command_writes_both_forms(tmp_path):
    page_file, plain = tmp_path / "d.html", tmp_path / "d.json"
    asked = ["diagnose", "-m", "digits-cnn", "-n", "20", "--eps", "0.1", "--sample", "8", "--landscapes", "1"]
    asked += ["--learn", "40", "--surrogate", "digits-cnn"]
    done = CliRunner().invoke(app, [*asked, "--report", str(page_file), "--report", str(plain)])
    assert done.exit_code == 0, done.output
    assert "First-order picture" in done.output
    assert json.loads(plain.read_text())["images"] == 8
    page = page_file.read_text()
    assert page.count("<svg") == 18  # six on lines, eight small ones, one on dimensions, two of a map and planes each
    assert page.count('<svg viewBox="-2 ') == 8
    assert "at right angles" in page
    assert "digits-cnn: diagnosis" in page
    assert all(f'<th scope="row">{name}' in page for name in ("digits-cnn", "the model itself", "dense layers, learnt"))
    assert "Where perturbations act" in page
    assert "<script" not in page


def test_the_command_leads_the_gradient_around_a_named_part(tmp_path):
    (tmp_path / "blocked.py").write_text(
        "import torch\nimport sparring as sp\n\n\nclass Rounding(torch.nn.Module):\n    def forward(self, x):\n"
        "        return (8 * x).round() / 8\n\n\ndef model():\n"
        "    return torch.nn.Sequential(Rounding(), sp.load_model('digits-cnn'))\n"
    )
    asked = ["diagnose", "-m", f"{tmp_path}/blocked.py:model", "-d", "digits", "-n", "12", "--eps", "0.2"]
    plain, around = tmp_path / "plain.json", tmp_path / "around.json"
    few = ["--sample", "6", "--landscapes", "0", "--quiet"]
    for extra, out in (([], plain), (["--bpda", "0=identity"], around)):
        done = CliRunner().invoke(app, [*asked, *few, *extra, "--report", str(out)])
        assert done.exit_code == 0, done.output
    assert json.loads(plain.read_text())["health"]["zero"] == 1
    assert json.loads(around.read_text())["health"]["zero"] == 0
    for wrong in ("0", "7=identity", "0=nowhere.at:all"):
        assert isinstance(CliRunner().invoke(app, [*asked, *few, "--bpda", wrong]).exception, sp.SparringError)


@contextmanager
def short_remedies():
    with (
        mock.patch.object(remedies, "LONG", 20),
        mock.patch.object(remedies, "SEARCH", 500),
        mock.patch.object(curves, "STEPS", (1.0,)),
        mock.patch.object(insight, "SAMPLE", 0),
    ):
        yield


def test_a_masked_model_looks_no_better_beside_others(net, data):
    few = (data[0][:8], data[1][:8])
    with short_remedies():
        found = compare_models({"plain": net, "rounded": nn.Sequential(Rounding(), net)}, *few, THREAT)
    plain, rounded = found.rows
    assert rounded.robust.value <= plain.robust.value + 1 / 8
    assert "blocked-gradient" in rounded.remedied
    assert "rounded: the audit got around" in models.html(found)
    assert (plain.zero_gradients, rounded.zero_gradients) == (0, 1)


def test_models_are_compared_side_by_side(tmp_path, net):
    (tmp_path / "flat.py").write_text(
        "import torch\n\n\ndef model():\n    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10), torch.nn.Hardtanh(-0.01, 0.01))\n"
    )
    asked = ["compare", "-m", "digits-cnn", "-n", "8", "--eps", "0.1", "--effort", "quick"]
    page, plain = tmp_path / "m.html", tmp_path / "m.json"
    also = ["--against", f"{tmp_path}/flat.py:model", "--report", str(page), "--report", str(plain)]
    with short_remedies():
        done = CliRunner().invoke(app, [*asked, *also])
    assert done.exit_code == 0, done.output
    first, second = json.loads(plain.read_text())["rows"]
    images, labels = sp.load_data("digits", n=8)
    alone = sp.evaluate(net, images, labels, sp.ThreatModel("linf", 0.1), effort="quick")
    assert first["name"] == "digits-cnn"
    assert first["robust"]["value"] <= alone.robust_accuracy.value
    assert (first["doubts"], first["remedied"]) == ([], [])
    assert first["flat_units"] < second["flat_units"]
    assert second["flattest"] == "2"
    assert second["zero_gradients"] > 0
    assert first["parameters"] == sum(p.numel() for p in net.parameters())
    assert "Models side by side" in page.read_text()
    assert "flat.py:model" in done.output.replace("\n", "")
    assert isinstance(CliRunner().invoke(app, [*asked, *also, "--ablate"]).exception, sp.SparringError)


def test_every_audit_holds_a_small_diagnosis(net, data):
    few = (data[0][:20], data[1][:20])
    report = sp.audit(net, *few, THREAT, attacks=["fgsm"])
    assert report.diagnosis.images == 16
    assert report.diagnosis.model == report.subject.model
    assert sp.Report.model_validate_json(report.model_dump_json()) == report
    assert "Why it falls" in html.render(report)
    with mock.patch.object(insight, "WORK", 1e6):
        assert sp.audit(net, *few, THREAT, attacks=["fgsm"]).diagnosis is None
    assert sp.audit(lambda x: net(x), *few, THREAT, attacks=["fgsm"]).diagnosis is None


def test_leads_over_many_classes_are_those_of_the_likeliest(data):
    images, _ = data
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Flatten(), nn.Linear(64, 60))
    labels = wide(images).argmax(1)
    weight = wide[1].weight.detach()
    for x, y, found in zip(images, labels, lead_gradients(wide, images, labels), strict=True):
        likely = wide(x[None])[0].topk(20).indices
        assert float(found) == pytest.approx(float((weight[y] - weight[likely]).norm(dim=1).max()), rel=1e-5)


def test_a_model_that_answers_nan_nearby_is_said_to(net, data):
    def burst(x):
        logits = net(x)
        return torch.where(logits.amax(1, keepdim=True) < 2.5, torch.full_like(logits, torch.nan), logits)

    images, labels = data
    sure = net(images).amax(1) > 6
    with pytest.raises(ModelError, match=r"not finite along the gradient of \d+ of \d+ images"):
        first_order(burst, images[sure], labels[sure], sp.ThreatModel("linf", 0.3))


@pytest.mark.parametrize("wrong", [{"sample": 0}, {"sample": 1.5}, {"landscapes": -1}, {"queries": -1}])
def test_numbers_that_make_no_sense_are_refused(net, data, wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        sp.diagnose(net, *data, THREAT, **wrong)


def test_a_model_with_randomness_is_diagnosed_alike_twice_and_leaves_the_global_state(data):
    noisy = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), Noise())
    few = (data[0][:4], data[1][:4])
    state = torch.get_rng_state()
    first, second = (sp.diagnose(noisy, *few, THREAT, landscapes=0) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert first.model_copy(update={"seconds": second.seconds}) == second


class Noise(nn.Module):
    def forward(self, z):
        return z + 0.1 * torch.randn_like(z)


def test_what_has_no_gradient_or_is_no_picture_is_said_to(net, data):
    images, labels = data
    with pytest.raises(UnsupportedError, match="by no gradient"):
        sp.diagnose(lambda x: net(x.detach()), images, labels, THREAT, sample=4)
    rows = nn.Linear(64, 10)
    with pytest.raises(UnsupportedError, match="pictures"):
        sp.diagnose(rows, images.flatten(1), labels, THREAT, sample=4, queries=10)
    assert sp.diagnose(rows, images.flatten(1), labels, THREAT, sample=4, landscapes=1).images == 4
    with pytest.raises(InputError, match="does not exist"):
        sp.diagnose(net, images[:4], labels[:4], THREAT, others=(images[4:], labels[4:] + 13), landscapes=0)
    with short_remedies():
        (row,) = compare_models({"box": sp.BlackBox(net)}, images[:4], labels[:4], THREAT).rows
    assert (row.parameters, row.multiplications, row.steepness, row.flat_units) == (None,) * 4


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_diagnosed_without_hooks(data):
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)).eval()
    few = (data[0][:8], data[1][:8])
    found = sp.diagnose(torch.jit.script(plain), *few, THREAT, landscapes=0)
    same = sp.diagnose(plain, *few, THREAT, landscapes=0)
    assert "TorchScript" in found.notes[0]
    assert found.sensitivity.upper is None
    assert found.first_order == same.first_order


class AndItself(nn.Sequential):
    def forward(self, x):
        return 3 * x + super().forward(x)


def test_layers_that_run_twice_or_are_joined_otherwise_are_bounded_from_above(data):
    shared, flat = nn.Linear(64, 64), nn.Flatten()
    with torch.no_grad():
        shared.weight.copy_(2 * torch.eye(64))
    for model in (nn.Sequential(flat, shared, shared), nn.Sequential(flat, AndItself(nn.Linear(64, 64)))):
        found = sensitivity(model, data[0][:2], data[1][:2], THREAT)
        assert found.upper is None or found.upper >= max(found.lower) * 0.9999


def test_few_images_go_through_a_model_at_a_time_and_the_figures_stay(net, data):
    images, labels = data
    most = 0

    def counted(x):
        nonlocal most
        most = max(most, len(x))
        return net(x)

    whole = (*gradient(net, images, labels, "margin"), lead_gradients(net, images, labels))
    bias = parameter_gradient(net, images, labels)
    with mock.patch.object(work, "NUMBERS", 7 * 64):
        parts = (*gradient(counted, images, labels, "margin"), lead_gradients(counted, images, labels))
        assert torch.allclose(parameter_gradient(net, images, labels), bias, atol=1e-6)
    assert most == 7
    for one, other in zip(whole, parts, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
