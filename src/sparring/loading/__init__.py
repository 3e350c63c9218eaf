"""Models, data sets, pictures and `sparring.toml`: what the other rooms work on."""

from typing import TYPE_CHECKING

from sparring import _lazy

if TYPE_CHECKING:
    from sparring.loading.builtin import BUILTIN, ModelInfo, model_info
    from sparring.loading.builtin_data import DATA_SETS
    from sparring.loading.config import FLAGS, Config, load_config, merge
    from sparring.loading.config_text import render_config
    from sparring.loading.data import Dataset, load_data
    from sparring.loading.declared import declared_data, declared_model, declared_threat, load_mask
    from sparring.loading.lazy import LazyImages
    from sparring.loading.models import load_model
    from sparring.loading.npy import load_array
    from sparring.loading.photos import PHOTOS
    from sparring.loading.pictures import load_image
    from sparring.loading.script import as_script

__all__ = [
    "BUILTIN",
    "DATA_SETS",
    "FLAGS",
    "PHOTOS",
    "Config",
    "Dataset",
    "LazyImages",
    "ModelInfo",
    "as_script",
    "declared_data",
    "declared_model",
    "declared_threat",
    "load_array",
    "load_config",
    "load_data",
    "load_image",
    "load_mask",
    "load_model",
    "merge",
    "model_info",
    "render_config",
]

_HOMES = {
    "builtin": ("BUILTIN", "ModelInfo", "model_info"),
    "builtin_data": ("DATA_SETS",),
    "config": ("FLAGS", "Config", "load_config", "merge"),
    "config_text": ("render_config",),
    "data": ("Dataset", "load_data"),
    "declared": ("declared_data", "declared_model", "declared_threat", "load_mask"),
    "lazy": ("LazyImages",),
    "npy": ("load_array",),
    "models": ("load_model",),
    "photos": ("PHOTOS",),
    "pictures": ("load_image",),
    "script": ("as_script",),
}
"""A configuration can be read without torch, so only what is asked for is imported."""

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        return _lazy.find(__name__, name, _HOMES)


def __dir__() -> list[str]:
    return sorted({*__all__, *globals()} - {"TYPE_CHECKING"})
