"""Weight files: what is accepted, what is refused, and that nothing is ever unpickled."""

import os
import pickle
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sparring.errors import DataError, InputError
from sparring.loading import load_model
from sparring.loading import weights as room
from sparring.loading.weights import read_weights


class Net(nn.Module):
    def __init__(self, width=3):
        super().__init__()
        self.first = nn.Linear(4, width)
        self.second = nn.Linear(width, 2)

    def forward(self, images):
        return self.second(self.first(images.flatten(1)).relu())


class Trap:
    """Unpickling this makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


IMAGES = torch.rand(3, 1, 2, 2, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def trained():
    torch.manual_seed(5)
    return Net().eval()


@pytest.fixture
def state(trained):
    return {name: tensor.clone() for name, tensor in trained.state_dict().items()}


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ".legacy"])
def test_every_accepted_format_gives_the_same_logits(tmp_path, trained, state, suffix):
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=suffix != ".legacy")
    model = load_model(Net(), weights=path)
    assert torch.equal(model(IMAGES), trained(IMAGES))


@pytest.mark.parametrize(
    "nest",
    [
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model_state_dict": s, "optimizer": {"lr": 0.1}},
        lambda s: {"model": s},
        lambda s: {"model": {"state_dict": s}},
        lambda s: {f"module.{k}": v for k, v in s.items()},
        lambda s: {"state_dict": {f"_orig_mod.module.{k}": v for k, v in s.items()}},
    ],
)
def test_nesting_and_prefixes_are_taken_off(tmp_path, trained, state, nest):
    torch.save(nest(state), tmp_path / "w.pt")
    assert torch.equal(load_model(Net(), weights=tmp_path / "w.pt")(IMAGES), trained(IMAGES))


def test_weights_of_the_whole_wrapped_model_load_too(tmp_path, trained):
    whole = load_model(trained, mean=0.25, std=0.5, outputs="probabilities")
    save_file(whole.state_dict(), tmp_path / "whole.safetensors")
    again = load_model(Net(), weights=tmp_path / "whole.safetensors", mean=0.25, std=0.5, outputs="probabilities")
    assert torch.equal(again.inner(IMAGES), whole.inner(IMAGES))


def test_a_misfit_names_missing_unexpected_and_misshapen(tmp_path, state):
    state["extra"] = torch.zeros(1)
    del state["second.bias"]
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"do not fit Net: 1 missing: second\.bias; 1 unexpected: extra; ") as caught:
        load_model(Net(width=5), weights=tmp_path / "w.safetensors")
    assert "first.weight (file (3, 4), model (5, 4))" in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_plain_pickle_is_refused_and_not_run(tmp_path, protocol):
    trap = tmp_path / "sprung"
    (tmp_path / "w.pt").write_bytes(pickle.dumps({"state_dict": Trap(trap)}, protocol=protocol))
    with pytest.raises(DataError, match=r"w\.pt"):
        load_model(Net(), weights=tmp_path / "w.pt")
    assert not trap.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_with_code_is_refused_and_not_run(tmp_path, state, zipped):
    trap = tmp_path / "sprung"
    torch.save({"state_dict": state, "extra": Trap(trap)}, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(DataError, match=r"holds pickled objects \(\w+\.mkdir\).*never.*safetensors\.torch\.save_file"):
        load_model(Net(), weights=tmp_path / "w.pt")
    assert not trap.exists()
    torch.load(tmp_path / "w.pt", weights_only=False)
    assert trap.exists(), "the trap works, so not springing it means something"


def test_a_text_is_not_called_pickled(tmp_path):
    text = tmp_path / "net.pt"
    text.write_text("import torch\n")
    with pytest.raises(DataError, match="neither safetensors nor a checkpoint"):
        read_weights(text)


def test_a_whole_pickled_module_is_refused_with_the_way_out(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(DataError, match=r"torch\.nn\.modules\.linear\.Linear.*load it yourself and save plain weights"):
        load_model(Net(), weights=tmp_path / "module.pt")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_torchscript_archive_is_refused(tmp_path):
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "script.pt")
    with pytest.raises(DataError, match=r"pickled objects .*TorchScript"):
        load_model(Net(), weights=tmp_path / "script.pt")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("keep", [1, 20, 0.5, 0.9])
def test_a_truncated_file_is_named(tmp_path, state, suffix, keep):
    path = tmp_path / f"w{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(len(content) * keep)])
    with pytest.raises(DataError, match=rf"w\{suffix} .*(cannot be read|holds)"):
        load_model(Net(), weights=path)


def test_missing_empty_folder_and_foreign_files(tmp_path):
    (tmp_path / "empty.pt").touch()
    (tmp_path / "net.onnx").write_bytes(b"x")
    (tmp_path / "text.pt").write_text("hello, this is no checkpoint")
    with pytest.raises(DataError, match=r"gone\.pt does not exist; check the path"):
        read_weights(tmp_path / "gone.pt")
    with pytest.raises(DataError, match=r"empty\.pt is empty \(0 bytes\)"):
        read_weights(tmp_path / "empty.pt")
    with pytest.raises(DataError, match="is a folder, not a file"):
        read_weights(tmp_path)
    with pytest.raises(DataError, match=r"net\.onnx is \.onnx, expected \.safetensors"):
        read_weights(tmp_path / "net.onnx")
    with pytest.raises(DataError, match=r"text\.pt cannot be read"):
        read_weights(tmp_path / "text.pt")


@pytest.mark.parametrize(
    ("content", "held"), [({"epoch": 3}, "the entries epoch"), ({}, "nothing"), ([torch.ones(1)], "a list")]
)
def test_a_checkpoint_without_weights_says_what_it_holds(tmp_path, content, held):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(DataError, match=f"holds {held}, expected names with tensors"):
        read_weights(tmp_path / "w.pt")


def test_an_archive_that_unpacks_too_large_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "MAX_BYTES", 10_000)
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 10_001)
    assert (tmp_path / "bomb.pt").stat().st_size < 1000
    with pytest.raises(DataError, match="is 10001 bytes unpacked; at most 10000"):
        read_weights(tmp_path / "bomb.pt")
