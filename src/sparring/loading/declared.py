"""From the tables of `sparring.toml` to the model, the data and the threat."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from sparring.errors import ConfigError, DataError
from sparring.loading.config import Config, present
from sparring.loading.data import Dataset, load_data
from sparring.loading.models import load_model
from sparring.loading.npy import read_npy
from sparring.loading.paths import existing_file, user_path
from sparring.loading.pictures import read_header, read_picture
from sparring.threat import ThreatModel


def declared_model(config: Config) -> nn.Module:
    """The model of [model]. Raises `ConfigError` without that table, else as `load_model`."""
    table = present(config.model, "model")
    return load_model(
        table.spec,
        weights=table.weights,
        mean=table.mean,
        std=table.std,
        outputs=table.outputs,
        output_index=table.output_index,
        device=table.device,
    )


def declared_data(config: Config) -> Dataset:
    """The images of [data]. Raises `ConfigError` without that table, else as `load_data`."""
    table = present(config.data, "data")
    return load_data(
        table.source,
        table.n,
        split=table.split,
        size=table.size,
        channels=table.channels,
        labels=table.labels,
        classes=table.classes,
    )


def declared_threat(config: Config) -> ThreatModel:
    """The threat of [threat] with its mask read. Raises `ConfigError` without that table and for a linf budget wider
    than the box (8 where 8/255 was meant), else as `ThreatModel`.
    """
    table = present(config.threat, "threat")
    mask = None if table.mask is None else load_mask(table.mask)
    threat = ThreatModel(table.norm, table.eps, table.bounds, mask)
    low, high = table.bounds
    if threat.norm == "linf" and threat.eps > high - low:
        meant = f'; grey levels are written as a fraction, "{threat.eps:g}/255"' if threat.eps <= 255 else ""
        raise ConfigError(
            f"[threat] eps: {threat.eps_text} is more than any pixel can change, they lie in [{low:g}, {high:g}]{meant}"
        )
    return threat


def load_mask(path: str | Path) -> Tensor:
    """Where pixels may change: bool (1, H, W) from a PNG, (1, H, W) or (C, H, W) from a .npy; true where not zero.

    Raises `DataError` for another format, a PNG with transparency, and a mask that allows nothing.
    """
    file = existing_file(user_path(path), "the mask")
    suffix = file.suffix.lower()
    if suffix == ".png":
        if read_header(file).transparent:
            raise DataError(f"the mask {file} is transparent; save it opaque, black where nothing may change")
        mask = (read_picture(file, None, 3) > 0).any(0, keepdim=True)
    elif suffix == ".npy":
        array = read_npy(file)
        if array.dtype.kind not in "bui" or array.ndim not in (2, 3):
            raise DataError(f"the mask {file} is {array.dtype} of shape {array.shape}, expected bool or integer (H, W)")
        mask = torch.from_numpy(array != 0)
        mask = mask[None] if mask.dim() == 2 else mask
    else:
        raise DataError(f"the mask {file} must be a .png or .npy file (JPEG and WebP blur its edge)")
    if not bool(mask.any()):
        raise DataError(f"the mask {file} is zero everywhere: no pixel may change; make some of it nonzero")
    return mask
