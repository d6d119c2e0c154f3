"""What heads say of rows when one expert or another speaks in the trunk."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from weft.analysis.study import SENTENCES, Study
from weft.analysis.subjects import Subject
from weft.analysis.texts import task_rows
from weft.answering.evaluation import predictions
from weft.answering.inference import padding_id
from weft.lowrank.route import Members
from weft.model.model import Model
from weft.tasks.contract import Example, Prediction, Record, Task

MOST_PAIRS = 28
"""Pairs of experts whose rows are answered: those of 8 experts; of more, a seeded sample."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Held-out rows of a task, and the head that answers them."""

    task: Task
    examples: Sequence[Example]
    records: Sequence[Record]
    head: str
    """The expert that has it."""

    def said(self, study: Study, members: Members, model: Model | None = None) -> list[Prediction]:
        """What the head answers where these experts' changes add up in the trunk; () is the bare base.

        Args:
            study: Has the base.
            members: The experts.
            model: Where they and the head are; None is the study's.
        """
        return predictions(
            model or study.model,
            self.task,
            self.examples,
            self.records,
            head=self.head,
            kind=self.task.spec.kind,
            members=members,
            pad_id=padding_id(study.base),
            device=next(study.model.trunk.parameters()).device,
            precision="fp64" if study.base.trunk.dtype.itemsize == 8 else "fp32",
        )


def rows_of(study: Study, subject: Subject) -> Rows:
    """Rows of a subject's own task, as many as states are read of.

    Raises:
        NotAtHandError: If they are not there; says why.
    """
    loaded, records = task_rows(subject.found, study.base, study.data, "validation", SENTENCES)
    examples = loaded.splits["validation"]
    return Rows(loaded.task, examples, records, subject.member)


def movable(study: Study) -> list[Subject]:
    """The experts that can speak beside others on one base, and have a head: neither mixtures nor whole models."""
    return [
        own
        for own, _ in study.experts
        if own.model is study.model and own.found.card.head and not own.found.card.train_also
    ]


def pairs_of_tasks(study: Study) -> list[tuple[Subject, Subject]]:
    """Every two experts of different tasks; of several seeds those of like seed."""
    own = movable(study)
    seeds = {one.name: one.found.folder.run.seed for one in own}

    def meet(one: Subject, other: Subject) -> bool:
        """Whether no seed of the other's method is nearer."""
        if seeds[one.name] == seeds[other.name]:
            return True
        return not any(
            seeds[one.name] == seeds[third.name] and study.seeds.together(third.name, other.name)
            for third in own
        )

    return [
        (one, other)
        for at, one in enumerate(own)
        for other in own[at + 1 :]
        if one.found.task != other.found.task and meet(one, other)
    ]


def sample_of(
    study: Study, pairs: Sequence[tuple[Subject, Subject]]
) -> Iterator[tuple[Subject, Subject]]:
    """So many of the pairs as are answered, in order."""
    order = torch.randperm(len(pairs), generator=study.generator("pairs"))
    chosen = order[:MOST_PAIRS].sort().values
    for at in chosen.tolist():
        yield pairs[at]
