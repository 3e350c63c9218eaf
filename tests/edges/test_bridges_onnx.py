"""ONNX files as models: scores, gradients of rebuilt graphs, and files that mean harm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import SparseTensorProto, TensorProto, helper, numpy_helper
from tests.helpers_onnx import Writer, convolutional
from torch import nn

import sparring as sp
from sparring.black_box import access_of
from sparring.bridges import open_onnx, remarks
from sparring.bridges.onnx import OPERATORS
from sparring.errors import DataError, InputError, ModelError, UnsupportedError


def images(n: int = 5, *shape: int) -> torch.Tensor:
    return torch.rand(n, *(shape or (1, 8, 8)), generator=torch.Generator().manual_seed(4))


def runtime(path: Path, x: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"images": x.numpy()})[0])


def test_a_graph_is_rebuilt_with_gradients(tmp_path: Path) -> None:
    path = convolutional(tmp_path / "net.onnx")
    model = sp.load_model(str(path))
    assert access_of(model) == "gradients"
    assert torch.allclose(model(images()), runtime(path, images()), atol=1e-4)
    assert "rebuilt in torch" in remarks(model)[0]
    x = images(3).double().requires_grad_()
    exact = model.double()
    assert torch.autograd.gradcheck(lambda z: exact(z).sum(0), (x,), eps=1e-6, atol=1e-4)


def test_fgsm_equals_the_gradient_of_onnxruntime_by_differences(tmp_path: Path) -> None:
    """An independent gradient: differences of onnxruntime's own scores decide the signs."""
    path = convolutional(tmp_path / "net.onnx")
    x = images(20)
    labels = runtime(path, x).argmax(1)
    found = sp.attacks.FGSM()(open_onnx(path), x, sp.Untargeted(labels), sp.ThreatModel("linf", 0.05))
    step, grad = 1e-2, torch.zeros_like(x).flatten(1)
    for pixel in range(64):
        e = torch.zeros(64)
        e[pixel] = step
        ends = [
            torch.nn.functional.cross_entropy(
                runtime(path, (x.flatten(1) + s * e).view_as(x)), labels, reduction="none"
            )
            for s in (1, -1)
        ]
        grad[:, pixel] = (ends[0] - ends[1]) / (2 * step)
    by_hand = (x + 0.05 * grad.view_as(x).sign()).clamp(0, 1)
    assert (found != by_hand).float().mean() < 0.02, "kinks within a step aside, the signs agree"
    assert runtime(path, found).argmax(1).equal(runtime(path, by_hand).argmax(1))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("free", [True, False])
def test_what_torch_exports_comes_back(free: bool, tmp_path: Path) -> None:
    """FGSM through the file and through the network it came from."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.SiLU(),
        nn.Conv2d(8, 8, 3, groups=8, padding=2, dilation=2), nn.Hardswish(), nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(8, 6, 1), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(6), nn.Linear(6, 4),
    ).eval()  # fmt: skip
    x, axes = images(200, 3, 16, 16), {"images": {0: "n"}} if free else None
    with torch.no_grad():
        net[-1].bias -= net(x).mean(0)  # untrained, it would give all images one class
    torch.onnx.export(net, (x[:1],), tmp_path / "net.onnx", input_names=["images"], dynamic_axes=axes, dynamo=False)
    model = open_onnx(tmp_path / "net.onnx", gradients=True)
    goal, threat = sp.Untargeted(net(x).argmax(1)), sp.ThreatModel("linf", 0.1)
    ours, own = (sp.attacks.FGSM()(m, x, goal, threat) for m in (model, net))
    assert (net(ours).argmax(1) == net(own).argmax(1)).float().mean() >= 0.999
    assert (net(own).argmax(1) != goal.labels).float().mean() > 0.5, "an attack that does something"


def test_a_softmax_at_the_end_is_removed_or_undone(tmp_path: Path) -> None:
    plain, soft = convolutional(tmp_path / "a.onnx"), convolutional(tmp_path / "b.onnx", softmax=True)
    logits = runtime(plain, images())
    removed, undone = open_onnx(soft), open_onnx(soft, gradients=False)
    assert torch.allclose(removed(images()), logits, atol=1e-4)
    assert "Softmax was removed" in remarks(removed)[0]
    assert torch.allclose(undone(images()), logits.log_softmax(1), atol=1e-3)
    assert "undone by a logarithm" in remarks(undone)[0]
    assert access_of(undone) == "logits"


@pytest.mark.parametrize(("batch", "fixed"), [(1, True), (4, False), (1, False)])
@pytest.mark.parametrize("gradients", [True, False])
def test_a_fixed_batch_size_is_no_obstacle(batch: int, fixed: bool, gradients: bool, tmp_path: Path) -> None:
    free = convolutional(tmp_path / "free.onnx")
    path = convolutional(tmp_path / "net.onnx", batch=batch, fixed=fixed)
    assert torch.allclose(open_onnx(path, gradients)(images(6)), runtime(free, images(6)), atol=1e-4)


def test_a_black_box_is_audited_and_told_from_another(tmp_path: Path) -> None:
    w = Writer()
    w.add("Flatten")
    w.add("Gemm", w.weight(np.random.default_rng(1).normal(size=(64, 3))))
    w.add("Softsign")
    model = sp.load_model(str(w.save(tmp_path / "net.onnx")))
    assert access_of(model) == "logits"
    assert "Softsign have no counterpart" in remarks(model)[0]
    x = images(12)
    report = sp.audit(model, x, model(x).argmax(1), sp.ThreatModel("linf", 0.2), attacks=["square:queries=30"])
    assert "logits" in report.attacker.knowledge or "scores" in report.attacker.knowledge
    with pytest.raises(UnsupportedError, match="Softsign"):
        open_onnx(tmp_path / "net.onnx", gradients=True)
    with pytest.raises(InputError, match="gradients must be"):
        open_onnx(tmp_path / "net.onnx", gradients="yes")  # type: ignore[arg-type]


CASES: dict[str, Any] = {
    "Clip": lambda w: w.add("Clip", w.weight(0.2), w.weight(0.7)),
    "Concat": lambda w: w.add("Concat", "images", axis=1),
    "Constant": lambda w: w.add("Mul", w.add("Constant", first="none", value_float=2.0), first="images"),
    "Div": lambda w: w.add("Div", w.weight(3.0)),
    "Dropout": lambda w: w.add("Dropout"),
    "Elu": lambda w: w.add("Elu", first=w.add("Sub", w.weight(0.5)), alpha=0.7),
    "Erf": lambda w: w.add("Erf"),
    "Exp": lambda w: w.add("Exp"),
    "Gather": lambda w: w.add("Gather", w.weight([0, -1, 3], np.int64), axis=2),
    "GlobalAveragePool": lambda w: w.add("GlobalAveragePool"),
    "GlobalMaxPool": lambda w: w.add("GlobalMaxPool"),
    "HardSigmoid": lambda w: w.add("HardSigmoid", first=w.add("Mul", w.weight(9.0)), alpha=0.3),
    "HardSwish": lambda w: w.add("HardSwish", first=w.add("Sub", w.weight(0.5))),
    "Identity": lambda w: w.add("Identity"),
    "LogSoftmax": lambda w: (w.add("LogSoftmax", axis=1, first=w.add("Flatten")), w.add("Exp")),
    "MatMul": lambda w: w.add("MatMul", w.weight(np.random.default_rng(3).normal(size=(8, 5)))),
    "Neg": lambda w: w.add("Neg"),
    "PRelu": lambda w: w.add("PRelu", w.weight([[[0.3]]]), first=w.add("Sub", w.weight(0.5))),
    "Pad": lambda w: w.add("Pad", w.weight([0, 0, 1, 2, 0, 0, 3, 0], np.int64), w.weight(0.5)),
    "Pow": lambda w: w.add("Pow", w.weight(2.0)),
    "ReduceMean": lambda w: w.add("ReduceMean", axes=[2], keepdims=0),
    "Shape": lambda w: w.add("Cast", first=w.add("Shape"), to=1),
    "Sigmoid": lambda w: w.add("Sigmoid"),
    "Slice": lambda w: w.add("Slice", w.weight([-6], np.int64), w.weight([2**40], np.int64), w.weight([3], np.int64)),
    "Softplus": lambda w: w.add("Softplus"),
    "Sqrt": lambda w: w.add("Sqrt", first=w.add("Add", w.weight(0.1))),
    "Squeeze": lambda w: w.add("Squeeze", w.weight([1], np.int64)),
    "Tanh": lambda w: w.add("Tanh"),
    "Transpose": lambda w: w.add("Transpose", perm=[0, 2, 1, 3]),
    "Unsqueeze": lambda w: w.add("Unsqueeze", w.weight([1, -1], np.int64)),
}
COVERED = {
    *("Add", "AveragePool", "BatchNormalization", "Cast", "Conv", "Flatten", "Gelu", "Gemm", "LayerNormalization"),
    *("LeakyRelu", "MaxPool", "Mul", "Relu", "Reshape", "Softmax", "Sub"),
}


def test_every_operator_is_compared() -> None:
    assert set(CASES) | COVERED == set(OPERATORS)


@pytest.mark.parametrize("operator", CASES)
def test_an_operator_gives_what_onnxruntime_gives(operator: str, tmp_path: Path) -> None:
    w = Writer()
    CASES[operator](w)
    if operator != "Shape":
        w.add("Flatten")
    else:
        w.add("Mul", w.add("ReduceMean", axes=[1, 2, 3], keepdims=1, first="images"), first=w.last)
        w.add("Flatten")
    w.add("ReduceMean", axes=[1], keepdims=1)
    w.add("MatMul", w.weight([[1.0, -2.0, 3.0]]))
    path = w.save(tmp_path / "net.onnx")
    assert torch.allclose(open_onnx(path, gradients=True)(images()), runtime(path, images()), atol=1e-5)


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 20])
def test_softmax_and_padding_of_every_opset(opset: int, tmp_path: Path) -> None:
    w = Writer()
    w.add("Softmax", **({} if opset < 13 else {"axis": 1}))
    if opset < 11:
        w.add("Pad", pads=[0, 0, 1, 1, 0, 0, 0, 0], value=0.25)
        w.add("Clip", min=0.01, max=0.4)
    if opset >= 20:
        w.add("Gelu", approximate="tanh")
    w.add("Flatten")
    w.add("MatMul", w.weight(np.random.default_rng(0).normal(size=(81 if opset < 11 else 64, 3))))
    path = w.save(tmp_path / "net.onnx", opset=opset)
    assert torch.allclose(open_onnx(path, gradients=True)(images()), runtime(path, images()), atol=1e-5)


def test_a_rebuilt_graph_that_computes_something_else_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OPERATORS, "LeakyRelu", lambda attributes, x: x)
    path = convolutional(tmp_path / "net.onnx")
    model = open_onnx(path)
    assert access_of(model) == "logits"
    assert "gives other scores" in remarks(model)[0]


@pytest.mark.parametrize("place", ["../secret.bin", "/etc/passwd", "sub/w.bin", "link.bin", "missing.bin"])
@pytest.mark.parametrize("hidden", ["", "constant", "branch", "sparse", "sparse constant"])
def test_weights_outside_of_the_folder_are_refused(place: str, hidden: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    for file in (tmp_path / "secret.bin", folder / "sub" / "w.bin"):
        file.write_bytes(np.zeros(192, np.float32).tobytes())
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    outside = TensorProto(name="w", data_type=1, dims=[64, 3], data_location=1)
    outside.external_data.add(key="location", value=place)
    w = Writer()
    w.add("Flatten")
    sparse = SparseTensorProto(dims=[64, 3])
    sparse.values.CopyFrom(outside)
    sparse.indices.CopyFrom(numpy_helper.from_array(np.arange(192), "places"))
    if hidden == "constant":
        w.nodes.append(helper.make_node("Constant", [], ["w"], value=outside))
    elif hidden == "sparse constant":
        w.nodes.append(helper.make_node("Constant", [], ["w"], sparse_value=sparse))
    elif hidden == "branch":
        given = [helper.make_tensor_value_info("o", 1, [64, 3])]
        body = helper.make_graph([helper.make_node("Identity", ["w"], ["o"])], "body", [], given, [outside])
        w.nodes.append(helper.make_node("If", [w.weight(True, bool)], ["w"], then_branch=body, else_branch=body))
    elif not hidden:
        w.weights.append(outside)
    w.add("MatMul", "w")
    model = w.model(("n", 1, 8, 8))
    if hidden == "sparse":
        model.graph.sparse_initializer.append(sparse)
    (folder / "net.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(DataError, match=r"not a plain file beside it|does not exist"):
        sp.load_model(str(folder / "net.onnx"))


def test_weights_beside_the_file_are_read_and_are_part_of_its_identity(tmp_path: Path) -> None:
    path = convolutional(tmp_path / "net.onnx")
    model = onnx.load(str(path))
    onnx.save(model, str(tmp_path / "big.onnx"), save_as_external_data=True, location="big.bin", size_threshold=100)
    found = open_onnx(tmp_path / "big.onnx")
    assert torch.allclose(found(images()), runtime(path, images()), atol=1e-4)
    before = repr(open_onnx(tmp_path / "big.onnx", gradients=False))
    content = bytearray((tmp_path / "big.bin").read_bytes())
    content[-1] ^= 1
    (tmp_path / "big.bin").write_bytes(content)
    assert repr(open_onnx(tmp_path / "big.onnx", gradients=False)) != before


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    for content in (b"\x80\x04K\x01.", b"PK\x03\x04zip", b"\x00" * 100, b"x"):
        path.write_bytes(content)
        with pytest.raises((DataError, ModelError), match=r"net\.onnx"):
            open_onnx(path)
    w = Writer()
    w.add("Flatten")
    w.add("Magic", domain="evil.org")
    with pytest.raises(ModelError, match=r"operators of its own \(evil\.org\)"):
        open_onnx(w.save(path))
    w = Writer()
    w.add("Relu")
    with pytest.raises(ModelError, match=r"gives the shape \(2, 1, 8, 8\)"):
        open_onnx(w.save(path))
    with pytest.raises(DataError, match="does not exist"):
        open_onnx(tmp_path / "no.onnx")
    with pytest.raises(InputError, match="brings its own weights"):
        sp.load_model(str(convolutional(path)), weights="w.safetensors")


def test_a_tensor_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    w = Writer()
    w.weights.append(TensorProto(name="w", data_type=1, dims=[2**40, 3], raw_data=b"\x00" * 12))
    w.add("Flatten")
    w.add("MatMul", "w")
    (tmp_path / "net.onnx").write_bytes(w.model(("n", 1, 8, 8)).SerializeToString())
    with pytest.raises((DataError, ModelError), match="net"):
        open_onnx(tmp_path / "net.onnx")


@pytest.mark.parametrize("shape", [(2**40, 1, 8, 8), ("n", 3, 2**20, 2**20), ("n", 0, 8, 8), ("n", 1, -5, 8)])
def test_a_shape_that_no_picture_has_is_refused(shape: Any, tmp_path: Path) -> None:
    """Before an image of that size is made to try it."""
    w = Writer()
    w.add("GlobalAveragePool")
    w.add("Flatten")
    with pytest.raises(ModelError, match="takes inputs of the shape"):
        open_onnx(w.save(tmp_path / "net.onnx", shape))


def test_a_loop_that_never_ends_is_refused(tmp_path: Path) -> None:
    w = Writer()
    w.add("Flatten")
    value, flag = helper.make_tensor_value_info, TensorProto.BOOL
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Identity", ["x"], ["y"])],
        "body",
        [value("i", TensorProto.INT64, []), value("c", flag, []), value("x", 1, None)],
        [value("d", flag, []), value("y", 1, None)],
    )
    w.nodes.append(
        helper.make_node("Loop", [w.weight(2**62, np.int64), w.weight(True, bool), w.last], ["z"], body=body)
    )
    w.last = "z"
    with pytest.raises(ModelError, match=r"loops \(Loop\)"):
        open_onnx(w.save(tmp_path / "net.onnx"))
