"""`sparring audit`: the baseline, and scripts that replay what was declared."""

import json

import pytest
from tests.edges.auditing_models import replayed
from typer.testing import CliRunner

from sparring.cli import app
from sparring.errors import ConfigError
from sparring.loading import Config, as_script, load_config, merge

SMALL = ["audit", "--model", "digits-cnn", "-n", "60", "--attack", "fgsm", "--quiet"]


def run(*arguments):
    return CliRunner().invoke(app, [*SMALL, *map(str, arguments)])


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audits")
    assert run("--eps", 0.02, "--report", folder / "old.json", "--out", folder / "old").exit_code == 0
    again = ["--eps", 0.15, "--baseline", folder / "old.json", "--target", 3]
    assert run(*again, "--report", folder / "new.json", "--out", folder / "new").exit_code == 0
    return [json.loads((folder / f"{name}.json").read_text()) for name in ("old", "new")]


def test_the_baseline_is_compared(reports):
    old, new = reports
    assert old["comparison"] is None
    assert new["comparison"]["images"] == 60
    assert any(words.startswith("goal: any wrong class then") for words in new["comparison"]["differences"])


def test_a_script_stands_on_its_own(reports):
    for report in reports:
        (finding,) = [f for f in report["findings"] if f["code"] == "evasion"]
        assert "sp.load_model('digits-cnn')\nimages, labels = sp.load_data('digits', n=60)" in finding["replay"]
        assert "broken_by='fgsm'" in replayed(finding["replay"])
    assert "targets = labels.new_full((len(labels),), 3)" in reports[1]["findings"][0]["replay"]


@pytest.mark.parametrize(
    ("content", "said"), [(None, "cannot be read"), (b"{}", "not a sparring report"), (b"\xff\x00", "not a sparring")]
)
def test_a_baseline_that_is_none_is_refused_before_the_work(tmp_path, content, said):
    path = tmp_path / "old.json"
    if content is not None:
        path.write_bytes(content)
    result = run("--eps", 0.1, "--baseline", path, "--out", tmp_path / "out")
    assert isinstance(result.exception, ConfigError)
    assert said in str(result.exception)
    assert str(path) in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_what_is_declared_becomes_python(tmp_path):
    (tmp_path / "sparring.toml").write_text(
        """
        [model]
        spec = "package.module:factory"
        weights = "net's weights.safetensors"
        mean = [0.5, 0.4, 0.3]
        outputs = "probabilities"
        [data]
        source = "digits"
        size = [8, 8]
        n = 7
        [threat]
        eps = "8/255"
        mask = "mask.png"
        """
    )
    script = as_script(load_config(tmp_path / "sparring.toml"), target=2)
    weights, mask = tmp_path / "net's weights.safetensors", tmp_path / "mask.png"
    assert script.splitlines() == [
        f"model = sp.load_model('package.module:factory', weights={str(weights)!r}, mean=(0.5, 0.4, 0.3), "
        "outputs='probabilities')",
        "images, labels = sp.load_data('digits', n=7, size=(8, 8))",
        f"mask = sp.loading.load_mask({str(mask)!r})",
        "targets = labels.new_full((len(labels),), 2)",
    ]
    compile(script, "script", "exec")
    with pytest.raises(ConfigError, match="declares the model"):
        as_script(merge(Config(), data="digits"))


def test_a_name_cannot_break_out_of_its_quotes():
    spec = "x:y'); import os  #\n"
    script = as_script(merge(Config(), model=spec, data="digits"))
    assert script.startswith("model = sp.load_model(" + repr(spec) + ")\n")
    compile(script, "script", "exec")
