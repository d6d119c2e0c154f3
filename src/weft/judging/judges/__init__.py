"""What can be asked for a verdict, one kind a file; found by its name."""

from typing import TYPE_CHECKING

from weft.registry import Registry

if TYPE_CHECKING:
    from weft.judging.judges.contract import Judge

judges: "Registry[Judge]" = Registry("weft.judging.judges", "weft.judging.judges.contract:Judge")
