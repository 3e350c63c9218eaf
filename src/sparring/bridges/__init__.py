"""Bridges: models that live elsewhere (behind HTTP, in another framework, in a file of another form) as ours."""

from typing import TYPE_CHECKING

from sparring import _lazy

if TYPE_CHECKING:
    from sparring.bridges.configured import configured
    from sparring.bridges.http import open_endpoint
    from sparring.bridges.huggingface import open_huggingface
    from sparring.bridges.jax import from_jax
    from sparring.bridges.keras import from_keras, open_keras
    from sparring.bridges.onnx import open_onnx
    from sparring.bridges.opening import adopted, form_of, opened, remarks
    from sparring.bridges.tensorflow import from_tensorflow

__all__ = [
    "adopted",
    "configured",
    "form_of",
    "from_jax",
    "from_keras",
    "from_tensorflow",
    "open_endpoint",
    "open_huggingface",
    "open_keras",
    "open_onnx",
    "opened",
    "remarks",
]

_HOMES = {
    "configured": ("configured",),
    "http": ("open_endpoint",),
    "huggingface": ("open_huggingface",),
    "jax": ("from_jax",),
    "keras": ("from_keras", "open_keras"),
    "onnx": ("open_onnx",),
    "opening": ("adopted", "form_of", "opened", "remarks"),
    "tensorflow": ("from_tensorflow",),
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        return _lazy.find(__name__, name, _HOMES)


def __dir__() -> list[str]:
    return sorted({*__all__, *globals()} - {"TYPE_CHECKING"})
