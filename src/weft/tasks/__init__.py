"""Kinds of task, one Python file each, and named sets, one YAML file each."""

from weft.registry import Registry
from weft.tasks.base import Task

kinds = Registry("weft.tasks", Task)
sets = Registry("weft.tasks", suffix=".yaml")
