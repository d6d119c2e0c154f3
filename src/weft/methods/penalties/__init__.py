"""Extra terms of the loss, one file each."""

from typing import TYPE_CHECKING

from weft.registry import Registry

if TYPE_CHECKING:
    from weft.methods.penalties.contract import Penalty

penalties: "Registry[Penalty]" = Registry(
    "weft.methods.penalties", "weft.methods.penalties.contract:Penalty"
)
