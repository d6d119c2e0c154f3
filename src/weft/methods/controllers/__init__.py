"""What changes during training (ranks, masks, freezing), one file each."""

from typing import TYPE_CHECKING

from weft.registry import Registry

if TYPE_CHECKING:
    from weft.methods.controllers.contract import Controller

controllers: "Registry[Controller]" = Registry(
    "weft.methods.controllers", "weft.methods.controllers.contract:Controller"
)
