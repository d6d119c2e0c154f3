"""Kinds of task, one file each: rows, encoding, decoding, scores."""

from typing import TYPE_CHECKING

from weft.registry import Registry

if TYPE_CHECKING:
    from weft.tasks.contract import Task

kinds: "Registry[Task]" = Registry("weft.tasks.kinds", "weft.tasks.contract:Task")
