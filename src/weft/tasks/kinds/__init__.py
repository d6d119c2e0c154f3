"""Kinds of task, one file each: rows, encoding, decoding, scores."""

from weft.registry import Registry
from weft.tasks.contract import Task

kinds = Registry("weft.tasks.kinds", Task)
