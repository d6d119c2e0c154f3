"""Extra terms of the loss, one file each."""

from weft.methods.penalties.contract import Penalty
from weft.registry import Registry

penalties = Registry("weft.methods.penalties", Penalty)
