"""Transcription: the head of a causal language model behind a prefix; its answers are written, not read off."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from weft.model.heads.causal_lm import CausalLM


class Transcription(CausalLM):
    """The next token of the answer: the logits at position t speak for the label at t + 1."""

    pipeline = "automatic-speech-recognition"

    def labels(self, records: Sequence[Mapping[str, Any]], width: int) -> Tensor:
        for record in records:
            if [len(ids) for ids in record["input_ids"]] != [len(own) for own in record["labels"]]:
                raise ValueError(
                    f"row {record['id']!r} has no answer behind its prefix yet; `Task.sample` puts it there"
                )
        return super().labels(records, width)
