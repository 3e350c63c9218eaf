"""The declared stack in production: served over HTTP, every decision kept, every client watched."""

from typing import TYPE_CHECKING

from sparring import _lazy

if TYPE_CHECKING:
    from sparring.guard.app import create_app
    from sparring.guard.engine import Engine
    from sparring.guard.service import Guard
    from sparring.guard.watch.profile import Profile, calibrate

__all__ = ["Engine", "Guard", "Profile", "calibrate", "create_app"]

_HOMES = {
    "app": ("create_app",),
    "engine": ("Engine",),
    "service": ("Guard",),
    "watch.profile": ("Profile", "calibrate"),
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        return _lazy.find(__name__, name, _HOMES)


def __dir__() -> list[str]:
    return sorted({*__all__, *globals()} - {"TYPE_CHECKING"})
