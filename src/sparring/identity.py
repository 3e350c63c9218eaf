"""Identity of a user's own code: which classes and functions a model or an attack is made of, and with what values.

Records of an earlier run may be used again only if nothing that made them has changed. A class or function is known by
the files that it and its helpers come from, and by its bytecode, defaults and closure.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_OTHERS = tuple(Path(sysconfig.get_paths()[name]).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib"))
"""Folders of installed code: a changed version of it is another environment, not another model."""
_DEPTH = 6
_INTERNAL = frozenset(vars(nn.Module())) | {"training"}
"""Attributes that every module has, and that are looked at otherwise."""


def code_of(thing: object) -> str:
    """SHA-256, hex, of the code of a class, a function or an object of a class, its files and helpers among it."""
    digest, reader = hashlib.sha256(), _Reader()
    for part in _parts(thing):
        digest.update(reader.code(part, _DEPTH).encode())
    for path in sorted({path for part in _parts(thing) for path in _files(part)}):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def settings_of(module: object) -> dict[str, str]:
    """Name to text of every attribute, public or not, of a module and its parts; of a function, what it closes over."""
    if isinstance(module, nn.Module):
        return _Reader().settings(module, _DEPTH)
    return {"": _Reader().text(module, _DEPTH)}


class _Reader:
    """Puts code and values into words; code that was read already goes by its name."""

    def __init__(self) -> None:
        self._read: set[int] = set()

    def code(self, thing: Any, depth: int) -> str:
        """Name, and for code of the user's the bytecode of every function, those of its own bases too."""
        if depth == 0 or id(thing) in self._read:
            return _name(thing)
        self._read.add(id(thing))
        if not isinstance(thing, type):
            return self._function(getattr(thing, "__func__", thing), depth)
        own = [base for base in thing.__mro__ if not _installed(base)]
        functions = [f for base in own for _, f in sorted(vars(base).items()) if inspect.isroutine(f)]
        return "|".join([_name(thing), *(self._function(getattr(f, "__func__", f), depth) for f in functions)])

    def _function(self, function: object, depth: int) -> str:
        if not isinstance(function, FunctionType):
            return _name(function)
        kept = [cell.cell_contents for cell in function.__closure__ or () if _filled(cell)]
        kept += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values(), *_globals(function)]
        texts = [self.text(value, depth - 1) for value in kept]
        return "|".join([_name(function), _bytecode(function.__code__), *texts])

    def text(self, value: Any, depth: int) -> str:
        """What tells one value from another; of what cannot be looked into, its type."""
        if value is None or isinstance(value, _PLAIN):
            return repr(value)
        if isinstance(value, (Tensor, np.ndarray)):
            return _numbers(value)
        if _is_code(value):
            return self.code(value, depth)
        if depth == 0:
            return _name(type(value))
        if isinstance(value, dict):
            return repr([(str(key), self.text(part, depth - 1)) for key, part in value.items()])
        if isinstance(value, (list, tuple)):
            return repr([self.text(part, depth - 1) for part in value])
        if isinstance(value, (set, frozenset)):
            return repr(sorted(self.text(part, depth - 1) for part in value))
        if isinstance(value, nn.Module):
            state = {**dict(value.named_parameters()), **dict(value.named_buffers())}
            return f"{self.code(type(value), depth)} {self.text(state, depth)} {self.settings(value, depth - 1)}"
        if isinstance(value, (ModuleType, torch.Generator)) or not hasattr(value, "__dict__"):
            return _name(value if isinstance(value, ModuleType) else type(value))
        return f"{_name(type(value))} {self.text(vars(value), depth - 1)}"

    def settings(self, module: nn.Module, depth: int) -> dict[str, str]:
        """Name to text of every attribute of a module and its parts that is neither weight nor part."""
        return {
            f"{place}.{name}": self.text(value, depth)
            for place, part in module.named_modules()
            for name, value in vars(part).items()
            if name not in _INTERNAL and not isinstance(value, nn.Module)
        }


_PLAIN = (bool, int, float, complex, str, bytes, torch.dtype, torch.device)


def _parts(thing: object) -> list[object]:
    """The classes and functions to look at."""
    if isinstance(thing, nn.Module):
        classes: list[object] = sorted({type(part) for part in thing.modules()}, key=_name)
        return [*classes, *(v for part in thing.modules() for v in vars(part).values() if _is_code(v))]
    if _is_code(thing):
        return [thing]
    return [type(thing)]


def _is_code(value: object) -> bool:
    return isinstance(value, (FunctionType, MethodType, type))


def _name(thing: object) -> str:
    return f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', type(thing).__qualname__)}"


def _globals(function: FunctionType) -> list[object]:
    """The values of the globals that it reads; code among them only where no file tells it (at a prompt)."""
    typed = _file(sys.modules.get(function.__module__ or "")) is None and not _installed(function)
    found = [function.__globals__[name] for name in function.__code__.co_names if name in function.__globals__]
    return [value for value in found if not isinstance(value, ModuleType) and (typed or not _is_code(value))]


def _filled(cell: object) -> bool:
    try:
        return cell.cell_contents is not None  # type: ignore[attr-defined]
    except ValueError:  # of a recursive function that is not bound yet
        return False


def _bytecode(code: CodeType) -> str:
    inner = [_bytecode(c) if isinstance(c, CodeType) else _constant(c) for c in code.co_consts]
    return hashlib.sha256(repr((code.co_code, code.co_names, inner)).encode()).hexdigest()


def _constant(value: object) -> str:
    return repr(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)


def _numbers(value: Tensor | np.ndarray) -> str:
    array = value.detach().cpu().contiguous() if isinstance(value, Tensor) else torch.from_numpy(value.copy())
    raw = array.reshape(-1).view(torch.uint8).numpy().tobytes()
    return f"{array.dtype} {tuple(array.shape)} {hashlib.sha256(raw).hexdigest()}"


def _files(thing: object) -> set[Path]:
    """The files of the user's own that `thing` comes from: of its bases, and of what these import."""
    classes = thing.__mro__ if isinstance(thing, type) else (thing,)
    found: set[Path] = set()
    waiting = [sys.modules.get(getattr(part, "__module__", None) or "") for part in classes]
    while waiting:
        module = waiting.pop()
        path = _file(module)
        if module is not None and path is not None and path not in found:
            found.add(path)
            waiting.extend(_imported(module))
    return found


def _imported(module: ModuleType) -> Iterator[ModuleType | None]:
    for value in list(vars(module).values()):
        if isinstance(value, ModuleType):
            yield value
        elif _is_code(value):
            yield sys.modules.get(getattr(value, "__module__", None) or "")


def _file(module: ModuleType | None) -> Path | None:
    """The module's file, if it is the user's own: neither installed nor ours."""
    name = getattr(module, "__file__", None)
    if module is None or name is None or _ours(module.__name__):
        return None
    path = Path(name).resolve()
    elsewhere = "site-packages" in path.parts or "dist-packages" in path.parts  # of the user, of the system, of Debian
    installed = elsewhere or any(path.is_relative_to(folder) for folder in _OTHERS)
    return None if installed or not path.is_file() else path


def _installed(thing: type | FunctionType) -> bool:
    module = sys.modules.get(thing.__module__ or "")
    return thing.__module__ == "builtins" or (module is not None and _has_file(module) and _file(module) is None)


def _has_file(module: ModuleType) -> bool:
    return getattr(module, "__file__", None) is not None or _ours(module.__name__)


def _ours(name: str) -> bool:
    return name.partition(".")[0] == "sparring"
