"""A task's rows as prompts with their completions: what an expert learns that is asked in the same words."""

from collections.abc import Sequence
from typing import Any

from weft.prompting.asking import Asked
from weft.prompting.templates.contract import Template
from weft.tasks.contract import Example


def completions(rows: Sequence[Example], template: Template) -> list[dict[str, Any]]:
    """Rows of kind `causal_lm`, `{id, prompt, completion}`: each question without examples, and its right answer.

    An expert trained on them is asked by `prompt(task, base=RUN)`, without examples as well.

    Args:
        rows: With their answers.
        template: Their words.

    Raises:
        ValueError: If a row has no answer.
    """
    return [
        {
            "id": row["id"],
            "prompt": Asked(row, template.question(row), template.instruction).plain(),
            "completion": f" {template.answer(row)}",
        }
        for row in rows
    ]
