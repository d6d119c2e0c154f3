"""Heads, one file for each kind of task, found by their names: a head has the name of its task's kind."""

from functools import cache

import transformers

from weft.model.heads.contract import Kind
from weft.registry import Registry

heads = Registry("weft.model.heads", Kind)


@cache
def kind_of(name: str) -> Kind:
    """The one object of the kind called `name`.

    Raises:
        KeyError: If there is no such kind; names the nearest.
    """
    return heads.load(name)()


def fitting(config: transformers.PreTrainedConfig) -> list[str]:
    """The kinds that transformers has a task class for, as far as a config tells (`model/passage.py` tries them)."""
    return [name for name in heads.names() if kind_of(name).fits(config)]


def kind_for(name: str, config: transformers.PreTrainedConfig) -> Kind:
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
