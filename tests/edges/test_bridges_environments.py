"""The Keras tests again on its other backends, and TensorFlow's bridge in an environment of its own (slow)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KERAS = "tests/edges/test_bridges_keras.py"
TENSORFLOW = "tests/environments/tensorflow_bridge.py"


def run(python: Path, backend: str, *tests: str) -> str:
    done = subprocess.run(
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore", *tests],
        cwd=ROOT,
        env=os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1600)
def test_keras_on_jax() -> None:
    assert " passed" in run(Path(sys.executable), "jax", KERAS)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_tensorflow_and_keras_on_it() -> None:
    made = subprocess.run([ROOT / "scripts" / "tensorflow-env.sh"], capture_output=True, text=True, check=False)
    if made.returncode != 0 and not os.environ.get("CI"):
        pytest.skip(f"no environment for TensorFlow: {made.stderr[-300:]}")
    assert made.returncode == 0, made.stderr[-2000:]
    assert " passed" in run(Path(made.stdout.strip().splitlines()[-1]), "tensorflow", TENSORFLOW, KERAS)
