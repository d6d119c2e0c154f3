"""Several experts combined into one beforehand, one method a file."""

from typing import TYPE_CHECKING

from weft.registry import Registry

if TYPE_CHECKING:
    from weft.methods.merges.contract import Merge

merges: "Registry[Merge]" = Registry("weft.methods.merges", "weft.methods.merges.contract:Merge")
