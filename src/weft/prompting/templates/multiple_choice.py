"""Multiple choice: the context goes on with each choice, and the likeliest is taken (cloze).

As lm-evaluation-harness asks HellaSwag and SWAG: choices are not listed with letters, which small models read badly.
"""

from collections.abc import Sequence

import numpy as np

from weft.prompting.templates.contract import Choosing
from weft.tasks.contract import Example, Prediction
from weft.tasks.metrics import gold


class MultipleChoice(Choosing):
    """`context prefix`, and a choice behind it."""

    def question(self, example: Example) -> str:
        return " ".join(
            part for part in (example["context"].strip(), example["prefix"].strip()) if part
        )

    def answer(self, example: Example) -> str:
        return example["choices"][gold(example, "label")].strip()

    def about(self, example: Example) -> str:
        return self.question(example)

    def options(self, example: Example) -> Sequence[str]:
        return [choice.strip() for choice in example["choices"]]

    def decided(self, example: Example, scores: np.ndarray) -> Prediction:
        return self.task.decode(example, {}, scores)
