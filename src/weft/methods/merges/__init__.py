"""Several experts combined into one beforehand, one method a file."""

from weft.merges.base import Merge
from weft.registry import Registry

merges = Registry("weft.merges", Merge)
