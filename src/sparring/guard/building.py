"""From `sparring.toml` to the engine that serves what it declares."""

from __future__ import annotations

from sparring.defenses import Policy, Stack, load_stack
from sparring.defenses.declared import Layers
from sparring.errors import ConfigError
from sparring.guard.engine import Engine, Shape
from sparring.guard.upstream import Upstream
from sparring.loading import BUILTIN, Config, declared_data, declared_model, model_info
from sparring.loading.config import present
from sparring.loading.guard_table import GuardTable
from sparring.model import Model


def engine_of(config: Config, folder: str = "sparring-stack") -> Engine:
    """The declared stack with its detectors as `sparring fit` left them, around the declared model or the upstream one.

    folder: where fitted stacks lie unless [stack] fitted says otherwise. Raises `ConfigError` for what is missing.
    """
    settings = config.guard or GuardTable()
    model: Model = Upstream(settings.upstream) if settings.upstream is not None else declared_model(config)
    shape, names = _shape_and_names(config, settings)
    return Engine(_stack(config, model, folder), shape, names)


def _stack(config: Config, model: Model, folder: str) -> Stack:
    if config.stack is None:
        return Stack(model)
    layers = Layers.of(config.stack.model_dump())
    if not layers.detectors:
        policy = layers.policy if layers.policy.purifier else Policy()
        return Stack(model, layers.transforms, (), policy)
    place = config.stack.fitted or folder
    stack = load_stack(place, model)
    if tuple(stack.transforms) != layers.transforms or stack.policy != layers.policy:
        raise ConfigError(f"{place} holds a stack that was fitted for another declaration: run `sparring fit` again")
    return stack


def _shape_and_names(config: Config, settings: GuardTable) -> tuple[Shape, tuple[str, ...] | None]:
    spec = "" if config.model is None else config.model.spec
    if spec in BUILTIN:
        info = model_info(spec)
        return settings.shape or info.shape, info.class_names
    classes = None if config.data is None else config.data.classes
    if settings.shape is not None:
        return settings.shape, classes
    present(config.data, "data, or [guard] shape")
    data = declared_data(config)
    c, h, w = (int(extent) for extent in data.images[0:1].shape[1:])
    return (c, h, w), data.class_names
