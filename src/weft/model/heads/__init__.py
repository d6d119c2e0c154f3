"""Heads, one file for each kind of task, found by their names: a head has the name of its task's kind."""

from functools import cache
from typing import TYPE_CHECKING

from weft.registry import Registry

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from weft.model.heads.contract import Kind

heads: "Registry[Kind]" = Registry("weft.model.heads", "weft.model.heads.contract:Kind")


@cache
def kind_of(name: str) -> "Kind":
    """The one object of the kind called `name`.

    Raises:
        KeyError: If there is no such kind; names the nearest.
    """
    return heads.load(name)()


def fitting(config: "PreTrainedConfig") -> list[str]:
    """The kinds that transformers has a task class for, as far as a config tells (`model/passage.py` tries them)."""
    return [name for name in heads.names() if kind_of(name).fits(config)]


def kind_for(name: str, config: "PreTrainedConfig") -> "Kind":
    """The kind called `name`, if this base can serve it.

    Raises:
        KeyError: If there is no such kind.
        ValueError: If the base cannot; names the kinds that fit.
    """
    if not kind_of(name).fits(config):
        raise ValueError(
            f"a {config.model_type} base cannot serve {name}; kinds that fit: {', '.join(fitting(config))}"
        )
    return kind_of(name)
