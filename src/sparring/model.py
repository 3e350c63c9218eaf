"""What we ask of a model: any callable from images in the declared box to logits, and how we handle it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparring.errors import InputError, ModelError, SparringError

Model = Callable[[Tensor], Tensor]


class Normalised(nn.Module):
    """A model that subtracts `mean` and divides by `std` per channel before it calls `inner`."""

    def __init__(self, inner: nn.Module, mean: float | Sequence[float], std: float | Sequence[float]) -> None:
        super().__init__()
        self.inner = inner
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", _per_channel(mean, "mean"))
        self.register_buffer("std", _per_channel(std, "std"))
        if not bool((self.std > 0).all()):
            raise InputError(f"std must be positive, got {std}")

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, C, H, W) in the box."""
        if self.mean.numel() not in (1, images.shape[1]):
            raise ModelError(
                f"the normalisation has {self.mean.numel()} channels, the images have {images.shape[1]}: "
                "give one mean and std for all channels or one per channel"
            )
        output: Tensor = self.inner((images - self.mean) / self.std)
        return output


class OutputAdapter(nn.Module):
    """Turns what some models return into logits.

    kind "logits" passes through; "probabilities" takes the logarithm (softmax outputs become logits again, up to
    a constant per image); "one-logit" and "one-probability" turn a single column into two classes.
    `index` picks one element of a tuple, list or mapping first.
    """

    KINDS = ("logits", "probabilities", "one-logit", "one-probability")

    def __init__(self, inner: nn.Module, kind: str = "logits", index: int | str | None = None) -> None:
        super().__init__()
        if kind not in self.KINDS:
            raise InputError(f"outputs must be one of {', '.join(self.KINDS)}, got {kind!r}")
        self.inner, self.kind, self.index = inner, kind, index

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes)."""
        output = self.inner(images)
        if self.index is not None:
            output = _element(output, self.index)
        if self.kind == "logits":
            return output  # type: ignore[no-any-return]
        if "prob" in self.kind and not bool(((output >= -1e-4) & (output <= 1 + 1e-4)).all()):
            low, high = float(output.min()), float(output.max())
            raise ModelError(
                f"outputs={self.kind!r} was declared, but the model returned values from {low:.4g} to {high:.4g}: "
                'probabilities lie in [0, 1]; declare outputs="logits" or "one-logit"'
            )
        if self.kind == "probabilities":
            return torch.log(output.clamp_min(torch.finfo(output.dtype).tiny))
        if output.numel() != len(images):
            raise ModelError(
                f"outputs={self.kind!r} was declared, one number per image, but the model returned shape "
                f"{tuple(output.shape)} for {len(images)} images"
            )
        column = output.reshape(len(images), 1)
        if self.kind == "one-probability":
            inside = column.clamp(1e-7, 1 - 1e-7)
            column = torch.log(inside) - torch.log1p(-inside)
        return torch.cat([-column / 2, column / 2], 1)


def _element(output: Any, index: int | str) -> Any:
    try:
        return output[index]
    except (LookupError, TypeError) as error:
        known = ", ".join(repr(key) for key in output) if isinstance(output, Mapping) else f"{_length(output)} elements"
        raise ModelError(
            f"output_index={index!r} is not in what the model returned, a {type(output).__name__} of {known}"
        ) from error


def _length(output: Any) -> int:
    return len(output) if hasattr(output, "__len__") else 0


@contextmanager
def frozen_eval(model: Model) -> Iterator[None]:
    """Evaluation mode without parameter gradients; every flag is as it was afterwards, also on an error."""
    if not isinstance(model, nn.Module):
        yield
        return
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval()
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, required in flags:
            parameter.requires_grad_(required)


def hookable(model: nn.Module) -> bool:
    """Do hooks see the parts of `model` run? Those of TorchScript run out of Python's sight."""
    return not any(isinstance(part, torch.jit.ScriptModule) for part in model.modules())


def logits_of(model: Model, images: Tensor) -> Tensor:
    """Call the model and check the contract: a float tensor of shape (N, classes), classes >= 2.

    Raises `ModelError` that names what came back and the one-line fix.
    """
    output = called(model, images)
    if not isinstance(output, Tensor):
        first = next(iter(output), 0) if isinstance(output, Mapping) else 0
        raise ModelError(
            f"the model returned {type(output).__name__}, not a tensor of logits: pick one with output_index={first!r} "
            f"(load_model, sparring.toml, --output-index) or wrap it in sp.model.OutputAdapter(model, index={first!r})"
        )
    if not output.is_floating_point():
        raise ModelError(
            f"the model returned {output.dtype}, not floating-point logits: if these are labels, declare that it shows "
            'no more, sp.BlackBox(model, access="labels", classes=10)'
        )
    if output.dim() == 1 or (output.dim() == 2 and output.shape[1] == 1):
        raise ModelError(
            f"the model returned shape {tuple(output.shape)}, one number per image: for a binary classifier load it "
            'with outputs="one-logit" or outputs="one-probability" (or wrap it in sp.model.OutputAdapter)'
        )
    if output.dim() != 2 or output.shape[0] != images.shape[0] or output.shape[1] == 0:
        raise ModelError(
            f"the model returned shape {tuple(output.shape)} for {images.shape[0]} images, expected (N, classes)"
        )
    return output


def probabilities(logits: Tensor) -> Tensor:
    """Softmax of logits (N, K), finite whatever they are: one that is infinite takes all, NaN counts as least."""
    finite = logits.float().nan_to_num(nan=-1e30, posinf=1e30, neginf=-1e30)
    return torch.softmax(finite, 1)


def called(model: Callable[[Tensor], object], images: Tensor) -> object:
    """What the model returns; what it raises becomes a `ModelError`."""
    if any(kind.__module__.startswith("keras.") for kind in type(model).__mro__):
        raise ModelError(
            "a Keras model takes its channels last and mostly ends in softmax, so it is attacked through a bridge: "
            "model = sp.load_model(model)"
        )
    try:
        return model(images)
    except (SparringError, torch.OutOfMemoryError):
        raise
    except (Exception, SystemExit) as error:
        shape = tuple(images.shape)
        said = f"it ended the program, {error!r}" if isinstance(error, SystemExit) else _first_line(error)
        hint = _mismatch(model, images) if "type" in said or "device" in said else ""
        raise ModelError(f"the model failed on images of shape {shape}: {said}{hint}") from error


def _mismatch(model: object, images: Tensor) -> str:
    """What to do where the model's numbers are not those of the images; nothing where they are."""
    if not isinstance(model, nn.Module):
        return ""
    first = next((p for p in model.parameters() if p.is_floating_point()), None)
    if first is None or (first.dtype, first.device) == (images.dtype, images.device):
        return ""
    if first.device != images.device:
        return f". The model is on {first.device}, the images are on {images.device}: move one of them, .to(...)"
    ways = f"convert the model, model.to(torch.{_short(images.dtype)})"
    if first.dtype in (torch.float32, torch.float64):
        ways += f", or in Python the images, images.to(torch.{_short(first.dtype)})"
    return f". The model computes in {_short(first.dtype)}, the images are {_short(images.dtype)}: {ways}"


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def device_of(model: Model, images: Tensor | None = None) -> torch.device:
    """Where the model's first parameter or buffer lives; without any, where `images` are (else the CPU).

    Raises `ModelError` for a model without values (on torch's meta device).
    """
    if isinstance(model, nn.Module):
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.device.type == "meta":
                raise ModelError("the model is on the meta device, where weights have no values: load them first")
            return tensor.device
    return torch.device("cpu") if images is None else images.device


def model_name(model: Model) -> str:
    """Qualified class name of a module, qualified name of a function."""
    thing = type(model) if isinstance(model, nn.Module) or not hasattr(model, "__qualname__") else model
    return f"{thing.__module__}.{thing.__qualname__}"


def model_digest(
    model: Model, shape: Sequence[int], bounds: tuple[float, float] = (0.0, 1.0), like: Tensor | None = None
) -> str:
    """Identity of a model: SHA-256 over class, architecture, weights, settings and logits on a fixed probe, hex.

    Settings are the public numbers, texts and tuples of them among the attributes of the model and its parts, but for
    those that change when it is called (counters). The probe, noise and the first image of `like`, catches what weights
    do not show: the same weights with scaled logits are another model. A model
    whose probe logits change from call to call is identified without them. like: images that the model takes; the
    probe has their dtype (else float32) and, where the model has no weights, is on their device.
    """
    digest = hashlib.sha256(model_name(model).encode())
    if isinstance(model, nn.Module):
        digest.update(repr(model).encode())
        held = {**dict(model.named_buffers()), **model.state_dict(keep_vars=False)}
        for name, tensor in sorted(held.items()):
            if not isinstance(tensor, Tensor):  # what a module's get_extra_state returns
                digest.update(f"{name}|{tensor!r}".encode())
                continue
            digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    low, high = bounds
    settings = _settings(model)
    draws = np.random.Generator(np.random.Philox(key=0)).random((4, *shape), dtype=np.float32)
    probe = (low + (high - low) * torch.from_numpy(draws)).to(
        device_of(model, like), None if like is None else like.dtype
    )
    if like is not None:
        probe = torch.cat([probe, like[:1].detach().to(probe.device)])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the order of a sum, and so its rounding, may follow the number of threads
    try:
        with frozen_eval(model), torch.no_grad():
            first, second = logits_of(model, probe), logits_of(model, probe)
    finally:
        torch.set_num_threads(threads)
    if torch.equal(first, second):
        digest.update(first.float().cpu().numpy().tobytes())
    kept = sorted(settings.items() & _settings(model).items())
    digest.update(repr(kept).encode())
    return digest.hexdigest()


def _settings(model: Model) -> dict[str, str]:
    """Name to text of the plain public attributes of a module and its parts."""
    parts = model.named_modules() if isinstance(model, nn.Module) else ()
    return {
        f"{place}.{name}": repr(value)
        for place, part in parts
        for name, value in vars(part).items()
        if not name.startswith("_") and name != "training" and _is_plain(value)
    }


def _is_plain(value: object) -> bool:
    if isinstance(value, (tuple, list)):
        return all(_is_plain(part) for part in value)
    return value is None or isinstance(value, (bool, int, float, str))


def _per_channel(values: float | Sequence[float], name: str) -> Tensor:
    tensor = torch.as_tensor(values, dtype=torch.float32).reshape(-1)
    if tensor.numel() == 0 or not bool(tensor.isfinite().all()):
        raise InputError(f"{name} must be finite numbers, one or one per channel, got {values!r}")
    return tensor.reshape(-1, 1, 1)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
