"""`sparring.testing`: the assertion, what its failure says, and the pytest plug-in."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml
from scripts import docs_commands
from torch import Tensor, nn

import sparring as sp
from sparring.auditing.report import Finding, Gate
from sparring.errors import InputError
from sparring.testing import NotRobustError, assert_robust
from sparring.testing.setting import CURRENT, Setting

pytest_plugins = ("pytester",)
WORKFLOW = Path(__file__).resolve().parents[2] / "examples" / "ci" / "robustness.yml"


class Wide(nn.Module):
    """Two classes by the mean's side of a half; bright and dark images lie 0.4 from the boundary in linf."""

    def forward(self, images: Tensor) -> Tensor:
        mean = images.flatten(1).mean(1)
        return torch.stack([0.5 - mean, mean - 0.5], 1) * 10


def data(n: int = 40) -> tuple[Tensor, Tensor]:
    labels = torch.arange(n) % 2
    images = torch.where(labels == 1, 0.9, 0.1).view(-1, 1, 1, 1).expand(n, 1, 3, 3)
    return (images + 0.001 * torch.arange(n).view(-1, 1, 1, 1) / n).clamp(0, 1).contiguous(), labels


def test_a_robust_model_passes_and_its_report_comes_back() -> None:
    report = assert_robust(Wide(), data(), sp.ThreatModel("linf", 0.1), at_least=0.8, effort="quick")
    assert report.gate is not None
    assert report.gate.passed
    assert report.evaluation.robust_accuracy.value == 1.0


def test_the_model_stays_as_it_was() -> None:
    model = nn.Sequential(Wide(), nn.Dropout(0.0)).train().double()
    images, labels = data(4)
    assert_robust(model, (images.double(), labels), sp.ThreatModel("linf", 0.1), at_least=0.0, attacks=["fgsm"])
    assert model.training
    assert model[1].training


def test_a_weak_one_fails_and_says_what_broke_it() -> None:
    with pytest.raises(NotRobustError) as caught:
        assert_robust(Wide(), data(), sp.ThreatModel("linf", 0.45), at_least=0.5, attacks=["fgsm"])
    said = str(caught.value)
    for part in (
        "under 50.0 %",
        "robust accuracy",
        "0.0 % [",
        "asked: at least 50.0 %",
        "fgsm",
        "linf eps 0.45",
        "taken for",
    ):
        assert part in said, said
    assert max(map(len, said.splitlines())) < 400
    assert isinstance(caught.value, AssertionError)
    assert caught.value.report.evaluation.robust_accuracy.value == 0.0


def test_a_number_that_cannot_be_believed_fails_however_high_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate is the audit's; here it says so of a report with a finding that undermines it."""
    report = assert_robust(Wide(), data(), sp.ThreatModel("linf", 0.1), at_least=0.8, attacks=["fgsm"])
    doubt = Finding(
        code="zero-gradient", title="t", severity="critical", evidence="e", remedy="Do this.", undermines=True
    )
    gate = Gate(fail_under=0.8, passed=False, reason="the number can't be believed: zero-gradient")
    doubted = report.model_copy(update={"findings": (doubt,), "gate": gate})
    monkeypatch.setattr("sparring.testing.robust.audit", lambda *args, **options: doubted)
    with pytest.raises(NotRobustError, match=r"can't be believed: zero-gradient[\s\S]*\[zero-gradient\] .*Do this"):
        assert_robust(Wide(), data(), sp.ThreatModel("linf", 0.1), at_least=0.8)


def test_few_images_are_no_proof() -> None:
    """The interval decides: all of 4 images standing does not show 80 %."""
    with pytest.raises(NotRobustError, match="asked: at least 80"):
        assert_robust(Wide(), data(4), sp.ThreatModel("linf", 0.1), at_least=0.8, attacks=["fgsm"])


def test_what_is_no_data_is_refused() -> None:
    with pytest.raises(InputError, match="pair"):
        assert_robust(Wide(), data()[0], sp.ThreatModel("linf", 0.1), 0.5)  # type: ignore[arg-type]


def test_reports_of_one_test_do_not_overwrite_each_other(tmp_path: Path) -> None:
    setting = Setting("test_it[../a b]", folder=tmp_path)
    first = setting.report_path()
    setting.said.append("one")
    assert first is not None
    assert first.parent == tmp_path
    assert setting.report_path() != first
    assert re.fullmatch(r"[\w.-]+", first.name)


TESTS = """
import torch
import sparring as sp
from sparring.testing import assert_robust

def model(images):
    mean = images.flatten(1).mean(1)
    return torch.stack([0.5 - mean, mean - 0.5], 1)

labels = torch.arange(20) % 2
images = (0.1 + 0.8 * labels).view(-1, 1, 1, 1).expand(-1, 1, 3, 3).contiguous()

def test_good():
    report = assert_robust(model, (images, labels), sp.ThreatModel("linf", 0.1), at_least=0.7, effort="thorough")
    assert report.effort == "quick"

def test_bad():
    assert_robust(model, (images, labels), sp.ThreatModel("linf", 0.45), at_least=0.8, attacks=["fgsm"])

def test_other():
    pass
"""


def test_the_plugin(pytester: pytest.Pytester) -> None:
    """Options arrive, reports are named after their tests, the failure is readable, the summary tells all."""
    pytester.makepyfile(TESTS)
    token = CURRENT.set(None)
    try:
        result = pytester.runpytest_inprocess(
            "--sparring-effort", "quick", "--sparring-reports", "found", "--junitxml", "tests.xml", "-p", "no:xdist"
        )
    finally:
        CURRENT.reset(token)
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*NotRobustError: the interval after these attacks begins at 0.0 %, under 80.0 %*",
            "*robust accuracy*0.0 %*",
            "*report*found/test_bad.html*",
            "*= robust accuracy =*",
            "*::test_good: passed: *robust accuracy 100.0 %*",
            "*::test_bad: FAILED: *",
        ]
    )
    assert "raise NotRobustError" not in result.stdout.str(), "the traceback ends at the user's line"
    assert {path.name for path in (pytester.path / "found").iterdir()} == {
        f"test_{name}.{end}" for name in ("good", "bad") for end in ("html", "json")
    }
    assert "FAILED: " in (pytester.path / "tests.xml").read_text()


def test_the_workflow_calls_what_exists() -> None:
    text = WORKFLOW.read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    (job,) = workflow["jobs"].values()
    runs = "\n".join(step.get("run", "") for step in job["steps"])
    (audit,) = re.findall(r"^sparring audit (.*)$", runs, re.M)
    known = docs_commands.flags(docs_commands.commands()["audit"])
    assert set(re.findall(r"--[\w-]+", audit)) <= set(known)
    assert "--sparring-reports" in runs
    assert set(workflow[True]["workflow_call"]["inputs"]) == set(re.findall(r"inputs\.([\w-]+)", text))
