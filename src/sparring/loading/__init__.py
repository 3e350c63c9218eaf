"""Models, data sets, pictures and `sparring.toml`: what the other rooms work on."""

from sparring.loading.builtin import BUILTIN, ModelInfo, model_info
from sparring.loading.builtin_data import DATA_SETS
from sparring.loading.config import FLAGS, Config, load_config, merge
from sparring.loading.config_text import render_config
from sparring.loading.data import Dataset, load_data
from sparring.loading.declared import declared_data, declared_model, declared_threat, load_mask
from sparring.loading.lazy import LazyImages
from sparring.loading.models import load_model
from sparring.loading.photos import PHOTOS
from sparring.loading.pictures import load_image

__all__ = [
    "BUILTIN",
    "DATA_SETS",
    "FLAGS",
    "PHOTOS",
    "Config",
    "Dataset",
    "LazyImages",
    "ModelInfo",
    "declared_data",
    "declared_model",
    "declared_threat",
    "load_config",
    "load_data",
    "load_image",
    "load_mask",
    "load_model",
    "merge",
    "model_info",
    "render_config",
]
