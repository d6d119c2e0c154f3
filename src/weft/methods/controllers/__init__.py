"""What changes during training (ranks, masks, freezing), one file each."""

from weft.controllers.base import Controller
from weft.registry import Registry

controllers = Registry("weft.controllers", Controller)
