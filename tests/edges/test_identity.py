"""Records of an earlier run are used again only if nothing that made them has changed."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import sparring as sp
from sparring.identity import code_of, settings_of

IMAGES = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 0, 1])
THREAT = sp.ThreatModel("linf", 0.1)


class Gate(nn.Module):
    """Plain on images of the grid, odd beyond a threshold: its answers on a probe say nothing about that."""

    def __init__(self, **held: object) -> None:
        super().__init__()
        for name, value in held.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        total = x.flatten(1).sum(1)
        return torch.stack([total, -total], 1)


def runs(out: Path, model: object) -> int:
    """How many runs lie in `out` after one of `model`."""
    sp.evaluate(model, IMAGES, LABELS, THREAT, attacks=["fgsm"], out=out)  # type: ignore[arg-type]
    return sum(path.is_dir() for path in out.iterdir())


def closed_over(value: object) -> Callable[[Tensor], Tensor]:
    def model(x: Tensor) -> Tensor:
        return Gate()(x) if value is not None else x.flatten(1)[:, :2]

    return model


class Scale(nn.Module):
    """A buffer that is not saved with the weights."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(value), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return Gate()(x) + 0 * self.scale * torch.rand(1)


PAIRS = [
    (Gate(settings={"threshold": 0.2}), Gate(settings={"threshold": 0.05})),
    (Gate(_threshold=0.2), Gate(_threshold=0.05)),
    (Gate(table=torch.ones(3)), Gate(table=torch.zeros(3))),
    (Gate(rule=lambda x: x + 1), Gate(rule=lambda x: x + 2)),
    (Scale(1.0), Scale(2.0)),
    (closed_over(0.2), closed_over(0.05)),
    (closed_over(torch.ones(2)), closed_over(torch.zeros(2))),
]


@pytest.mark.parametrize(("first", "second"), PAIRS, ids=["dict", "private", "tensor", "lambda", "buffer", "cell", "t"])
def test_another_value_is_another_model(tmp_path: Path, first: object, second: object) -> None:
    assert runs(tmp_path, first) == 1
    assert runs(tmp_path, first) == 1, "the same model goes on from its own records"
    assert runs(tmp_path, second) == 2


def test_another_surrogate_is_another_model(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Hardtanh(), nn.Linear(16, 2))
    assert runs(tmp_path, sp.bpda(net, {"1": lambda x: x * 1.0})) == 1
    assert runs(tmp_path, sp.bpda(net, {"1": lambda x: x * 0.0})) == 2


def test_code_is_known_by_the_files_it_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "helper_of_mine.py").write_text("STEP = 1\n")
    (tmp_path / "attack_of_mine.py").write_text("import helper_of_mine\n\n\nclass Mine:\n    pass\n")
    mine = importlib.import_module("attack_of_mine").Mine
    try:
        before = code_of(mine)
        assert code_of(mine) == before
        (tmp_path / "helper_of_mine.py").write_text("STEP = 2\n")
        assert code_of(mine) != before
    finally:
        sys.modules.pop("attack_of_mine"), sys.modules.pop("helper_of_mine")


def test_code_typed_at_a_prompt_is_known_by_its_bytecode() -> None:
    def typed(text: str) -> object:
        space: dict[str, object] = {"__name__": "typed_at_a_prompt", "Tensor": Tensor}
        exec(text, space)
        return space["f"]

    assert code_of(typed("def f(x): return x + 1")) == code_of(typed("def f(x): return x + 1"))
    assert code_of(typed("def f(x): return x + 1")) != code_of(typed("def f(x): return x + 2"))
    limit = "limit = {}\ndef f(x): return x.clamp_max(limit)"
    assert code_of(typed(limit.format(1))) != code_of(typed(limit.format(2)))


def test_things_that_hold_each_other_are_no_riddle() -> None:
    first, second = Gate(), Gate()
    first.__dict__["other"], second.__dict__["other"] = [second], [first]
    assert settings_of(first) == settings_of(first)


@pytest.mark.parametrize("where", ["site-packages", "dist-packages", "mine"])
def test_what_is_installed_elsewhere_is_not_read_through(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch in the user's or the system's folder took minutes to read, as if it were part of every model."""
    folder = tmp_path / where
    folder.mkdir()
    name = f"helper_in_{where.replace('-', '_')}"
    (folder / f"{name}.py").write_text("def double(x):\n    return 2 * x\n")
    monkeypatch.syspath_prepend(str(folder))
    helper = importlib.import_module(name)
    first = code_of(helper.double)
    (folder / f"{name}.py").write_text("def double(x):\n    return 2 * x  # a remark\n")
    changed = code_of(helper.double) != first
    assert changed == (where == "mine"), "only one's own files are part of a model"
    del sys.modules[name]
