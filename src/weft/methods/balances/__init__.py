"""What each task's loss counts in the sum that a mixture's gates follow, one file each."""

from typing import TYPE_CHECKING

from weft.registry import Registry

if TYPE_CHECKING:
    from weft.methods.balances.contract import Balance

balances: "Registry[Balance]" = Registry(
    "weft.methods.balances", "weft.methods.balances.contract:Balance"
)
