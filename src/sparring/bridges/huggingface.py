"""Image-classification checkpoints of Hugging Face's transformers, from a folder on disk. Nothing is downloaded."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from sparring.errors import DataError, MissingExtraError, ModelError
from sparring.loading.paths import existing_file, kind_of
from sparring.loading.reason import reason
from sparring.model import Normalised

CONFIG, INDEX, WEIGHTS = "config.json", "model.safetensors.index.json", "model.safetensors"
PREPROCESSING = "preprocessor_config.json"
ADAPTER = "adapter_config.json"
MOST_BYTES, MOST_LABELS = 64 * 2**20, 10**6
_CODE, _PLACE = "code of its own", "a model of another place"
ELSEWHERE = {
    **dict.fromkeys(("auto_map", "custom_pipelines", "attn_implementation", "_attn_implementation"), _CODE),
    **dict.fromkeys(("experts_implementation", "_experts_implementation", "quantization_config"), _CODE),
    **dict.fromkeys(("backbone", "use_timm_backbone", "use_pretrained_backbone", "architecture"), _PLACE),
}
"""Settings that make the library import code, or open or download another model."""
DEEP = ("layers", "depths", "blocks", "repeats")
"""What settings that count layers have in their names."""
PLAIN = ("eager", "sdpa")
"""Ways to compute attention that come with the library itself."""


class HuggingFaceModel(nn.Module):
    """Images (N, C, H, W) in [0, 1] to logits (N, K): the checkpoint behind the normalisation its folder declares.

    `class_names` are the labels of its configuration, in order.
    """

    normalises = True

    def __init__(
        self,
        inner: nn.Module,
        preprocessing: Mapping[str, Any] | None,
        names: tuple[str, ...],
        unused: Sequence[str] = (),
    ) -> None:
        super().__init__()
        try:
            mean, std = _normalisation(preprocessing or {})
        except (TypeError, ValueError, ZeroDivisionError) as error:
            raise DataError(f"{PREPROCESSING} declares a normalisation that is none: {reason(error)}") from error
        self.inner = Normalised(inner, mean, std)
        self.class_names = names
        self._said = _described(inner, preprocessing, mean, std)
        if unused:
            left = f"{len(unused)} weights of the folder have no place in the {type(inner).__name__} of its {CONFIG}"
            self._said += (f"{left} and are not used, such as {unused[0]!r}; check that this is right",)

    def remarks(self) -> tuple[str, ...]:
        """Which normalisation was read, and which size the model was made for."""
        return self._said

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K)."""
        output = self.inner(images)
        logits: Tensor = output["logits"] if isinstance(output, Mapping) else output
        return logits


def open_huggingface(folder: str | Path) -> HuggingFaceModel:
    """The checkpoint in `folder`: config.json, safetensors (one file or several), preprocessor_config.json.

    Pickles (pytorch_model.bin) and code of the checkpoint's own (auto_map) are refused. Raises `DataError` for files
    that are missing, broken or refused, `ModelError` for what is no image classifier, `MissingExtraError` without
    the extra "huggingface".
    """
    folder = Path(folder)
    config = _read(folder / CONFIG)
    _check_config(folder / CONFIG, config)
    _check_depth(folder / CONFIG, config, _check_weights(folder))
    preprocessing = _read(folder / PREPROCESSING) if kind_of(folder / PREPROCESSING) == "file" else None
    try:
        from transformers import AutoModelForImageClassification, utils
    except ImportError:
        raise MissingExtraError("a Hugging Face checkpoint", "huggingface") from None
    logging: Any = utils.logging
    loud, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with torch.random.fork_rng(devices=[]), _offline():
            model, told = AutoModelForImageClassification.from_pretrained(
                str(folder),
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except Exception as error:  # a library of hundreds of architectures meets arbitrary files
        said = reason(error)
        if "ignore_mismatched_sizes" in said:  # the library's advice, without what is wrong
            said = f"its weights have other shapes than {CONFIG} declares"
        raise ModelError(f"{folder} could not be loaded as an image classifier: {said}") from error
    finally:
        logging.set_verbosity(loud)
        if bars:
            logging.enable_progress_bar()
    if lost := sorted(told["missing_keys"]) + sorted(map(str, told.get("mismatched_keys", ()))):
        raise DataError(f"{folder} has no fitting weights for {len(lost)} parts of the model, such as {lost[0]!r}")
    names = tuple(str(model.config.id2label[i]) for i in sorted(model.config.id2label))
    return HuggingFaceModel(model, preprocessing, names, sorted(map(str, told.get("unexpected_keys", ()))))


def _read(file: Path) -> dict[str, Any]:
    existing_file(file, "the checkpoint's")
    if file.stat().st_size > MOST_BYTES:
        raise DataError(f"{file} is {file.stat().st_size} bytes, which is no configuration")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise DataError(f"{file} is not valid JSON: {reason(error)}") from error
    if not isinstance(found, dict):
        raise DataError(f"{file} holds a {type(found).__name__}, expected a table of settings")
    return found


def _check_config(file: Path, config: Mapping[str, Any]) -> None:
    """No code, and no model of another place: a configuration can name both, at any depth."""
    for key, value in _settings(config):
        if key in ELSEWHERE and value and value not in PLAIN:
            raise DataError(
                f"{file} asks for {ELSEWHERE[key]} ({key} = {str(value)[:60]!r}): refused. Where you trust it, load it "
                'yourself in a function and name that: load_model("my_model.py:function")'
            )
    labels = config.get("num_labels", 0)
    if isinstance(labels, (int, float)) and labels > MOST_LABELS:
        raise DataError(f"{file} declares {labels} classes; at most {MOST_LABELS} are read")


def _check_depth(file: Path, config: Mapping[str, Any], tensors: int) -> None:
    """More layers than the folder has tensors have no weights there; the library would build them one by one."""
    for key, value in _settings(config):
        counts = value if isinstance(value, list) else [value]
        most = max((count for count in counts if isinstance(count, (int, float))), default=0)
        if any(word in key for word in DEEP) and most > tensors:
            raise DataError(f"{file} declares {key} = {value}, but the folder holds {tensors} tensors in all: refused")


def _settings(config: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, however deep."""
    waiting = [config]
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict):
            yield from found.items()
            waiting += found.values()
        elif isinstance(found, list):
            waiting += found


@contextmanager
def _offline() -> Iterator[None]:
    """The library that downloads is told that there is no network, while the block runs."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _check_weights(folder: Path) -> int:
    """Safetensors, in this folder and nowhere else. Returns how many tensors there are."""
    if kind_of(folder / ADAPTER) != "missing":
        raise DataError(
            f"{folder} holds an adapter ({ADAPTER}) to a model of another place, which is not read: merge the two and "
            "save the result"
        )
    if kind_of(folder / WEIGHTS) == "file":
        return _tensors(folder / WEIGHTS)
    if kind_of(folder / INDEX) != "file":
        pickles = sorted(
            path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".pkl", ".h5")
        )
        instead = f"{pickles[0]}, whose format can run code, is not read" if pickles else "no weights are there"
        raise DataError(
            f"{folder} has no {WEIGHTS}: {instead}. Save it again: model.save_pretrained({str(folder)!r}) writes "
            "safetensors"
        )
    places = _read(folder / INDEX).get("weight_map")
    if not isinstance(places, dict):
        raise DataError(f"{folder / INDEX} has no weight_map")
    found = 0
    for place in sorted(set(map(str, places.values()))):
        if Path(place).name != place or not place.endswith(".safetensors") or (folder / place).is_symlink():
            raise DataError(f"{folder / INDEX} names {place!r}, which is no safetensors file of that folder: refused")
        existing_file(folder / place, "the weights file")
        found += _tensors(folder / place)
    return found


def _tensors(file: Path) -> int:
    try:
        with safe_open(file, framework="pt") as held:
            return len(held.keys())
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read: {reason(error)}; copy or download it again") from error


def _normalisation(declared: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """Mean and std for images in [0, 1]; checkpoints declare theirs for images in 0 to 255 after `rescale_factor`."""
    scale = 255 * float(declared.get("rescale_factor", 1 / 255)) if declared.get("do_rescale", True) else 255.0
    offset = 1.0 if declared.get("rescale_offset", False) else 0.0
    mean, std = declared.get("image_mean"), declared.get("image_std")
    if not declared.get("do_normalize", mean is not None) or mean is None or std is None:
        mean, std = [0.0], [1.0]
    means, stds = ([float(v) for v in (part if isinstance(part, list) else [part])] for part in (mean, std))
    return [(value + offset) / scale for value in means], [value / scale for value in stds]


def _described(
    inner: nn.Module, preprocessing: Mapping[str, Any] | None, mean: list[float], std: list[float]
) -> tuple[str, ...]:
    kind = type(inner).__name__
    if preprocessing is None:
        return (f"{kind}: the folder has no {PREPROCESSING}, so images reach it in [0, 1]; check that this is right",)
    shown = [", ".join(f"{value:.4g}" for value in part) for part in (mean, std)]
    said = [f"{kind}: normalised inside with mean {shown[0]} and std {shown[1]}, read from {PREPROCESSING}"]
    size = preprocessing.get("crop_size") if preprocessing.get("do_center_crop") else preprocessing.get("size")
    if isinstance(size, Mapping):
        size = size.get("height", size.get("shortest_edge"))
    if isinstance(size, int):
        said.append(f"{kind} was made for pictures of {size} x {size}: load them so, --size {size}")
    return tuple(said)
