"""Robustness as a test: one assertion, and a pytest plug-in that comes with the package."""

from typing import TYPE_CHECKING

from sparring import _lazy

if TYPE_CHECKING:
    from sparring.testing.robust import NotRobustError, assert_robust

__all__ = ["NotRobustError", "assert_robust"]

_HOMES = {"robust": ("NotRobustError", "assert_robust")}
"""pytest imports the plug-in of this package in every project; only a test that asks for more pays for torch."""

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        return _lazy.find(__name__, name, _HOMES)


def __dir__() -> list[str]:
    return sorted({*__all__, *globals()} - {"TYPE_CHECKING"})
