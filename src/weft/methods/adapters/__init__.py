"""LoRA variants, one file each: how one frozen weight is changed."""

from weft.methods.adapters.contract import Adapter
from weft.registry import Registry

adapters = Registry("weft.methods.adapters", Adapter)
