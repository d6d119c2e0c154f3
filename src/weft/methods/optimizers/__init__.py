"""Gradient transforms and parameter-group rules, one file each."""

from weft.optimizers.base import Optimizer
from weft.registry import Registry

optimizers = Registry("weft.optimizers", Optimizer)
