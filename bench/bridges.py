"""What the bridges cost: the gradient of a loss through sparring beside the framework's own, on the same network.

    .venv/bin/python bench/bridges.py                                  # onnx, jax, keras on torch
    KERAS_BACKEND=jax .venv/bin/python bench/bridges.py --only keras
    .cache/tensorflow-env/bin/python bench/bridges.py --only tensorflow,keras    # see scripts/tensorflow-env.sh

Each pair runs interleaved in one process, so that both see the same machine; the ratio is the median over the rounds of
CPU time through the bridge by CPU time of the framework's own compiled gradient. Prints JSON, and adds it to --out.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROUNDS = 41
Pair = tuple[Callable[[], Any], Callable[[], Any]]


def weights(width: int) -> dict[str, np.ndarray]:
    """A convolutional net for 32 x 32 colour: two strided convolutions, two dense layers."""
    rng = np.random.default_rng(0)
    sizes = {"a": (3, 3, 3, width), "b": (3, 3, width, 2 * width), "c": (64 * 2 * width, 64), "d": (64, 10)}
    return {key: (rng.normal(size=size) / np.sqrt(np.prod(size[:-1]))).astype("float32") for key, size in sizes.items()}


def through(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> Callable[[], Any]:
    """The gradient as an attack asks for it."""

    def run() -> torch.Tensor:
        z = x.clone().requires_grad_()
        loss = torch.nn.functional.cross_entropy(model(z), y, reduction="sum")
        return torch.autograd.grad(loss, z)[0]

    return run


def jax_pair(x: torch.Tensor, y: torch.Tensor, width: int) -> Pair:
    import jax
    import jax.numpy as jnp

    from sparring.bridges import from_jax

    held = {key: jnp.asarray(value) for key, value in weights(width).items()}
    dims = ("NHWC", "HWIO", "NHWC")

    def net(w: Any, images: Any) -> Any:
        h = jax.nn.relu(jax.lax.conv_general_dilated(images, w["a"], (2, 2), "SAME", dimension_numbers=dims))
        h = jax.nn.relu(jax.lax.conv_general_dilated(h, w["b"], (2, 2), "SAME", dimension_numbers=dims))
        return jax.nn.relu(h.reshape(h.shape[0], -1) @ w["c"]) @ w["d"]

    def loss(images: Any, labels: Any, w: Any) -> Any:
        return -jax.nn.log_softmax(net(w, images))[jnp.arange(len(labels)), labels].sum()

    own, hwc, labels = jax.jit(jax.grad(loss)), jnp.asarray(x.permute(0, 2, 3, 1).numpy()), jnp.asarray(y.numpy())
    return through(from_jax(net, held), x, y), lambda: own(hwc, labels, held).block_until_ready()


def tensorflow_pair(x: torch.Tensor, y: torch.Tensor, width: int) -> Pair:
    import tensorflow as tf

    from sparring.bridges import from_tensorflow

    w = {key: tf.Variable(value) for key, value in weights(width).items()}

    def net(images: Any) -> Any:
        h = tf.nn.relu(tf.nn.conv2d(tf.nn.relu(tf.nn.conv2d(images, w["a"], 2, "SAME")), w["b"], 2, "SAME"))
        return tf.nn.relu(tf.reshape(h, (-1, w["c"].shape[0])) @ w["c"]) @ w["d"]

    @tf.function
    def own(images: Any, labels: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(images)
            loss = tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, net(images)))
        return tape.gradient(loss, images)

    hwc, labels = tf.constant(x.permute(0, 2, 3, 1).numpy()), tf.constant(y.numpy())
    return through(from_tensorflow(net), x, y), lambda: own(hwc, labels).numpy()


def keras_pair(x: torch.Tensor, y: torch.Tensor, width: int) -> Pair:
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras

    from sparring.bridges import from_keras

    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.Conv2D(width, 3, 2, "same", activation="relu"),
            layers.Conv2D(2 * width, 3, 2, "same", activation="relu"),
            layers.Flatten(),
            layers.Dense(64, "relu"),
            layers.Dense(10),
        ]
    )
    bridge = through(from_keras(model), x, y)
    hwc = x.permute(0, 2, 3, 1).contiguous()
    if keras.config.backend() == "torch":

        def own_torch() -> Any:
            z = hwc.clone().requires_grad_()
            loss = torch.nn.functional.cross_entropy(model(z, training=False), y, reduction="sum")
            return torch.autograd.grad(loss, z)[0]

        return bridge, own_torch
    if keras.config.backend() == "jax":
        import jax
        import jax.numpy as jnp

        def loss(images: Any, labels: Any, held: Any) -> Any:
            logits = model.stateless_call(held, [], images, training=False)[0]
            return -jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels].sum()

        held, given, labels = (
            [v.value for v in model.trainable_variables],
            jnp.asarray(hwc.numpy()),
            jnp.asarray(y.numpy()),
        )
        own_jax = jax.jit(jax.grad(loss))
        return bridge, lambda: own_jax(given, labels, held).block_until_ready()
    import tensorflow as tf

    @tf.function
    def own_tf(images: Any, labels: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(images)
            logits = model(images, training=False)
            total = tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        return tape.gradient(total, images)

    given_tf, labels_tf = tf.constant(hwc.numpy()), tf.constant(y.numpy())
    return bridge, lambda: own_tf(given_tf, labels_tf).numpy()


def onnx_pair(x: torch.Tensor, y: torch.Tensor, width: int) -> Pair:
    """The rebuilt graph beside the torch network that the file was exported from."""
    import tempfile
    import warnings

    from sparring.bridges import open_onnx

    nn = torch.nn
    net = nn.Sequential(
        nn.Conv2d(3, width, 3, 2, 1), nn.ReLU(), nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(64 * 2 * width, 64), nn.ReLU(), nn.Linear(64, 10),
    ).eval().requires_grad_(False)  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = Path(folder) / "net.onnx"
        axes = {"images": {0: "n"}}
        torch.onnx.export(net, (x[:1],), file, input_names=["images"], dynamic_axes=axes, dynamo=False)
        return through(open_onnx(file, gradients=True), x, y), through(net, x, y)


PAIRS = {"onnx": onnx_pair, "jax": jax_pair, "keras": keras_pair, "tensorflow": tensorflow_pair}


def measured(pair: Pair) -> dict[str, float]:
    """Medians over interleaved rounds: milliseconds of CPU time of both, and of their ratio."""
    bridge, own = pair
    for _ in range(5):
        bridge(), own()
    rows = []
    for number in range(ROUNDS):
        times = {}
        for name, run in (("bridge", bridge), ("own", own))[:: 1 if number % 2 else -1]:
            start = time.process_time()
            run()
            times[name] = time.process_time() - start
        rows.append((times["bridge"], times["own"], times["bridge"] / times["own"]))
    through_ms, own_ms, ratio = (statistics.median(column) for column in zip(*rows, strict=True))
    return {"bridge_ms": round(1e3 * through_ms, 3), "own_ms": round(1e3 * own_ms, 3), "overhead": round(ratio - 1, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="onnx,jax,keras")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "bridges.json")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    found = json.loads(chosen.out.read_text()) if chosen.out.exists() else {}
    for name in chosen.only.split(","):
        backend = f" on {os.environ.get('KERAS_BACKEND', 'torch')}" if name == "keras" else ""
        for batch, width in ((32, 32), (128, 32), (64, 64)):
            x = torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))
            result = measured(PAIRS[name](x, torch.arange(batch) % 10, width))
            key = f"{name}{backend}, batch {batch}, width {width}"
            found[key] = result
            print(key, json.dumps(result), file=sys.stderr)
    chosen.out.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
