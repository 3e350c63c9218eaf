"""Keras models as ours, on the backend of KERAS_BACKEND: torch here, jax and tensorflow in the slow tests."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

import sparring as sp
from sparring.bridges import from_keras, open_keras, remarks
from sparring.errors import DataError, InputError, ModelError, UnsupportedError
from sparring.testing import assert_robust

os.environ.setdefault("KERAS_BACKEND", "torch")
import keras

EPS = 0.03
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def net() -> Any:
    """Convolution, batch norm, residual sum and a softmax head, with random weights."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(4, 3, padding="same")(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Activation("gelu")(x)
    x = keras.layers.Add()([x, keras.layers.Conv2D(4, 3, padding="same", activation="tanh")(x)])
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(8, 3, strides=2)(x))
    outputs = keras.layers.Dense(
        10, activation="softmax", kernel_initializer=keras.initializers.RandomNormal(stddev=3)
    )(x)
    model = keras.Model(inputs, outputs)
    logits = np.log(np.asarray(keras.ops.convert_to_numpy(model(hwc(images(200)), training=False))))
    kernel, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([kernel, bias - logits.mean(0)])
    return model


def images(n: int) -> torch.Tensor:
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def hwc(x: torch.Tensor) -> np.ndarray:
    return x.detach().permute(0, 2, 3, 1).contiguous().numpy()


def probabilities(model: Any, x: torch.Tensor) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(model(hwc(x), training=False)))


def own_gradient(model: Any, x: torch.Tensor, labels: np.ndarray) -> np.ndarray:
    """The gradient of the cross-entropy as one writes it in the backend."""
    given, rows = hwc(x), np.arange(len(labels))
    if keras.config.backend() == "torch":
        z = torch.from_numpy(given).requires_grad_()
        (-torch.log(model(z, training=False))[rows, labels].sum()).backward()
        assert z.grad is not None
        return z.grad.numpy()
    if keras.config.backend() == "jax":
        import jax
        import jax.numpy as jnp

        values = [v.value for v in model.trainable_variables], [v.value for v in model.non_trainable_variables]

        def loss(z: Any) -> Any:
            return -jnp.log(model.stateless_call(*values, z, training=False)[0])[rows, labels].sum()

        return np.asarray(jax.grad(loss)(given))
    import tensorflow as tf

    z = tf.constant(given)
    with tf.GradientTape() as tape:
        tape.watch(z)
        loss = -tf.reduce_sum(tf.gather(tf.math.log(model(z, training=False)), labels, batch_dims=1))
    return np.asarray(tape.gradient(loss, z))


def test_fgsm_equals_fgsm_written_in_the_backend(net: Any) -> None:
    x, model = images(1000), from_keras(net)
    labels = probabilities(net, x).argmax(1)
    stepped = np.clip(hwc(x) + EPS * np.sign(own_gradient(net, x, labels)), 0, 1)
    found = sp.attacks.FGSM()(model, x, sp.Untargeted(torch.from_numpy(labels)), sp.ThreatModel("linf", EPS))
    ours, own = (probabilities(net, p).argmax(1) for p in (found, torch.from_numpy(stepped).permute(0, 3, 1, 2)))
    assert (ours == own).mean() >= 0.999
    assert (own != labels).mean() > 0.1


def test_the_softmax_is_left_out_and_is_there_afterwards(net: Any) -> None:
    model, x = from_keras(net), images(20)
    logits = model(x)
    known = torch.from_numpy(probabilities(net, x).copy())
    assert torch.allclose(logits.softmax(1).detach(), known, atol=1e-5)
    assert not torch.allclose(logits.exp().sum(1), torch.ones(20), atol=0.1)
    assert "softmax" in remarks(model)[0]
    assert torch.allclose(torch.from_numpy(probabilities(net, x).copy()), known), "the user's model is as it was"


@pytest.mark.parametrize("end", ["dense", "softmax", "activation", "nested", "none", "relu"])
def test_every_form_of_softmax_is_found(end: str) -> None:
    keras.utils.set_random_seed(1)
    layers: list[Any] = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]
    ends = {"softmax": keras.layers.Softmax, "activation": lambda: keras.layers.Activation("softmax")}
    if end == "dense":
        layers[-1] = keras.layers.Dense(3, activation="softmax")
    elif end == "nested":
        layers = [layers[0], keras.Sequential([*layers, keras.layers.Softmax()])]
    elif end in ends:
        layers.append(ends[end]())
    elif end == "relu":
        layers.append(keras.layers.ReLU())
    model = keras.Sequential(layers)
    x, found = images(6), from_keras(model)
    raw = torch.from_numpy(probabilities(model, x).copy())
    if end in ("none", "relu"):
        assert remarks(found) == []
        assert torch.allclose(found(x).detach(), raw, atol=1e-5)
    else:
        assert len(remarks(found)) == 1
        assert torch.allclose(found(x).softmax(1).detach(), raw, atol=1e-5)
        assert (found(x).sum(1) - 1).abs().min() > 1e-4
    assert torch.allclose(torch.from_numpy(probabilities(model, x).copy()), raw)


def test_weights_that_change_are_seen(net: Any) -> None:
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])
    found, x = from_keras(model), images(2)
    before = found(x).detach().clone()
    model.layers[-1].set_weights([2 * part for part in model.layers[-1].get_weights()])
    assert torch.allclose(found(x).detach(), 2 * before, atol=1e-5)


def test_channels_first_is_seen_in_the_shape() -> None:
    model = keras.Sequential([keras.Input((3, 8, 8)), keras.layers.Flatten(), keras.layers.Dense(3)])
    x = torch.rand(2, 3, 8, 8)
    assert from_keras(model).layout == "NCHW"
    wanted = np.asarray(keras.ops.convert_to_numpy(model(x.numpy())))
    assert np.allclose(from_keras(model)(x).detach().numpy(), wanted, atol=1e-5)


def test_a_file_is_loaded_audited_and_left_alone(net: Any, tmp_path: Path) -> None:
    net.save(tmp_path / "net.keras")
    model, x = sp.load_model(str(tmp_path / "net.keras")), images(24)
    assert torch.allclose(model(x), from_keras(net)(x), atol=1e-5)
    labels = model(x).argmax(1)
    evaluation = sp.evaluate(
        model, x, labels, sp.ThreatModel("linf", 0.02), attacks=["pgd:steps=4", "square:queries=20"]
    )
    assert evaluation.robust_accuracy < 1
    assert evaluation.clean_accuracy == 1
    scaled = sp.load_model(str(tmp_path / "net.keras"), mean=0.1, std=2.0)
    assert torch.allclose(scaled(x), model((x - 0.1) / 2), atol=1e-5)


def test_a_model_that_was_trained_is_loaded_without_its_optimiser(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(3, "softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(hwc(images(16)), np.arange(16) % 3, verbose=0)
    model.save(tmp_path / "net.keras")
    found = open_keras(tmp_path / "net.keras")
    assert torch.allclose(found(images(4)), from_keras(model)(images(4)), atol=1e-5)


def test_a_model_in_memory_is_loaded_like_any_other(net: Any) -> None:
    x = images(4)
    assert torch.allclose(sp.load_model(net)(x), from_keras(net)(x))
    assert remarks(sp.load_model(net, mean=0.5))[0].startswith("the Keras model ends in softmax")
    with pytest.raises(InputError, match=r"an import path or an nn\.Module, got object"):
        sp.load_model(object())  # type: ignore[arg-type]


def test_a_model_without_its_bridge_is_sent_to_it(net: Any) -> None:
    """Fed as it is, it would see turned images, and its softmax would hide the gradient."""
    x, threat = images(2), sp.ThreatModel("linf", EPS)
    for attacked in (
        lambda: sp.evaluate(net, x, torch.zeros(2, dtype=torch.long), threat, attacks=["fgsm"]),
        lambda: sp.attacks.FGSM()(net, x, sp.Untargeted(torch.zeros(2, dtype=torch.long)), threat),
    ):
        with pytest.raises(ModelError, match=r"through a bridge: model = sp\.load_model\(model\)"):
            attacked()


def test_images_of_another_shape_are_explained(net: Any) -> None:
    with pytest.raises(ModelError, match=r"= \(1, 8, 8\), got \(8, 8, 1\): turn them, images\.permute"):
        from_keras(net)(images(2).permute(0, 2, 3, 1))
    with pytest.raises(ModelError, match=r"= \(1, 8, 8\), got \(3, 9, 9\): load them so, size"):
        from_keras(net)(torch.rand(2, 3, 9, 9))
    free = keras.Sequential(
        [keras.Input((None, None, 1)), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3)]
    )
    assert from_keras(free)(torch.rand(2, 1, 5, 9)).shape == (2, 3)


def test_only_its_images_have_gradients_here(net: Any) -> None:
    data = images(8), torch.zeros(8, dtype=torch.long)
    with pytest.raises(UnsupportedError, match="gradients of images at most, not of weights"):
        sp.harden(from_keras(net), data, sp.ThreatModel("linf", EPS), method="fast", epochs=1)


def test_a_robustness_test_takes_it(net: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class SeenError(Exception):
        pass

    def audit(model: Any, *_: Any, **__: Any) -> None:
        raise SeenError(type(model).__name__)

    monkeypatch.setattr("sparring.testing.robust.audit", audit)
    with pytest.raises(SeenError, match="KerasModel"):
        assert_robust(net, (images(4), torch.zeros(4).long()), sp.ThreatModel("linf", EPS), at_least=0.9)


@pytest.mark.skipif(keras.config.backend() != "torch", reason="a certificate needs operations of torch")
def test_a_certificate_reads_weights_that_keras_keeps_in_another_order(net: Any) -> None:
    model, x = from_keras(net), images(4)
    labels = torch.from_numpy(probabilities(net, x).argmax(1))
    found = sp.certify(model, x, labels, sp.ThreatModel("linf", 1e-6), method="crown")
    assert found.certified.all()


def test_an_older_file_is_told_how_to_become_a_newer_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"can hold code and is not read.*save it again"):
        sp.load_model(str(tmp_path / "net.h5"))


def test_what_is_no_built_model_is_refused() -> None:
    with pytest.raises(InputError, match="no weights yet"):
        from_keras(keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(2)]))
    with pytest.raises(InputError, match=r"keras\.Model"):
        from_keras(lambda x: x)


class Harm:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("harmed"),)


@pytest.fixture
def changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A .keras file of which some members were changed, or renamed."""
    monkeypatch.chdir(tmp_path)
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])
    model.save("good.keras")

    def make(**members: bytes | None) -> Path:
        with zipfile.ZipFile("good.keras") as good, zipfile.ZipFile("bad.keras", "w") as bad:
            kept = {name: good.read(name) for name in good.namelist()} | members
            for name, content in kept.items():
                if content is not None:
                    bad.writestr(name, content, zipfile.ZIP_DEFLATED)
        return Path("bad.keras")

    return make


def config(change: Callable[[dict[str, Any]], None]) -> bytes:
    with zipfile.ZipFile("good.keras") as good:
        found = json.loads(good.read("config.json"))
    change(found["config"]["layers"][-1])
    return json.dumps(found).encode()


PARTS: dict[str, dict[str, Any]] = {
    "Lambda": {"module": "keras.layers", "class_name": "Lambda"},
    "lambda": {"config": {"activation": {"class_name": "__lambda__", "config": {"value": "4wEA"}}}},
    "system": {"module": "os", "class_name": "system", "config": {"command": "touch harmed"}},
    "builtin": {"module": "builtins", "class_name": "exec", "config": "1"},
    "function": {"config": {"activation": {"module": "keras.utils", "class_name": "function", "config": "get_file"}}},
    "a function of builtins": {"module": "builtins", "class_name": "function", "config": "exec"},
    "get_file": {"module": "keras.utils", "class_name": "get_file"},
    "custom": {"module": "mine", "class_name": "Layer", "registered_name": "mine>Layer"},
    "torch": {"module": "keras.layers", "class_name": "TorchModuleWrapper", "config": {"module": "gASV"}},
    "saved model": {"module": "keras.layers", "class_name": "TFSMLayer", "config": {"filepath": "/etc"}},
    "vocabulary": {"module": "keras.layers", "class_name": "StringLookup", "config": {"vocabulary": "/etc/passwd"}},
    "saving": {"module": "keras.saving", "class_name": "load_model", "config": {"filepath": "x"}},
    "lookalike": {"module": "keras.layersx", "class_name": "Dense"},
    "no module": {"module": None, "class_name": "Dense"},
    "no name": {"class_name": ["Lambda"]},
}  # fmt: skip


@pytest.mark.parametrize("part", PARTS)
def test_a_configuration_that_names_code_is_refused(part: str, changed: Callable[..., Path]) -> None:
    def change(layer: dict[str, Any]) -> None:
        for key, value in PARTS[part].items():
            layer[key] = {**layer["config"], **value} if key == "config" and isinstance(value, dict) else value

    path = changed(**{"config.json": config(change)})
    with pytest.raises(DataError, match="refused"):
        open_keras(path)
    assert not Path("harmed").exists()


@pytest.mark.parametrize("name", ["../escape.txt", "/tmp/escape.txt", "assets/vocabulary.txt", "evil.pkl", "a\\..\\b"])
def test_members_beside_the_model_are_refused(name: str, changed: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match=r"leads out of the archive|beside the model"):
        open_keras(changed(**{name: pickle.dumps(Harm())}))


def test_pickles_and_other_bytes_are_refused(changed: Callable[..., Path], tmp_path: Path) -> None:
    harm = pickle.dumps(Harm())
    for content in (harm, b"PK\x03\x04", b"\x89HDF\r\n\x1a\n" + bytes(64), b"x"):
        Path("net.keras").write_bytes(content)
        with pytest.raises(DataError, match=r"no \.keras archive"):
            open_keras("net.keras")
    for members in (
        {"config.json": b"[1]"},
        {"model.weights.h5": harm},
        {"config.json": b"{"},
        {"config.json": None},
        {"model.weights.h5": None},
    ):
        with pytest.raises(DataError, match="bad"):
            open_keras(changed(**members))
    with pytest.raises(DataError, match="does not exist"):
        open_keras("no.keras")
    assert not Path("harmed").exists()


@pytest.mark.parametrize("kind", ["external link", "soft link", "external storage"])
def test_weights_that_lead_elsewhere_are_refused(kind: str, changed: Callable[..., Path]) -> None:
    Path("secret.bin").write_bytes(bytes(64))
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        group = file.create_group("layers")
        if kind == "external link":
            group["vars"] = h5py.ExternalLink("/etc/other.h5", "/x")
        elif kind == "soft link":
            group["vars"] = h5py.SoftLink("/layers/elsewhere")
        else:
            group.create_dataset("vars", (16,), "f4", external=[("secret.bin", 0, 64)])
    with pytest.raises(DataError, match="lead to another file"):
        open_keras(changed(**{"model.weights.h5": stream.getvalue()}))


@pytest.mark.parametrize("member", ["config.json", "model.weights.h5"])
def test_what_unpacks_to_far_more_is_not_unpacked(member: str, changed: Callable[..., Path]) -> None:
    path = changed(**{member: bytes(80 * 2**20)})
    assert path.stat().st_size < 2**20
    with pytest.raises(DataError, match=rf"{member} is \d+ bytes that become {80 * 2**20}: refused"):
        open_keras(path)


def test_weights_that_claim_to_be_large_are_refused(changed: Callable[..., Path]) -> None:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file.create_dataset("layers/dense/vars/0", (40_000, 60_000), "f4", chunks=(1000, 6000), compression="gzip")
    with pytest.raises(DataError, match=r"vars/0 is \d+ bytes that become 9600000000"):
        open_keras(changed(**{"model.weights.h5": stream.getvalue()}))


@pytest.mark.timeout(60)
def test_weights_with_endless_names_are_read_once(changed: Callable[..., Path]) -> None:
    """A group that holds itself, and groups of which each holds the next one twice: 2 to the power of 40 ways."""
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        inner = file.create_group("inner")
        inner["again"], inner["values"] = inner, np.zeros(3)
        for number in range(40):
            outer = file.create_group(f"group{number}")
            outer["a"] = outer["b"] = inner
            inner = outer
    with pytest.raises(DataError, match="cannot be read by Keras"):
        open_keras(changed(**{"model.weights.h5": stream.getvalue()}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"units": 2**22}, r"units = 4194304, but holds 195 weights in all"),
        ({"kernel_size": [60_000, 60_000]}, r"kernel_size = \[60000, 60000\], but holds 195"),
        ({"key_dim": 10**5}, "key_dim = 100000, but holds 195"),
        ({"depth_multiplier": 1e9}, "depth_multiplier = 1000000000.0, but holds"),
        ({"padding": [[0, 60_000], [0, 60_000]]}, "padding = .* 8192 at most"),
        ({"height": -80_000}, "height = -80000; 8192 at most"),
        ({"output_shape": [8, 8, 10**10]}, "output_shape = .*; 8192 at most"),
        ({"batch_shape": [None, 10**10]}, "batch_shape = .*; 8192 at most"),
    ],
)
def test_a_layer_that_would_take_all_memory_is_not_built(
    settings: dict[str, Any], message: str, changed: Callable[..., Path]
) -> None:
    path = changed(**{"config.json": config(lambda layer: layer["config"].update(settings))})
    with pytest.raises(DataError, match=message):
        open_keras(path)
