"""Experts on one base combined at run time by gates, one method a file."""

from weft.methods.mixtures.contract import Mixture
from weft.registry import Registry

mixtures = Registry("weft.methods.mixtures", Mixture)
