"""The stack as a value: what it decides, how it is stored, declared, fitted and compared."""

from __future__ import annotations

import functools
import io
import json
from pathlib import Path

import pytest
import torch
from tests.helpers_core import generator, pictures
from torch import Tensor, nn
from typer.testing import CliRunner

import sparring as sp
from sparring.cli import app
from sparring.defenses import Policy, Stack, load_stack, save_stack
from sparring.defenses import detectors as d
from sparring.defenses import transforms as t
from sparring.defenses.comparison import Comparison, compare_stacks, without_each
from sparring.defenses.declared import Layers
from sparring.errors import ConfigError, DataError, InputError
from sparring.loading import Config, load_config, merge, render_config
from sparring.reports import stacks as rendered

TOML = """
[model]
spec = "digits-cnn"
[data]
source = "digits"
n = 20
[threat]
eps = 0.1
[stack]
fitted = "fitted"
flagged = "review"
[[stack.transforms]]
kind = "bit_depth"
bits = 4
[[stack.detectors]]
kind = "max_softmax"
fpr = 0.1
"""


@functools.cache
def net() -> nn.Module:
    return sp.load_model("digits-cnn")


@functools.cache
def images() -> tuple[Tensor, Tensor]:
    x, y = sp.load_data("digits", lazy=False)
    return x[:], y


@functools.cache
def fitted() -> tuple[d.Fitted, ...]:
    return tuple(kind().fit(net(), images()[0][100:500]) for kind in (d.MaxSoftmax, d.FeatureSqueezing))


def test_a_stack_without_layers_is_the_model() -> None:
    x, _ = images()
    decision = Stack(net())(x[:50])
    assert torch.equal(decision.labels, net()(x[:50]).argmax(1))
    assert decision.scores.shape == (50, 0)
    assert not decision.flagged.any()
    assert decision.actions == ["accept"] * 50


def test_transforms_answer_and_detectors_look_at_the_image_as_it_came() -> None:
    x, _ = images()
    stack = Stack(net(), [t.BitDepth(bits=1), t.Median()], fitted())
    decision = stack(x[:60])
    assert torch.equal(decision.labels, net()(t.Median()(t.BitDepth(bits=1)(x[:60]))).argmax(1))
    for column, one in enumerate(fitted()):
        torch.testing.assert_close(decision.scores[:, column], one.scores(net(), x[:60]), rtol=1e-4, atol=1e-5)
    flags = torch.stack([one.flags(decision.scores[:, i]) for i, one in enumerate(fitted())]).any(0)
    assert torch.equal(decision.flagged, flags)
    assert torch.equal(decision.withheld, flags)


def test_large_pictures_are_asked_about_version_by_version(monkeypatch: pytest.MonkeyPatch) -> None:
    from sparring.defenses import stack as module

    x, _ = images()
    features = d.Mahalanobis().fit(net(), x[100:300])
    whole = Stack(net(), [t.Median()], (*fitted(), features))
    together = whole(x[:20])
    monkeypatch.setattr(module, "TOGETHER", 0)
    apart = whole(x[:20])
    torch.testing.assert_close(apart.logits, together.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(apart.scores, together.scores, rtol=1e-4, atol=1e-4)


def test_the_policy_decides() -> None:
    x, _ = images()
    three = (*fitted(), d.Margin().fit(net(), x[100:500]))
    both = Stack(net(), detectors=three, policy=Policy(quorum=2))(x)
    each = torch.stack([one.flags(both.scores[:, i]) for i, one in enumerate(three)]).sum(0)
    assert torch.equal(both.flagged, each >= 2)
    assert 0 < int(both.flagged.sum()) < int((each >= 1).sum())
    accepted = Stack(net(), detectors=fitted(), policy=Policy(flagged="accept"))(x)
    assert not accepted.withheld.any()
    reviewed = Stack(net(), detectors=fitted(), policy=Policy(flagged="review"))(x)
    assert torch.equal(reviewed.withheld, reviewed.flagged)
    assert set(reviewed.actions) == {"accept", "review"}
    purified = Stack(net(), detectors=fitted(), policy=Policy(flagged="purify", purifier=(t.GaussianBlur(),)))(x)
    expected = torch.where(purified.flagged, net()(t.GaussianBlur()(x)).argmax(1), net()(x).argmax(1))
    assert torch.equal(purified.labels, expected)
    assert not purified.withheld.any()


@pytest.mark.parametrize(
    "wrong",
    [
        {"flagged": "ignore"},
        {"quorum": 0},
        {"flagged": "purify"},
        {"purifier": (t.Median(),)},
        {"flagged": "purify", "purifier": ("median",)},
    ],
)
def test_bad_policies_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError):
        Policy(**wrong)


def test_bad_stacks_are_refused() -> None:
    for wrong in (
        {"transforms": t.Median()},
        {"transforms": ["median"]},
        {"detectors": [d.Margin()]},
        {"detectors": fitted(), "policy": Policy(quorum=3)},
    ):
        with pytest.raises(InputError):
            Stack(net(), **wrong)
    with pytest.raises(InputError, match=r"\[0, 1\]"):
        Stack(net())(images()[0] * 2)


def test_a_random_stack_draws_afresh_unless_told() -> None:
    x, stack = images()[0][:8], Stack(net(), [t.Noise(std=0.2)])
    assert stack.random
    assert not torch.equal(stack(x).logits, stack(x).logits)
    first, again = (stack(x, generator=generator(4)).logits for _ in range(2))
    assert torch.equal(first, again)
    alone = torch.cat([stack(x[i : i + 1], generator=generator(4)).logits for i in range(8)])
    torch.testing.assert_close(alone, first, rtol=1e-4, atol=1e-4)
    model = stack.as_model()
    with torch.no_grad():
        assert not torch.equal(model(x), model(x))


def test_what_is_attacked_is_what_is_deployed() -> None:
    """Attacks and audits take the stack's classifier as a model; its answers are the stack's."""
    x, y = images()
    stack = Stack(net(), [t.JPEG(quality=60), t.BitDepth(bits=5)])
    model = stack.as_model()
    torch.testing.assert_close(model(x[:9]), stack(x[:9]).logits)
    evaluation = sp.evaluate(model, x[:20], y[:20], sp.ThreatModel("linf", 0.2), attacks=["pgd:steps=20"])
    assert evaluation.robust_accuracy < 0.3
    found = torch.stack([evaluation.adversarials[i] for i in evaluation.adversarials])
    truth = y[:20][torch.tensor(list(evaluation.adversarials))]
    assert bool((stack(found).labels != truth).all())
    assert sp.model.model_digest(model, (1, 8, 8)) != sp.model.model_digest(Stack(net()).as_model(), (1, 8, 8))


def test_a_stack_is_in_the_mode_of_its_model() -> None:
    """Else an audit of a stack says that a model was left in training mode which was not."""
    for training in (False, True):
        inner = nn.Linear(2, 2).train(training)
        assert all(module.training == training for module in Stack(inner, [t.BitDepth()]).as_model().modules())


def test_a_stack_is_stored_and_read_back(tmp_path: Path) -> None:
    x, _ = images()
    policy = Policy(flagged="purify", purifier=(t.JPEG(quality=50),))
    stack = Stack(net(), [t.BitDepth(bits=3), t.Noise(std=0.1)], fitted(), policy)
    again = load_stack(save_stack(stack, tmp_path / "stack"), net())
    assert str(again) == str(stack)
    assert again.policy == policy
    assert again.digest((1, 8, 8)) == stack.digest((1, 8, 8))
    one, other = (s(x[:20], generator=generator(1)) for s in (stack, again))
    assert torch.equal(one.logits, other.logits)
    assert torch.equal(one.scores, other.scores)
    digests = {
        Stack(net(), transforms, detectors, chosen).digest((1, 8, 8))
        for transforms in ([], [t.Median()], [t.Median(size=3)])
        for detectors, chosen in (((), Policy()), (fitted(), Policy()), (fitted(), Policy(flagged="review")))
    }
    assert len(digests) == 9


def test_a_damaged_folder_is_refused(tmp_path: Path) -> None:
    folder = save_stack(Stack(net(), [t.Median()], fitted()), tmp_path)
    said = (folder / "stack.json").read_text()
    with pytest.raises(DataError, match="no stack"):
        load_stack(tmp_path / "nowhere", net())
    for wrong in (
        "",
        "[]",
        "{}",
        said[: len(said) // 2],
        said.replace("median", "medium"),
        said.replace('"schema": 1', '"schema": 9'),
    ):
        (folder / "stack.json").write_text(wrong)
        with pytest.raises(DataError):
            load_stack(folder, net())
    (folder / "stack.json").write_text(said.replace("detector0.safetensors", "../detector0.safetensors"))
    with pytest.raises(DataError, match="elsewhere"):
        load_stack(folder, net())
    (folder / "stack.json").write_text(said)
    (folder / "detector1.safetensors").unlink()
    with pytest.raises(DataError, match="detector1"):
        load_stack(folder, net())


def declared(tmp_path: Path, text: str = TOML) -> Path:
    (tmp_path / "sparring.toml").write_text(text)
    return tmp_path / "sparring.toml"


def test_a_stack_is_declared(tmp_path: Path) -> None:
    config = load_config(declared(tmp_path))
    assert config.stack is not None
    assert config.stack.fitted == tmp_path / "fitted"
    layers = Layers.of(config.stack.model_dump())
    assert layers.transforms == (t.BitDepth(bits=4),)
    assert layers.detectors == ((d.MaxSoftmax(), 0.1),)
    assert layers.policy == Policy(flagged="review")
    assert load_config(declared(tmp_path, render_config(config, folder=tmp_path))) == config
    assert merge(Config(), model="digits-cnn").stack is None


@pytest.mark.parametrize(
    "stack",
    [
        '[stack]\nflagged = "ignore"',
        "[stack]\ntransforms = [3]",
        '[stack]\ntransforms = ["median"]',
        "[stack]\nquorum = true",
        "[stack]\nnonsense = 1",
        "[[stack.transforms]]\nquality = 75",
        '[[stack.transforms]]\nkind = "jpg"',
        '[[stack.transforms]]\nkind = "jpeg"\nquality = 0',
        '[[stack.transforms]]\nkind = "jpeg"\nsize = 3',
        '[[stack.detectors]]\nkind = "max_softmax"\nfpr = 2',
        '[[stack.detectors]]\nkind = "softmax"',
    ],
)
def test_bad_declarations_end_with_a_message(stack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    head = TOML.partition("[stack]")[0]
    declared(tmp_path, head + stack)
    with pytest.raises(ConfigError, match="stack"):
        CliRunner().invoke(app, ["fit"], catch_exceptions=False)
    assert not (tmp_path / "sparring-stack").exists()


def test_text_in_declarations_is_read_like_a_flag() -> None:
    layers = Layers.of({"transforms": [{"kind": "noise", "std": "8/255"}]})
    assert layers.transforms == (t.Noise(std=8 / 255),)


def test_fit_then_compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    declared(tmp_path)
    ran = CliRunner().invoke(app, ["fit"], catch_exceptions=False)
    assert ran.exit_code == 0
    assert "max_softmax" in ran.output
    assert "n = 20" in " ".join(ran.output.split())
    stack = load_stack(tmp_path / "fitted", net())
    assert stack.detectors[0].n == 1000
    arguments = ["compare", "-n", "2", "--effort", "quick", "-t", "median", "--report", "c.html", "--report", "c.json"]
    ran = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert ran.exit_code == 0
    said = json.loads((tmp_path / "c.json").read_text())
    assert [row["name"] for row in said["rows"]] == ["undefended", "sparring", "median"]
    page = (tmp_path / "c.html").read_text()
    for word in ("undefended", "median", "<svg", "Adaptive attacks on"):
        assert word in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    changed = TOML.replace("bits = 4", "bits = 3")
    declared(tmp_path, changed)
    with pytest.raises(ConfigError, match="sparring fit"):
        CliRunner().invoke(app, ["compare", "-n", "4"], catch_exceptions=False)


def test_an_audit_attacks_the_declared_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    declared(tmp_path)
    arguments = ["audit", "-n", "4", "-a", "fgsm", "--report", "r.json", "-q"]
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    from sparring.cli import stacks, subject

    loaded = subject.load(load_config(tmp_path / "sparring.toml"))
    x = loaded.data.images[0:5]
    torch.testing.assert_close(stacks.classifier(loaded.config, loaded.model)(x), net()(t.BitDepth(bits=4)(x)))
    said = stacks.remarks(loaded.config)
    assert "bit_depth > model" in said[0]
    assert "sparring compare" in said[1]


def test_the_script_of_a_report_puts_the_stack_up_again(tmp_path: Path) -> None:
    from sparring.loading import as_script

    scope: dict[str, object] = {"sp": sp}
    exec(as_script(load_config(declared(tmp_path))), scope)
    assert str(scope["model"].stack) == "bit_depth:bits=4 > model"


def test_compare_refuses_before_it_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments in (["compare"], ["compare", "-m", "digits-cnn", "-t", "median", "--report", "x.pdf"]):
        with pytest.raises(ConfigError):
            CliRunner().invoke(app, arguments, catch_exceptions=False)
    with pytest.raises(InputError, match="did you mean 'median'"):
        CliRunner().invoke(app, ["compare", "-m", "digits-cnn", "-n", "2", "-t", "medium"], catch_exceptions=False)


def test_without_each_layer() -> None:
    stack = Stack(net(), [t.Median(), t.JPEG()], fitted(), Policy(quorum=2))
    rest = dict(without_each(stack))
    assert rest["median"].transforms == (t.JPEG(),)
    assert rest["jpeg"].transforms == (t.Median(),)
    assert [s.policy.quorum for s in rest.values()] == [2, 2, 1, 1]


@pytest.fixture(scope="module")
def compared() -> Comparison:
    x, y = images()
    tried = {"bare <b>": Stack(net()), "layers": Stack(net(), [t.Median()], fitted()[:1])}
    threat = sp.ThreatModel("linf", 0.1)
    return compare_stacks(tried, x[:6], y[:6], threat, effort="quick", ablate="layers", fit_seconds={"layers": 1.5})


def test_a_comparison_with_ablation(compared: Comparison) -> None:
    names = [row.name for row in compared.rows]
    assert names == ["bare <b>", "layers", "layers without median", "layers without max_softmax"]
    by_name = {row.name: row.outcome for row in compared.rows}
    for step in compared.ablation:
        without = by_name[f"layers without {step.layer}"]
        assert step.adaptive == by_name["layers"].adaptive.value - without.adaptive.value
    assert set(compared.frontier) <= set(names)
    best = max(compared.rows, key=lambda row: (row.outcome.adaptive.value, row.outcome.accepted.value))
    assert best.name in compared.frontier
    assert json.loads(compared.to_json())["rows"][1]["fit_seconds"] == 1.5


def test_a_comparison_is_rendered(compared: Comparison) -> None:
    from rich.console import Console

    page = rendered.html(compared)
    assert "bare &lt;b&gt;" in page
    assert "<b>" not in page
    assert "<script" not in page
    assert page == rendered.html(compared)
    for width in (60, 100, 160):
        console = Console(width=width, record=True, file=io.StringIO())
        rendered.terminal(compared, console)
        said = console.export_text()
        assert "adaptive" in said
        assert max(len(line) for line in said.splitlines()) <= width
    with pytest.raises(InputError):
        compare_stacks({}, *images(), sp.ThreatModel("linf", 0.1))
    with pytest.raises(InputError, match="ablate"):
        compare_stacks({"a": Stack(net())}, *images(), sp.ThreatModel("linf", 0.1), ablate="b")


def test_colour_pictures_pass_through_a_whole_stack() -> None:
    x = pictures(30, 3, 16, 16)
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 5))
    one = d.FeatureSqueezing(squeezers=(t.BitDepth(bits=4),)).fit(model, x)
    decision = Stack(model, [t.JPEG(), t.ResizePad(), t.Colour8()], [one])(x)
    assert decision.logits.shape == (30, 5)


@pytest.mark.parametrize("subject", [["-n", "4"], ["--image", "picture.png"]], ids=["data", "image"])
def test_an_attack_goes_through_the_declared_transforms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subject: list[str]
) -> None:
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    declared(tmp_path)
    Image.new("L", (8, 8), 99).save("picture.png")
    asked: list[int] = []
    through = t.BitDepth.run
    monkeypatch.setattr(t.BitDepth, "run", lambda self, *a, **k: (asked.append(1), through(self, *a, **k))[1])
    ran = CliRunner().invoke(app, ["attack", *subject, "-a", "fgsm", "-o", "out"], catch_exceptions=False)
    assert ran.exit_code == 0
    assert "bit_depth > model" in ran.output
    assert asked
