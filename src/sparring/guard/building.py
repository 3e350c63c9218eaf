"""From `sparring.toml` to the engine that serves what it declares."""

from __future__ import annotations

from sparring.bridges.onnx import open_onnx
from sparring.defenses import Policy, Stack, load_stack
from sparring.defenses.declared import Layers
from sparring.errors import ConfigError
from sparring.guard.engine import Engine, Shape
from sparring.guard.upstream import Upstream
from sparring.loading import BUILTIN, Config, declared_data, declared_model, load_model, model_info
from sparring.loading.config import present
from sparring.loading.guard_table import GuardTable
from sparring.loading.paths import user_path
from sparring.model import Model


def engine_of(config: Config, folder: str = "sparring-stack") -> Engine:
    """The declared stack with its detectors as `sparring fit` left them, around the model, run as [guard] says.

    folder: where fitted stacks lie unless [stack] fitted says otherwise. Raises `ConfigError` for what is missing.
    """
    settings = config.guard or GuardTable()
    shape, names = _shape_and_names(config, settings)
    return Engine(_stack(config, _model(config, settings), folder), shape, names)


def attacked(config: Config, engine: Engine, folder: str = "sparring-stack") -> Stack:
    """The stack of `engine` as a re-audit attacks it: where onnxruntime runs the model, its graph rebuilt in torch,
    which gives the same scores and has gradients.
    """
    if config.guard is None or config.guard.runtime == "torch" or config.guard.upstream is not None:
        return engine.stack
    return _stack(config, declared_model(config), folder)


def _model(config: Config, settings: GuardTable) -> Model:
    if settings.upstream is not None:
        return Upstream(settings.upstream, settings.upstream_seconds)
    if settings.runtime == "torch":
        return declared_model(config)
    table = present(config.model, "model")
    if not table.spec.endswith(".onnx"):
        raise ConfigError(f'[guard] runtime = "onnxruntime" runs .onnx files, and [model] spec is {table.spec!r}')
    if config.stack is not None and config.stack.detectors:
        raise ConfigError('[guard] runtime = "onnxruntime" has no detectors: they are fitted to the model in torch')
    scores = open_onnx(user_path(table.spec), gradients=False)
    return load_model(scores, mean=table.mean, std=table.std, outputs=table.outputs, output_index=table.output_index)


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
