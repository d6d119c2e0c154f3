"""LoRA variants, one file each: how one frozen weight is changed."""

from typing import TYPE_CHECKING

from weft.registry import Registry

if TYPE_CHECKING:
    from weft.methods.adapters.contract import Adapter

adapters: "Registry[Adapter]" = Registry(
    "weft.methods.adapters", "weft.methods.adapters.contract:Adapter"
)
