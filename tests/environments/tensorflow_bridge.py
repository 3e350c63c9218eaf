"""TensorFlow functions as models. Runs where TensorFlow is installed; see tests/edges/test_bridges_environments.py."""

from __future__ import annotations

import copy
import json
import runpy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import torch
from typer.testing import CliRunner

import sparring as sp
from sparring.bridges import from_tensorflow
from sparring.bridges.tensorflow import _to_tensorflow, _to_torch
from sparring.cli import app
from sparring.diagnosis.taylor import curvature_along

RNG = np.random.default_rng(0)
CONV = tf.Variable(RNG.normal(size=(3, 3, 1, 4)).astype("float32") / 3)
HIDDEN = tf.Variable(RNG.normal(size=(256, 16)).astype("float32") / 16)
OUT = tf.Variable(RNG.normal(size=(16, 10)).astype("float32"))
TRACES: list[Any] = []


def net(images: Any) -> Any:
    TRACES.append(images.shape)
    features = tf.nn.relu(tf.nn.conv2d(images, CONV, 1, "SAME"))
    return tf.tanh(tf.reshape(features, (-1, 256)) @ HIDDEN) @ OUT


def images(n: int) -> torch.Tensor:
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def test_fgsm_equals_fgsm_written_with_a_tape() -> None:
    x, model = images(1000), from_tensorflow(net)
    labels = model(x).argmax(1)
    given = tf.constant(x.permute(0, 2, 3, 1).numpy())
    with tf.GradientTape() as tape:
        tape.watch(given)
        loss = tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(labels.numpy(), net(given)))
    own = np.clip(given + 0.03 * tf.sign(tape.gradient(loss, given)), 0, 1)
    found = sp.attacks.FGSM()(model, x, sp.Untargeted(labels), sp.ThreatModel("linf", 0.03))
    theirs = net(tf.constant(own)).numpy().argmax(1)
    ours = net(tf.constant(found.permute(0, 2, 3, 1).numpy())).numpy().argmax(1)
    assert (theirs == ours).mean() >= 0.999
    assert 0.1 < (theirs != labels.numpy()).mean() < 1


def test_shrinking_batches_are_traced_a_few_times() -> None:
    model = from_tensorflow(net)
    TRACES.clear()
    for n in range(40, 0, -1):
        x = images(n).requires_grad_()
        torch.autograd.grad(model(x).square().sum(), x)
    assert len(TRACES) <= 4


def test_memory_is_shared_and_nothing_is_changed() -> None:
    tensor = torch.rand(4, 8, 8, 1)
    assert _to_torch(_to_tensorflow(tensor)).data_ptr() == tensor.data_ptr()
    model, x = from_tensorflow(net), images(3).double()
    before = x.clone()
    assert model(x).dtype == torch.float64
    assert x.equal(before)
    assert copy.deepcopy(model)(x).equal(model(x))


def test_memory_that_begins_anywhere_is_fine() -> None:
    """TensorFlow ends the whole program where a kernel meets memory that is not aligned, as numpy's often is."""
    model, x = from_tensorflow(net), images(5)
    known = model(x)
    for offset in (1, 4, 8):
        moved = torch.empty(x.numel() + offset)[offset:].view_as(x).copy_(x).requires_grad_()
        assert moved.data_ptr() % 64
        scores = model(moved)
        assert torch.allclose(scores, known, atol=1e-5)
        assert torch.autograd.grad(scores.sum(), moved)[0].isfinite().all()


def test_an_evaluation_works() -> None:
    x, model = images(40), from_tensorflow(net)
    labels = model(x).argmax(1)
    evaluation = sp.evaluate(model, x, labels, sp.ThreatModel("linf", 0.03), attacks=["pgd:steps=5"])
    assert evaluation.clean_accuracy == 1
    assert evaluation.robust_accuracy < 0.5


def test_the_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(Path(__file__).resolve().parents[2] / "examples" / "bridges" / "tensorflow", tmp_path / "example")
    monkeypatch.chdir(tmp_path / "example")
    monkeypatch.syspath_prepend(str(tmp_path / "example"))
    runpy.run_path("make.py", run_name="__main__")
    result = CliRunner().invoke(app, ["attack", "--attack", "fgsm", "-n", "60", "--quiet"])
    assert result.exit_code == 0, result.output
    found = json.loads(Path("sparring-attack/result.json").read_text())
    assert found["clean_accuracy"]["value"] > 0.9
    assert found["robust_accuracy"]["value"] < 0.8


def test_second_derivatives_come_through() -> None:
    """Curvature of the loss, beside the same network in torch."""
    weight = torch.randn(64, 10, generator=torch.Generator().manual_seed(0))
    model = from_tensorflow(lambda x: tf.tanh(tf.reshape(x, (-1, 64)) @ tf.constant(weight.numpy())))
    own = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10, bias=False), torch.nn.Tanh())
    own[1].weight.data = weight.T.contiguous()
    x, direction = images(5), images(10)[5:]
    labels = own(x).argmax(1)
    ours, theirs = (curvature_along(m, x, labels, "cross_entropy", direction) for m in (model, own))
    assert torch.allclose(ours, theirs, atol=1e-4 * float(theirs.abs().max()))
    assert theirs.abs().min() > 0
