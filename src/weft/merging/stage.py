"""The experts and what is made of them, on one model and beside the rows of their tasks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from weft.answering.evaluation import predictions, rows_of
from weft.answering.inference import padding_id
from weft.base.loading import Base
from weft.config import Split
from weft.data.reading import LoadedTask, find_spec
from weft.lowrank.product import Pair
from weft.merging.heads import Answered
from weft.merging.sources import Found, Part, Source
from weft.model.batching import Item
from weft.model.expert import Expert
from weft.model.factoring import lora_of
from weft.model.model import Model
from weft.registry import said_by
from weft.storage.loading import available_device
from weft.tasks.contract import Example, Prediction, Record

MERGED = "merged"
"""How routes call what the experts were made into."""


@dataclass(frozen=True)
class Rows:
    """Rows of one task."""

    loaded: LoadedTask
    examples: list[Example]
    records: list[Record]


class Stage:
    """A model that holds every expert as it is, and one that they are made into.

    Args:
        base: The base.
        sources: The experts.
        answered: The tasks of the merged expert, each with the head that answers.
        device: auto, cpu, cuda or mps.
        data: Folder of the task's data, or with a sub-folder for each by name; None takes the runs' own.
    """

    def __init__(
        self,
        base: Base,
        sources: Sequence[Source],
        answered: Sequence[Answered],
        *,
        device: str = "auto",
        data: str | Path | None = None,
    ) -> None:
        self.base = base
        self.sources = list(sources)
        self.answered = list(answered)
        self.device = torch.device(available_device() if device == "auto" else device)
        self.model = Model(base).to(self.device)
        self._root = None if data is None else Path(data)
        self._names: dict[tuple[Path, str], str] = {}
        for at, source in enumerate(self.sources):
            for label, expert in source.experts.items():
                expert.name = self._names[source.found.path, label] = f"{at} {label}"
                self.model.add(expert.to(self.device))
        self.model.eval()

    @property
    def reads_own_data(self) -> bool:
        """Whether rows are those that the runs name."""
        return self._root is None

    def name_of(self, found: Found, label: str) -> str:
        """How routes call the expert of a task."""
        return self._names[found.path, label]

    def put(self, factors: Mapping[str, Pair]) -> None:
        """Make a change of the base what `MERGED` is."""
        self.put_expert(
            Expert(MERGED, {name: lora_of(*pair) for name, pair in factors.items()}, None)
        )

    def put_expert(self, expert: Expert, *, trainable: bool = False) -> None:
        """Make an expert what `MERGED` is."""
        gone = [MERGED] if MERGED in self.model.experts else []
        self.model.change(add=[expert.to(self.device)], remove=gone, trainable=trainable)

    def rows(self, part: Part, split: Split) -> Rows:
        """A split of a task.

        Raises:
            ValueError: If its rows are not at hand, or wrong; says why.
        """
        run = part.folder.run
        assert run.task is not None  # a part has one
        data = None
        if self._root is not None:
            data = str(self._root / part.label if len(self.answered) > 1 else self._root)
        elif run.task.data is None and run.data is None and find_spec(run.task).hub is not None:
            raise ValueError("its rows are on the hub; give the folder with its files as --data")
        try:
            loaded, records = rows_of(run, part.card, self.base, split, data=data)
        except (KeyError, OSError) as error:
            raise ValueError(said_by(error)) from error
        return Rows(loaded, loaded.splits[split], records)

    def item(self, one: Answered, members: tuple[str, ...], record: Record) -> Item:
        """A row of a task on its way into a batch."""
        head = self.name_of(one.own, one.part.label)
        return Item(head, one.part.card.head, members, record)

    def said(self, one: Answered, rows: Rows, members: tuple[str, ...]) -> list[Prediction]:
        """What a task's head answers when those experts' changes speak."""
        return predictions(
            self.model,
            rows.loaded.task,
            rows.examples,
            rows.records,
            head=self.name_of(one.own, one.part.label),
            kind=one.part.card.head,
            members=members,
            pad_id=padding_id(self.base),
            device=self.device,
            precision=one.part.folder.run.training.precision,
        )
