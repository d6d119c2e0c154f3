"""Several experts combined into one beforehand, one method a file."""

from weft.methods.merges.contract import Merge
from weft.registry import Registry

merges = Registry("weft.methods.merges", Merge)
