"""Gradient transforms and parameter-group rules, one file each."""

from weft.methods.optimizers.contract import Optimizer
from weft.registry import Registry

optimizers = Registry("weft.methods.optimizers", Optimizer)
