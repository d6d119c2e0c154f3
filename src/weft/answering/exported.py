"""Answers of an expert that was exported to ONNX: its own tokenizer, its task, and ONNX Runtime.

    expert = Exported("entities-onnx")
    expert.predict(["John went to Paris"])

The answers are those of `weft.predict` on the run, in the same form. Neither torch nor transformers is imported, so
that the first of them comes in a fraction of the time.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from tokenizers import Tokenizer

from weft import guard
from weft.answering.inputs import Input, checked_input
from weft.model.graph import ABOUT, GRAPH, About, Graph
from weft.storage.card import read_card, task_of
from weft.tasks.contract import Example, Prediction, Record

TOKENIZER = "tokenizer.json"


class Tokens:
    """What tasks ask of a tokenizer of transformers, from `tokenizer.json` alone.

    Args:
        folder: Of the export.
        about: What the export says of the tokens.

    Raises:
        ValueError: If the file is missing or damaged.
    """

    def __init__(self, folder: Path, about: About) -> None:
        text = guard.read_text(folder / TOKENIZER)
        self.backend_tokenizer = guard.guarded(
            folder / TOKENIZER, lambda: Tokenizer.from_str(text), ValueError
        )
        self.model_input_names = about.inputs
        self.mask_token_id = about.mask_id
        self.all_special_ids = about.special_ids

    @property
    def vocab_size(self) -> int:
        """Tokens without those added to the vocabulary, as transformers counts."""
        return self.backend_tokenizer.get_vocab_size(with_added_tokens=False)

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str | None]:
        return [self.backend_tokenizer.id_to_token(number) for number in ids]


class Exported:
    """An expert in the folder of an export to ONNX, ready to answer.

    Args:
        folder: What `weft export RUN DIR --to onnx` wrote.

    Raises:
        ValueError: If a file is missing or damaged, or onnxruntime is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        self.graph = Graph(folder)
        self.card = read_card(folder)
        self.task = task_of(self.card)
        self._tokens = Tokens(folder, self.graph.about)

    def predict(
        self, inputs: Sequence[Input], *, tokens_per_batch: int | None = None
    ) -> list[Prediction]:
        """What the expert says of each input, in order, as `weft.predict` does.

        Args:
            inputs: Texts, or mappings of the task's columns.
            tokens_per_batch: Padded tokens in one call; None is `TOKENS_PER_BATCH` of `model/graph.py`.

        Raises:
            ValueError: If an input is not what the task takes; says which fields are needed.
        """
        examples = [checked_input(self.task, value, at) for at, value in enumerate(inputs)]
        records = [self.encode(example) for example in examples]
        return self.decoded(examples, records, tokens_per_batch=tokens_per_batch)

    def encode(self, example: Example) -> Record:
        """A checked example as the task's record."""
        return self.task.encode(example, cast(Any, self._tokens))

    def decoded(
        self,
        examples: Sequence[Example],
        records: Sequence[Record],
        *,
        tokens_per_batch: int | None = None,
    ) -> list[Prediction]:
        """The answer to each record, in order."""
        return [
            self.task.decode(example, record, self._output(record, found))
            for example, record, found in zip(
                examples, records, self.graph.outputs(records, tokens_per_batch), strict=True
            )
        ]

    def _output(self, record: Record, found: list[Any]) -> Any:
        """What the graph said of a row, in the form that its task decodes."""
        along = self.graph.about.along
        if along == ["row"]:
            return found[0]
        if "token" not in along:
            return found
        labels = record.get("labels") or [None] * len(found)
        return [self.task.outcomes(said, own) for said, own in zip(found, labels, strict=True)]


def is_exported(folder: str | Path) -> bool:
    """Whether a folder is an export to ONNX, as far as the names of its files tell."""
    return all((Path(folder) / name).is_file() for name in (GRAPH, ABOUT))
