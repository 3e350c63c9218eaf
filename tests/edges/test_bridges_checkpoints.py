"""Hugging Face checkpoints from a folder; timm and torchvision models with the normalisation of their configuration."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

import sparring as sp
from sparring.bridges import open_huggingface, remarks
from sparring.errors import DataError, InputError, ModelError

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    """A tiny vision transformer with random weights, saved as its library saves it."""
    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(1)
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, image_size=16, patch_size=4,
        id2label={0: "ant", 1: "bee", 2: "cat"}, initializer_range=0.5,
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config).eval()
    model.save_pretrained(folder)
    write(folder)
    return folder, model


def write(folder: Path, **changes: Any) -> None:
    settings = {"do_normalize": True, "image_mean": MEAN, "image_std": STD, "size": {"height": 16, "width": 16}}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings | changes))


def images(n: int = 40) -> torch.Tensor:
    return torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(4))


def by_hand(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(part).view(3, 1, 1) for part in (MEAN, STD))
    logits: torch.Tensor = model(pixel_values=(x - mean) / std).logits
    return logits


def copied(folder: Path, to: Path) -> Path:
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


def test_fgsm_through_a_checkpoint_equals_fgsm_by_hand(checkpoint: tuple[Path, nn.Module]) -> None:
    folder, own = checkpoint
    model, x = sp.load_model(str(folder)), images(200)
    assert torch.allclose(model(x), by_hand(own, x), atol=1e-5)
    labels = model(x).argmax(1)
    z = x.clone().requires_grad_()
    nn.functional.cross_entropy(by_hand(own, z), labels, reduction="sum").backward()
    stepped = (x + 0.05 * z.grad.sign()).clamp(0, 1)
    found = sp.attacks.FGSM()(model, x, sp.Untargeted(labels), sp.ThreatModel("linf", 0.05))
    assert (by_hand(own, found).argmax(1) == by_hand(own, stepped).argmax(1)).float().mean() >= 0.999
    assert (by_hand(own, stepped).argmax(1) != labels).float().mean() > 0.1
    assert "mean 0.4, 0.5, 0.6" in remarks(model)[0]
    assert "--size 16" in remarks(model)[1]
    assert open_huggingface(folder).class_names == ("ant", "bee", "cat")


def test_sharded_weights_are_read(checkpoint: tuple[Path, nn.Module], tmp_path: Path) -> None:
    folder = copied(checkpoint[0], tmp_path)
    checkpoint[1].save_pretrained(folder, max_shard_size="8KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    assert (folder / "model.safetensors.index.json").is_file()
    assert torch.allclose(open_huggingface(folder)(images()), by_hand(checkpoint[1], images()), atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "scale", "offset"),
    [
        ({"rescale_factor": 1 / 127.5, "rescale_offset": True}, 2.0, 1.0),
        ({"do_rescale": False}, 255.0, 0.0),
        ({"do_normalize": False}, 1.0, 0.0),
    ],
)
def test_every_kind_of_rescaling(
    changes: dict[str, Any], scale: float, offset: float, checkpoint: tuple[Path, nn.Module], tmp_path: Path
) -> None:
    folder = copied(checkpoint[0], tmp_path)
    write(folder, **changes)
    x = images() * scale - offset
    known = checkpoint[1](pixel_values=x).logits if "do_normalize" in changes else by_hand(checkpoint[1], x)
    assert torch.allclose(open_huggingface(folder)(images()), known, atol=1e-3)


def test_without_a_preprocessor_nothing_is_assumed_silently(checkpoint: tuple[Path, nn.Module], tmp_path: Path) -> None:
    folder = copied(checkpoint[0], tmp_path)
    (folder / "preprocessor_config.json").unlink()
    assert "no preprocessor_config.json" in remarks(open_huggingface(folder))[0]


def test_the_users_mean_does_not_come_on_top(checkpoint: tuple[Path, nn.Module]) -> None:
    with pytest.raises(InputError, match="own normalisation"):
        sp.load_model(str(checkpoint[0]), mean=0.5)
    with pytest.raises(InputError, match="own weights"):
        sp.load_model(str(checkpoint[0]), weights="w.safetensors")


class Harm:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("harmed"),)


def test_hostile_checkpoints_are_refused(
    checkpoint: tuple[Path, nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = copied(checkpoint[0], tmp_path)
    weights = folder / "model.safetensors"
    kept = weights.read_bytes()
    weights.unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Harm()))
    with pytest.raises(DataError, match=r"pytorch_model\.bin, whose format can run code"):
        open_huggingface(folder)
    weights.write_bytes(pickle.dumps(Harm()))
    with pytest.raises((DataError, ModelError)):
        open_huggingface(folder)
    for place in ("../other.safetensors", "pytorch_model.bin", "/etc/passwd"):
        weights.unlink(missing_ok=True)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": place}}))
        with pytest.raises(DataError, match="no safetensors file of that folder"):
            open_huggingface(folder)
    weights.write_bytes(kept)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModelForImageClassification": "x.Y"}}))
    (folder / "x.py").write_text("from pathlib import Path; Path('harmed').touch()")
    with pytest.raises(DataError, match="code of its own"):
        open_huggingface(folder)
    (folder / "config.json").write_text("[1]")
    with pytest.raises(DataError, match="table of settings"):
        open_huggingface(folder)
    assert not (tmp_path / "harmed").exists()


ELSEWHERE: dict[str, dict[str, Any]] = {
    "kernel": {"attn_implementation": "someone/kernel"},
    "kernel, hidden": {"vision_config": {"deep": [{"_attn_implementation": "someone/kernel"}]}},
    "quantiser": {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
    "backbone": {"model_type": "dpt", "backbone": "someone/backbone", "use_pretrained_backbone": True},
    "timm": {"model_type": "timm_wrapper", "architecture": "hf-hub:someone/model"},
    "pipeline": {"custom_pipelines": {"x": {"impl": "x.Y"}}},
}


@pytest.mark.parametrize("kind", ELSEWHERE)
def test_a_configuration_that_leads_elsewhere_is_refused(
    kind: str, checkpoint: tuple[Path, nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers would install kernels from a hub, or ask it for a backbone, though told that files are local."""
    folder = copied(checkpoint[0], tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | ELSEWHERE[kind]))
    asked: list[Any] = []
    monkeypatch.setattr("socket.getaddrinfo", lambda *place, **_: asked.append(place))
    with pytest.raises(DataError, match=r"asks for (code of its own|a model of another place) \(.*refused"):
        open_huggingface(folder)
    monkeypatch.setattr("sparring.bridges.huggingface.ELSEWHERE", {})
    if kind == "backbone":
        with pytest.raises(ModelError):
            open_huggingface(folder)
    assert asked == []


def test_attention_of_the_library_itself_is_fine(checkpoint: tuple[Path, nn.Module], tmp_path: Path) -> None:
    folder = copied(checkpoint[0], tmp_path)
    config = json.loads((folder / "config.json").read_text()) | {"attn_implementation": "eager"}
    (folder / "config.json").write_text(json.dumps(config))
    assert torch.allclose(open_huggingface(folder)(images()), by_hand(checkpoint[1], images()), atol=1e-5)


def test_an_adapter_is_refused_and_unused_weights_are_told(checkpoint: tuple[Path, nn.Module], tmp_path: Path) -> None:
    folder = copied(checkpoint[0], tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    assert any("have no place in the ViT" in line for line in remarks(open_huggingface(folder)))
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "someone/base"}))
    with pytest.raises(DataError, match="adapter"):
        open_huggingface(folder)


@pytest.mark.parametrize(
    "changes",
    [{"image_mean": "abc"}, {"rescale_factor": 0}, {"rescale_factor": "x"}, {"image_mean": [[1], [2], [3]]}],
)
def test_a_normalisation_that_is_none_is_explained(
    changes: dict[str, Any], checkpoint: tuple[Path, nn.Module], tmp_path: Path
) -> None:
    folder = copied(checkpoint[0], tmp_path)
    write(folder, **changes)
    with pytest.raises(DataError, match="normalisation that is none"):
        open_huggingface(folder)


def test_a_configuration_that_would_fill_the_memory_is_refused(
    checkpoint: tuple[Path, nn.Module], tmp_path: Path
) -> None:
    folder = copied(checkpoint[0], tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_labels": 10**9}))
    with pytest.raises(DataError, match="at most 1000000"):
        open_huggingface(folder)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("key", ["num_hidden_layers", "depths", "num_block_repeats"])
def test_a_configuration_without_an_end_is_refused(
    key: str, checkpoint: tuple[Path, nn.Module], tmp_path: Path
) -> None:
    """Layers are built one after the other, a thousand million of them too."""
    folder = copied(checkpoint[0], tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {key: [1, 10**9] if key == "depths" else 10**9}))
    with pytest.raises(DataError, match=rf"declares {key} = .*, but the folder holds \d+ tensors"):
        open_huggingface(folder)


def test_a_checkpoint_with_lost_weights_is_refused(checkpoint: tuple[Path, nn.Module], tmp_path: Path) -> None:
    """The library would fill them with random numbers and go on."""
    folder = copied(checkpoint[0], tmp_path)
    held = load_file(folder / "model.safetensors")
    held.pop("classifier.weight")
    save_file(held, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"no fitting weights .*classifier\.weight"):
        open_huggingface(folder)


TIMM = """
from torch import nn
class Net(nn.Sequential):
    def __init__(self, **config):
        super().__init__(nn.Flatten(), nn.Linear(768, 3))
        self.pretrained_cfg = config
def net(): return Net(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), input_size=(3, 16, 16))
def bare(): return Net()
"""


def test_the_normalisation_of_a_timm_model_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_timm.py").write_text(TIMM)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = sp.load_model("my_timm.py:net")
    inner = next(part for part in model.modules() if isinstance(part, nn.Sequential))
    mean, std = (torch.tensor(part).view(3, 1, 1) for part in (MEAN, STD))
    assert torch.allclose(model(images()), inner((images() - mean) / std), atol=1e-6)
    assert "pretrained_cfg" in remarks(model)[0]
    given = sp.load_model("my_timm.py:net", mean=0.0, std=1.0)
    assert remarks(given) == []
    assert remarks(sp.load_model("my_timm.py:bare")) == []
    save_file(inner.state_dict(), tmp_path / "w.safetensors")
    loaded = sp.load_model("my_timm.py:net", weights=tmp_path / "w.safetensors")
    assert torch.allclose(loaded(images()), model(images()))


TORCHVISION = """
from types import SimpleNamespace
from torch import nn
def resnet5(): return nn.Sequential(nn.Flatten(), nn.Linear(768, 3))
def get_model_weights(name):
    if name != "resnet5": raise ValueError(name)
    transforms = lambda: SimpleNamespace(mean=[0.4, 0.5, 0.6], std=[0.2, 0.25, 0.3], crop_size=[224])
    return SimpleNamespace(DEFAULT=SimpleNamespace(transforms=transforms))
def other(): return resnet5()
"""


def test_the_normalisation_of_a_torchvision_model_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for torchvision with the parts of its interface that are used."""
    (tmp_path / "torchvision" / "models").mkdir(parents=True)
    (tmp_path / "torchvision" / "__init__.py").write_text("")
    (tmp_path / "torchvision" / "models" / "__init__.py").write_text(TORCHVISION)
    monkeypatch.chdir(tmp_path)
    for name in ("torchvision", "torchvision.models"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    try:
        model = sp.load_model("torchvision.models:resnet5")
        assert "torchvision's default weights" in remarks(model)[0]
        assert "0.25" in remarks(model)[0]
        assert remarks(sp.load_model("torchvision.models:other")) == []
    finally:
        for name in ("torchvision", "torchvision.models"):
            sys.modules.pop(name, None)
