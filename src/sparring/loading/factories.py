"""A model from text: "package.module:factory" or "path/to/file.py:factory"."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from sparring.errors import InputError, ModelError, unknown
from sparring.loading.paths import kind_of, user_path
from sparring.loading.reason import reason


def build(spec: str) -> nn.Module:
    """The module that `spec` names: an `nn.Module` class, a function without arguments, or a module itself.

    The current folder, and for a file its own folder, can be imported from meanwhile; the global random state is
    as before afterwards. Importing runs the file: name only code you trust. Raises `InputError` for a path that
    leads nowhere, `ModelError` for code that fails or gives no `nn.Module`.
    """
    place, _, name = spec.rpartition(":")
    if not place or not name:
        raise InputError(f'model must be "package.module:factory" or "path/to/file.py:factory", got {spec!r}')
    file = user_path(place) if place.endswith(".py") else None
    with importable(Path.cwd(), *([file.parent] if file else [])), torch.random.fork_rng(devices=[]):
        module = _module(place, spec) if file is None else _module_from_file(file, spec)
        return _made(_attribute(module, name, spec), spec)


@contextmanager
def importable(*folders: Path) -> Iterator[None]:
    """These folders can be imported from, before all others, while the block runs."""
    before = list(sys.path)
    sys.path[:0] = [str(folder.resolve()) for folder in folders]
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = before


def _module(name: str, spec: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise InputError(
                f"model {spec!r}: there is no module {error.name!r} (looked in the current folder {Path.cwd()} and "
                'the installed packages); check the name, or give the file: "path/to/file.py:factory"'
            ) from error
        raise _failed(spec, "importing it", error) from error
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise _failed(spec, "importing it", error) from error


def _module_from_file(file: Path, spec: str) -> ModuleType:
    if kind_of(file) != "file":
        raise InputError(f"model {spec!r}: the file {file} does not exist (the current folder is {Path.cwd()})")
    name = f"sparring_file_{file.stem}"
    found = importlib.util.spec_from_file_location(name, file)
    if found is None or found.loader is None:
        raise InputError(f"model {spec!r}: {file} is not a Python file")
    module = importlib.util.module_from_spec(found)
    before = sys.modules.get(name)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        found.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        sys.modules.pop(name)
        if before is not None:
            sys.modules[name] = before
        raise _failed(spec, "importing it", error) from error
    return module


def _attribute(module: ModuleType, name: str, spec: str) -> object:
    found: object = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise InputError(f"model {spec!r}: " + unknown("factory", name, _candidates(module, name)))
        found = getattr(found, part)
    return found


def _candidates(module: ModuleType, name: str) -> list[str]:
    """What may have been meant: the module's public callables, of a large module the nearest."""
    known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
    return known if len(known) <= 20 else get_close_matches(name, known, n=8, cutoff=0.3)


def _made(factory: object, spec: str) -> nn.Module:
    if isinstance(factory, nn.Module):
        return factory
    if not callable(factory):
        raise ModelError(
            f"model {spec!r} is a {type(factory).__name__}, expected an nn.Module or a function giving one"
        )
    try:
        made = factory()
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        hint = ""
        if isinstance(error, TypeError) and "argument" in str(error):
            hint = "; a factory is called without arguments: write a function that fills them in"
        raise _failed(spec, "calling it", error, hint) from error
    if not isinstance(made, nn.Module):
        raise ModelError(
            f"model {spec!r} gave a {type(made).__name__}, not an nn.Module; return the module itself, "
            "or wrap a plain function in one"
        )
    return made


def _failed(spec: str, doing: str, error: BaseException, hint: str = "") -> ModelError:
    return ModelError(f"model {spec!r}: {doing} raised {type(error).__name__}: {reason(error)}{hint}")
