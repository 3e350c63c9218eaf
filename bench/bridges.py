"""What the bridges cost: the gradient of a loss through sparring beside the framework's own, on the same network.

    .venv/bin/python bench/bridges.py                                  # onnx, jax, keras on torch
    KERAS_BACKEND=jax .venv/bin/python bench/bridges.py --only keras
    .cache/tensorflow-env/bin/python bench/bridges.py --only tensorflow,keras    # see scripts/tensorflow-env.sh
    .venv/bin/python bench/bridges.py --table                          # what was measured so far

Each pair runs interleaved in one process on one core, so that both see the same machine; a ratio is the median over the
rounds of CPU time through the bridge by CPU time of the framework's own compiled gradient. That is done in several
processes, for where a process happens to lay its memory changes both times; medians, and the range, over processes.
"loss" is what the same call takes around a model that only picks ten pixels: the copy of the images, the loss and its
way back in torch, which the framework's own gradient has inside its compiled program. It is part of the overhead.

"kept" tells the C library to keep freed memory, "default" leaves it as users have it: then page faults, which hit
either side by chance, can double the time of small gradients. The first says what the bridge costs, the second what
chance adds. Prints JSON, and adds it to --out.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

PROCESSES, ROUNDS = 5, 25
KEPT = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32), "MALLOC_TOP_PAD_": str(2**26)}
SIZES = {"batch 32, width 32": (32, 32), "batch 128, width 32": (128, 32), "batch 64, width 64": (64, 64)}
MOBILENET = "MobileNetV2 at 96 x 96, batch 8"
Pair = tuple[Callable[[], Any], Callable[[], Any]]


def weights(width: int) -> dict[str, np.ndarray]:
    """A convolutional net for 32 x 32 colour: two strided convolutions, two dense layers."""
    rng = np.random.default_rng(0)
    sizes = {"a": (3, 3, 3, width), "b": (3, 3, width, 2 * width), "c": (64 * 2 * width, 64), "d": (64, 10)}
    return {key: (rng.normal(size=size) / np.sqrt(np.prod(size[:-1]))).astype("float32") for key, size in sizes.items()}


def through(model: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> Callable[[], Any]:
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
        with tf.GradientTape(watch_accessed_variables=False) as tape:
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
    if width:
        first, second = (layers.Conv2D(n, 3, 2, "same", activation="relu") for n in (width, 2 * width))
        end = layers.Flatten(), layers.Dense(64, "relu"), layers.Dense(10)
        model = keras.Sequential([keras.Input((32, 32, 3)), first, second, *end])
    else:
        model = keras.applications.MobileNetV2((96, 96, 3), weights=None, classes=10, classifier_activation=None)
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
            logits = model.stateless_call(*held, images, training=False)[0]
            return -jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels].sum()

        held, given, labels = (
            [[v.value for v in part] for part in (model.trainable_variables, model.non_trainable_variables)],
            jnp.asarray(hwc.numpy()),
            jnp.asarray(y.numpy()),
        )
        own_jax = jax.jit(jax.grad(loss))
        return bridge, lambda: own_jax(given, labels, held).block_until_ready()
    import tensorflow as tf

    @tf.function
    def own_tf(images: Any, labels: Any) -> Any:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
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


def one(name: str, size: str) -> dict[str, float]:
    """Medians over interleaved rounds in this process: milliseconds of CPU time of both, and of their ratio."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # before a framework counts its threads
    torch.set_num_threads(1)
    batch, width, side = (8, 0, 96) if size == MOBILENET else (*SIZES[size], 32)
    x = torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(0))
    y = torch.arange(batch) % 10
    bridge, own = PAIRS[name](x, y, width)
    runs = {"bridge": bridge, "own": own, "loss": through(lambda z: z.flatten(1)[:, :10], x, y)}
    for _ in range(4):
        for run in runs.values():
            run()
    rows = []
    for number in range(ROUNDS):
        times = {}
        for who in [*runs][:: 1 if number % 2 else -1]:
            start = time.process_time()
            runs[who]()
            times[who] = 1e3 * (time.process_time() - start)
        shares = times["bridge"] / times["own"] - 1, times["loss"] / times["own"]
        rows.append((times["bridge"], times["own"], *shares))
    keys = ("bridge_ms", "own_ms", "overhead", "loss")
    return dict(zip(keys, map(statistics.median, zip(*rows, strict=True)), strict=True))


def measured(name: str, size: str, processes: int) -> dict[str, Any]:
    """The same in processes of their own, with freed memory kept and not."""
    found = {}
    for allocator, settings in (("kept", KEPT), ("default", {})):
        runs = []
        for _ in range(processes if allocator == "kept" else max(1, processes - 2)):
            command = [sys.executable, __file__, "--one", name, size]
            environment = os.environ | settings | {"OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            runs.append(json.loads(done.stdout.splitlines()[-1]))
        medians = {key: round(statistics.median(run[key] for run in runs), 3) for key in runs[0]}
        overheads = sorted(round(run["overhead"], 3) for run in runs)
        found[allocator] = medians | {"range": [overheads[0], overheads[-1]], "processes": len(runs)}
    return found


def table(found: dict[str, Any]) -> str:
    """The record as the documentation shows it."""
    lines = [
        "| bridge | network | own ms | overhead | over processes | torch's loss in it | default |",
        "|" + "---|" * 7,
    ]
    for key, row in sorted(found.items()):
        bridge, _, size = key.partition(", ")
        kept, default = row["kept"], row["default"]
        low, high = (f"{100 * value:.0f}" for value in kept["range"])
        loss = f"{100 * kept['loss']:.0f} %" if "loss" in kept else ""
        cells = bridge, size, f"{kept['own_ms']:.1f}", f"{100 * kept['overhead']:.0f} %", f"{low} to {high} %", loss
        lines.append("| " + " | ".join((*cells, f"{100 * default['overhead']:.0f} %")) + " |")
    return "\n".join(lines).replace("-0 %", "0 %").replace("| -", "| −")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="onnx,jax,keras")
    parser.add_argument("--processes", type=int, default=PROCESSES)
    parser.add_argument("--sizes", default="", help="only those whose name holds this")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--one", nargs=2, metavar=("BRIDGE", "SIZE"), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "bridges.json")
    chosen = parser.parse_args()
    if chosen.one:
        print(json.dumps(one(*chosen.one)))
        return
    found = json.loads(chosen.out.read_text()) if chosen.out.exists() else {}
    if chosen.table:
        print(table(found))
        return
    for name in chosen.only.split(","):
        backend = f" on {os.environ.get('KERAS_BACKEND', 'torch')}" if name == "keras" else ""
        for size in (*SIZES, *((MOBILENET,) if name == "keras" else ())):
            if chosen.sizes not in size:
                continue
            found[f"{name}{backend}, {size}"] = result = measured(name, size, chosen.processes)
            print(f"{name}{backend}, {size}", json.dumps(result), file=sys.stderr)
            chosen.out.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
