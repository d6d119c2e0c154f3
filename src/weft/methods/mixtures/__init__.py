"""Experts on one base combined at run time by gates, one method a file."""

from weft.mixtures.base import Mixture
from weft.registry import Registry

mixtures = Registry("weft.mixtures", Mixture)
