"""Ways to ask a judge, one a file; found by its name."""

from typing import TYPE_CHECKING

from weft.registry import Registry

if TYPE_CHECKING:
    from weft.judging.protocols.contract import Protocol

protocols: "Registry[Protocol]" = Registry(
    "weft.judging.protocols", "weft.judging.protocols.contract:Protocol"
)
