"""Corners where a number, a place or a name could be taken for another."""

from __future__ import annotations

import pytest
import torch
from tests.helpers_core import Linear, pictures
from torch import Tensor, nn
from typer.testing import CliRunner

import sparring as sp
from sparring.budget import parse_number
from sparring.cli import app
from sparring.cli.subject import class_index
from sparring.errors import InputError, ModelError
from sparring.evaluation.effort import EFFORTS
from sparring.evaluation.evaluation import MISLED, State
from sparring.evaluation.stages import Setting, drawn
from sparring.files import check_writable, write_whole


@pytest.mark.parametrize("text", ["1_0/255", "٨/255", "0_1"])
def test_a_budget_is_written_in_plain_digits(text: str) -> None:
    with pytest.raises(InputError, match="must be a number"):
        parse_number(text)


def test_a_class_that_is_called_a_number_goes_by_its_name() -> None:
    assert class_index("1", ("1", "2", "3"), "--target") == 0
    assert class_index("1", ("cat", "dog"), "--target") == 1


@pytest.mark.parametrize("name", ["a" * 300, "a\0b"])
def test_a_name_that_no_file_can_have(tmp_path, name: str) -> None:
    for use in (check_writable, lambda path: write_whole(path, b"")):
        with pytest.raises(InputError, match="cannot write"):
            use(tmp_path / name / "report.html")


def test_a_model_without_values_is_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).to("meta")
    with pytest.raises(ModelError, match="meta"):
        sp.evaluate(model, pictures(4, 1, 4, 4), torch.zeros(4, dtype=torch.int64), sp.ThreatModel("linf", 0.1))


@pytest.mark.parametrize(("norm", "eps"), [("l1", 0.001), ("l2", 1e-4), ("l2", 0.0)])
def test_rounding_never_excuses_a_change_beyond_a_hundredth_of_the_budget(norm: str, eps: float) -> None:
    images = torch.zeros(1, 3, 224, 224)
    moved = images.clone()
    moved[0, 0, 0, 0] = 1.02 * eps + 1e-9
    assert not bool(sp.ThreatModel(norm, eps).contains(images, moved))


def test_the_spot_check_draws_the_same_pictures_in_any_order() -> None:
    names = [f"{i:04d}" for i in range(300)] + ["twin", "twin"]

    def sample(order: list[int]) -> list[str]:
        state = State(torch.zeros(len(order), dtype=torch.int64), None)
        state.digests = [names[i] for i in order]
        chosen = drawn(state, torch.ones(len(order), dtype=torch.bool), 60, "spot check 1", 0)
        return sorted(state.digests[i] for i in chosen.nonzero().flatten().tolist())

    assert sample(list(range(302))) == sample(list(reversed(range(302))))


def test_autoattack_in_l1_has_the_restarts_and_targets_of_its_l1_version() -> None:
    setting = Setting("l1", "gradients", 0, lambda: torch.zeros(3, dtype=torch.bool))
    state = State(torch.zeros(3, dtype=torch.int64), None)
    state.seen[:] = True
    state.predictions[:] = 0
    names = [str(stage.attack) for stage in EFFORTS["autoattack"].plan(state, setting)]
    assert names[:2] == ["apgd:restarts=5", "apgd:loss=dlr,targets=5"]
    assert "rescale=false" in names[3]


class Steep(nn.Module):
    """A linear model whose logits go through a tanh so steep that no gradient says what a step does."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Linear(16, 3, seed=1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        top = logits.topk(2, dim=1).values.mean(1, keepdim=True)
        return 10 * torch.tanh(1e4 * (logits - top)) + 1e-6 * logits


def test_gradients_that_mislead_are_told_whether_or_not_a_search_finds_more() -> None:
    images = pictures(60, 1, 4, 4)
    model = Steep()
    labels = model(images).argmax(1).detach()
    found = sp.evaluate(model, images, labels, sp.ThreatModel("linf", 1e-3))
    assert any(warning.startswith(MISLED) for warning in found.warnings)
    assert found.missed_bound is None
    plain = sp.evaluate(model.net, images, labels, sp.ThreatModel("linf", 1e-3))
    assert not any(warning.startswith(MISLED) for warning in plain.warnings)


def test_a_folder_flag_goes_over_the_reports_of_the_file(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sparring.toml").write_text('[model]\nspec = "digits-cnn"\n[audit]\nreports = ["elsewhere.html"]\n')
    arguments = ["audit", "--eps", "0.1", "-n", "20", "--attack", "fgsm", "--out", "here", "--quiet"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert (tmp_path / "here" / "report.html").is_file()
    assert not (tmp_path / "elsewhere.html").exists()
