"""Prompt templates, one file for each kind of task: a row in words, and words as that kind's prediction."""

from typing import TYPE_CHECKING

from weft.registry import Registry, unknown
from weft.tasks.contract import TaskSpec

if TYPE_CHECKING:
    from weft.prompting.templates.contract import Template

templates: "Registry[Template]" = Registry(
    "weft.prompting.templates", "weft.prompting.templates.contract:Template"
)


def template_for(spec: TaskSpec) -> "type[Template]":
    """The template of a set's kind.

    Raises:
        ValueError: If rows of that kind cannot be asked about in words; names the kinds that can.
    """
    if spec.kind not in templates.names():
        raise ValueError(
            f"task {spec.name}: a prompt cannot ask about rows of every kind; "
            f"{unknown('template', spec.kind, templates.names())}"
        )
    return templates.load(spec.kind)
