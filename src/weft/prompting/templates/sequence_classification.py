"""Sequence classification: the text, and the likeliest name of a class behind it."""

from collections.abc import Sequence

import numpy as np

from weft.prompting.templates.contract import Choosing
from weft.tasks.contract import Example, Prediction, Task
from weft.tasks.kinds.sequence_classification import SequenceClassification as Kind
from weft.tasks.metrics import gold


class SequenceClassification(Choosing):
    """`Text: ...`, `Label:` and the name of a class."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        assert isinstance(task, Kind)
        if task.mode != "single":
            raise ValueError(
                f"task {task.spec.name}: a prompt asks for one class of a row, and the task's mode is {task.mode}; "
                "train an expert (weft train), or make a set with one class a row"
            )

    @property
    def instruction(self) -> str:
        return f"Label each text with one of these: {', '.join(self.task.labels)}."

    def question(self, example: Example) -> str:
        texts = [f"Text: {example['text'].strip()}"]
        if "text_pair" in example:
            texts.append(f"Second text: {example['text_pair'].strip()}")
        return "\n".join([*texts, "Label:"])

    def answer(self, example: Example) -> str:
        return gold(example, "label")

    def about(self, example: Example) -> str:
        return " ".join([example["text"], example.get("text_pair", "")]).strip()

    def options(self, example: Example) -> Sequence[str]:
        return self.task.labels

    def decided(self, example: Example, scores: np.ndarray) -> Prediction:
        return self.task.decode(example, {}, scores)
