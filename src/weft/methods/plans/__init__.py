"""Which layers and ranks, decided before training, one file each."""

from weft.methods.plans.contract import Plan
from weft.registry import Registry

plans = Registry("weft.methods.plans", Plan)
