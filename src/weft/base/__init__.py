"""The frozen trunk: found, loaded, normalised once, and known by its digest."""

from importlib import import_module
from typing import Any

_SHORT = ("load_base",)
"""Names that cards of experts import from here."""


def __getattr__(name: str) -> Any:
    if name not in _SHORT:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("weft.base.loading"), name)
