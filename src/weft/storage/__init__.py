"""Experts, mixtures and PEFT folders on disk, and what is read from and written to them."""

from importlib import import_module
from typing import Any

_SHORT = ("load_expert", "load_full")
"""Names that cards of experts import from here."""


def __getattr__(name: str) -> Any:
    if name not in _SHORT:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("weft.storage.experts"), name)
