"""How kinds of tasks are asked and answered on the page, a file for each, by the kind's name."""

from typing import TYPE_CHECKING

from weft.registry import Registry

if TYPE_CHECKING:
    from weft.serving.page.views.contract import View

views: "Registry[View]" = Registry(
    "weft.serving.page.views", "weft.serving.page.views.contract:View"
)
