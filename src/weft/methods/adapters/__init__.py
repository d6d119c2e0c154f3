"""LoRA variants, one file each: how one frozen weight is changed."""

from weft.adapters.base import Adapter
from weft.registry import Registry

adapters = Registry("weft.adapters", Adapter)
