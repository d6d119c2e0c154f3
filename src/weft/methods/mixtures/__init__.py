"""Experts on one base combined at run time by gates, one method a file."""

from typing import TYPE_CHECKING

from weft.registry import Registry

if TYPE_CHECKING:
    from weft.methods.mixtures.contract import Mixture

mixtures: "Registry[Mixture]" = Registry(
    "weft.methods.mixtures", "weft.methods.mixtures.contract:Mixture"
)
