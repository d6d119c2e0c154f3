"""A trunk with heads, experts and mixtures: what is trained and what answers."""

from importlib import import_module
from typing import Any

_SHORT = ("Model",)
"""Names that cards of experts import from here."""


def __getattr__(name: str) -> Any:
    if name not in _SHORT:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("weft.model.model"), name)
