"""Encoders of inputs that are no text, one file each: an encoder has the name of its kind of input."""

from typing import TYPE_CHECKING

from weft.registry import Registry

if TYPE_CHECKING:
    from weft.model.encoders.contract import Encoder

encoders: "Registry[Encoder]" = Registry(
    "weft.model.encoders", "weft.model.encoders.contract:Encoder"
)
