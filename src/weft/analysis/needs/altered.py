"""Experts with a part of their change taken away, asked on rows of their own task."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from weft.analysis.measures.changes import Change
from weft.analysis.study import Study
from weft.analysis.subjects import Subject
from weft.analysis.texts import NotAtHandError, task_rows
from weft.answering.evaluation import predictions
from weft.answering.inference import padding_id
from weft.lowrank.attach import frozen_linear
from weft.model.expert import Expert
from weft.model.factoring import lora_of
from weft.model.snapshot import Snapshot
from weft.tasks.contract import Example, Prediction, Record, Task
from weft.tasks.scoring import Score, paired_difference, score

ROWS, TOKENS = 200, 12_000
"""Rows of a task that altered experts answer, and tokens of them, at most: so many that twenty experts take minutes."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows that altered experts answer."""

    task: Task
    examples: Sequence[Example]
    records: Sequence[Record]

    def score(self, said: Sequence[Prediction]) -> Score:
        """The task's own score, with its interval over rows."""
        return score(self.task, said, self.examples)[self.task.metric]

    def difference(self, said: Sequence[Prediction], other: Sequence[Prediction]) -> Score:
        """How much higher the first scores, with its interval over rows that both answered."""
        found = paired_difference(self.task, said, other, self.examples)
        return found[self.task.metric]


def held_rows(study: Study, subject: Subject) -> Rows:
    """Validation rows of an expert's own task.

    Raises:
        NotAtHandError: If they are not; says why.
    """
    loaded, records = task_rows(subject.found, study.base, study.data, "validation", ROWS)
    return Rows(loaded.task, *within(loaded.splits["validation"], records, TOKENS))


def within(
    examples: Sequence[Example], records: Sequence[Record], most: int
) -> tuple[list[Example], list[Record]]:
    """The first rows that have so many tokens together, and at least one."""
    left, count = most, 0
    for record in records:
        left -= sum(map(len, record["input_ids"]))
        if left < 0 and count:
            break
        count += 1
    if not count:
        raise NotAtHandError("there are no rows to ask altered experts")
    return list(examples[:count]), list(records[:count])


def answers(
    study: Study, subject: Subject, rows: Rows, changes: Mapping[str, Change]
) -> list[Prediction]:
    """What an expert says of rows with other changes of its maps in place of its own; its head stays.

    Args:
        study: Has the expert.
        subject: It; of one that was trained whole, what is no map of a layer (norms, embeddings) stays as well.
        rows: What is asked.
        changes: By map; a map that is not there is as the base has it.
    """
    with _altered(study, subject, changes) as (held, member):
        head = held.head(member)
        return predictions(
            held,
            rows.task,
            rows.examples,
            rows.records,
            head=member,
            kind=head.kind_name,
            members=(member,),
            pad_id=padding_id(study.base),
            device=next(held.trunk.parameters()).device,
            precision=study.precision,
        )


@contextmanager
def _altered(
    study: Study, subject: Subject, changes: Mapping[str, Change]
) -> Iterator[tuple[Snapshot, str]]:
    """Where an altered expert answers, and what it is called there."""
    if subject.whole:
        with _rewritten(study, subject, changes):
            yield subject.model.snapshot, subject.member
        return
    like = next(study.model.trunk.parameters())
    own = subject.model.expert(subject.member)
    adapters = {
        module: lora_of(*(side.to(like) for side in change.pair))
        for module, change in changes.items()
        if change.rank
    }
    name = f"{subject.member} altered"
    subject.model.add(Expert(name, adapters, own.head, own.copies))
    try:
        yield subject.model.snapshot, name
    finally:
        subject.model.remove(name)


@contextmanager
@torch.no_grad()
def _rewritten(study: Study, subject: Subject, changes: Mapping[str, Change]) -> Iterator[None]:
    """Other changes in the weights of a model that was trained whole, which nobody shares; afterwards its own again."""
    assert subject.changes is not None
    weights = {name: frozen_linear(subject.model.trunk, name).weight for name in subject.changes}
    before = {name: weight.clone() for name, weight in weights.items()}
    try:
        for name, weight in weights.items():
            weight.copy_(study.weight(name))
            if name in changes and changes[name].rank:
                A, B = changes[name].pair
                weight.add_((B @ A).to(weight))
        yield
    finally:
        for name, weight in weights.items():
            weight.copy_(before[name])
