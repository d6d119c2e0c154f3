"""Kinds of input that are no text, one file each, found by their names: a file on disk to a sequence of vectors."""

from typing import TYPE_CHECKING

from weft.registry import Registry

if TYPE_CHECKING:
    from weft.tasks.inputs.contract import Input

inputs: "Registry[Input]" = Registry("weft.tasks.inputs", "weft.tasks.inputs.contract:Input")
