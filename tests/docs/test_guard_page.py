"""Every route, kind of alarm and secret of the guard is documented; the example files speak of what exists."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from tests.helpers_guard import KEY, SHAPE, png, running

from sparring.defenses import Stack
from sparring.guard import Engine, Guard, create_app
from sparring.guard.alerts import SAID
from sparring.guard.watch.stream import LIKELY
from sparring.loading import load_config
from sparring.loading.guard_table import GuardTable

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "guard.md").read_text(encoding="utf-8")
EXAMPLES = ROOT / "examples" / "guard"


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARRING_GUARD_KEY", KEY)


def test_every_route_and_every_kind_of_alarm_is_documented(digits_net, tmp_path) -> None:
    guard = Guard(lambda: Engine(Stack(digits_net), SHAPE), GuardTable(database=f"sqlite:///{tmp_path}/e.db"))
    with TestClient(create_app(guard)) as client:
        paths = client.get("/openapi.json").json()["paths"]
        names = set(re.findall(r"^# TYPE (\w+)", guard.metrics.text().decode(), re.M))
    assert len(paths) >= 12
    for path in paths:
        short = path.replace("/versions/{version}", "").replace("{model}", "NAME")
        assert short in PAGE, path
    for kind in LIKELY:
        assert f"`{kind}`" in PAGE
        assert kind in SAID
    panels = json.loads((EXAMPLES / "grafana.json").read_text())["panels"]
    asked = {
        name for panel in panels for target in panel["targets"] for name in re.findall(r"guard_\w+", target["expr"])
    }
    known = {re.sub(r"_(total|created)$", "", name) for name in names}
    assert {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in asked} <= known


def test_every_secret_is_documented() -> None:
    source = "\n".join(path.read_text() for path in (ROOT / "src" / "sparring").rglob("*.py") if "guard" in str(path))
    for name in set(re.findall(r"SPARRING_GUARD_[A-Z_]+", source)) - {"SPARRING_GUARD_TOKEN"}:
        assert name in PAGE, name


def test_the_example_declaration_can_be_read() -> None:
    settings = load_config(EXAMPLES / "sparring.toml").guard
    assert settings is not None
    assert settings.events == "closed"
    assert "guard" in (EXAMPLES / "Containerfile").read_text()
    for name in ("compose.yaml", "prometheus.yml", "sparring-guard.service"):
        assert "guard" in (EXAMPLES / name).read_text()


def test_the_example_client_is_answered(digits_net, digits_data, tmp_path, monkeypatch, capsys) -> None:
    spec = importlib.util.spec_from_file_location("guard_client", EXAMPLES / "client.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    picture = tmp_path / "one.png"
    picture.write_bytes(png(digits_data[0][0]))
    with running(digits_net, database=f"sqlite:///{tmp_path}/e.db") as service:
        monkeypatch.setattr("sys.argv", ["client.py", service.url, str(picture)])
        module.main()
    assert re.search(r"one\.png: \d \(0\.\d+|1\.0\)", capsys.readouterr().out)
