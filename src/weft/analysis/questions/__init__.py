"""What can be asked of experts, one question a file; found by its name."""

from typing import TYPE_CHECKING

from weft.registry import Registry

if TYPE_CHECKING:
    from weft.analysis.questions.contract import Question

questions: "Registry[Question]" = Registry(
    "weft.analysis.questions", "weft.analysis.questions.contract:Question"
)
