"""Two more ways to know a reader than an expert each: experts mixed by the reader's history, and a decoder told of it.

The history of a reader is the words that he or she has labelled. For gates it becomes numbers: the mean vector, by the
sentence encoder, of the words that were unknown less that of the words that were known, and how many were unknown.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import weft
from weft.answering.texts.vectors import vectors_of
from weft.base.loading import load_base
from weft.config import TaskSettings

Row = dict[str, Any]

SIZE = 385
"""Numbers of a history: the encoder's width, and a share."""
META: dict[str, Any] = {
    "name": "reclora", "num_experts": 8, "rank": 2, "alpha": 4, "state_size": SIZE,
}  # fmt: skip
SHOTS = (0, 8)
ASKED = 40
"""Words that each reader's decoder is asked about."""
PROMPTED: dict[str, Any] = {
    "kind": "sequence_classification",
    "labels": ["known", "unknown"],
    "columns": {"text": "word", "text_pair": "sentence", "label": "unknown"},
    "max_length": 64,
    "truncate": True,
}
NAMES = {"0": "known", "1": "unknown"}


class Histories:
    """Words as vectors, and what a reader's labels say of the reader."""

    def __init__(self, words: Sequence[Row]) -> None:
        own = sorted({row["word"] for row in words})
        found = vectors_of(load_base("minilm"), own)
        self._vectors = dict(zip(own, found, strict=True))

    def state(self, labelled: Sequence[Row], reader: str) -> list[float]:
        """The numbers of a reader who has labelled these words; a mean over no words is 0."""
        unknown = np.array([row[reader] == "1" for row in labelled])
        vectors = np.stack([self._vectors[row["word"]] for row in labelled])
        means = [
            vectors[which].mean(0) if which.any() else np.zeros(vectors.shape[1])
            for which in (unknown, ~unknown)
        ]
        return [*np.round(means[0] - means[1], 5).tolist(), round(float(unknown.mean()), 5)]


def with_states(rows: Sequence[Row], states: Sequence[Mapping[str, list[float]]]) -> list[Row]:
    """Rows with the state of their reader: of the mappings, each row takes the next, so that all are seen alike."""
    return [
        {**row, "state": states[at % len(states)][row["reader"]]} for at, row in enumerate(rows)
    ]


def config(base: Row, spec: Row, training: Row) -> Row:
    """A run of mixed experts in place of the population's own."""
    columns = {name: own for name, own in spec["columns"].items() if name != "user"}
    task = {**base["task"], "spec": {**spec, "columns": {**columns, "state": "state"}}}
    kept = {name: own for name, own in base.items() if name in {"base", "seed", "device"}}
    return {**kept, "task": task, "mixture": META, "training": training}


def prompted(
    reader: str, labelled: Sequence[Row], asked: Sequence[Row], shots: int, seed: int
) -> list[str]:
    """What a decoder says of each word, 0 or 1, when it is shown the reader's labels of the words most alike."""

    def rows(own: Sequence[Row], name: str) -> list[Row]:
        return [
            {
                "id": f"{name}-{at}",
                "word": row["word"],
                "sentence": row["sentence"],
                "unknown": NAMES[row[reader]],
            }
            for at, row in enumerate(own)
        ]

    found = weft.prompt(
        TaskSettings.model_validate({"name": "words", "spec": PROMPTED}),
        data={"train": rows(labelled, "train"), "validation": rows(asked, "validation")},
        base="smollm2",
        shots=shots,
        nearest=shots > 0,
        device="cpu",
        seed=seed,
    )
    back = {name: label for label, name in NAMES.items()}
    return [back[row["label"]] for row in found.predictions]
