"""What changes during training (ranks, masks, freezing), one file each."""

from weft.methods.controllers.contract import Controller
from weft.registry import Registry

controllers = Registry("weft.methods.controllers", Controller)
