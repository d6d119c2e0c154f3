"""Ways of asking, one file each."""

from typing import TYPE_CHECKING

from weft.registry import Registry

if TYPE_CHECKING:
    from weft.prompting.styles.contract import Style

styles: "Registry[Style]" = Registry(
    "weft.prompting.styles", "weft.prompting.styles.contract:Style"
)
