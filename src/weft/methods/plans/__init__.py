"""Which layers and ranks, decided before training, one file each."""

from weft.plans.base import Plan
from weft.registry import Registry

plans = Registry("weft.plans", Plan)
