"""Which layers and ranks, decided before training, one file each."""

from typing import TYPE_CHECKING

from weft.registry import Registry

if TYPE_CHECKING:
    from weft.methods.plans.contract import Plan

plans: "Registry[Plan]" = Registry("weft.methods.plans", "weft.methods.plans.contract:Plan")
