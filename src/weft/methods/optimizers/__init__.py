"""Gradient transforms and parameter-group rules, one file each."""

from typing import TYPE_CHECKING

from weft.registry import Registry

if TYPE_CHECKING:
    from weft.methods.optimizers.contract import Optimizer

optimizers: "Registry[Optimizer]" = Registry(
    "weft.methods.optimizers", "weft.methods.optimizers.contract:Optimizer"
)
