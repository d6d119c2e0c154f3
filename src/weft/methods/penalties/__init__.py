"""Extra terms of the loss, one file each."""

from weft.penalties.base import Penalty
from weft.registry import Registry

penalties = Registry("weft.penalties", Penalty)
