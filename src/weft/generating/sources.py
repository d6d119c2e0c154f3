"""The experts that a generator learns from, read from their run folders; what does not belong together is refused."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from weft.answering.evaluation import rows_of
from weft.base.loading import Base
from weft.generating.layout import Layout, state_of
from weft.generating.settings import GeneratorSettings
from weft.generating.vectors import TaskVector, how_of, task_vector
from weft.methods.adapters import adapters
from weft.methods.recipes import recipe_file
from weft.model.card import Card
from weft.model.expert import factors_of
from weft.runs import RunFolder
from weft.scoped import tell
from weft.storage.card import read_card, task_of
from weft.storage.experts import load_expert


@dataclass(frozen=True)
class Source:
    """One trained task, still on disk."""

    folder: RunFolder
    card: Card

    @property
    def label(self) -> str:
        """What the task is called."""
        return self.folder.label

    @property
    def experts(self) -> list[Path]:
        """Its late states, or the trained expert alone."""
        kept = sorted(p for p in self.folder.trajectory.glob("step-*") if p.is_dir())
        return kept or [self.folder.expert]


@dataclass(frozen=True)
class Read:
    """What a generator learns from one task."""

    states: Tensor
    """(states, length), single precision, in the order of training."""
    layout: Layout
    vector: TaskVector


def find(runs: Sequence[str | Path]) -> list[Source]:
    """The experts of run folders; no tensor is read.

    Args:
        runs: Run folders, of one task or of several with an expert each.

    Raises:
        ValueError: If there are fewer than two, one has no expert that a vector can hold, one is given twice, or they
            differ in base, kind of task or number of classes; names the run and says what to do.
    """
    found = [Source(part, _card(part)) for run in runs for part in RunFolder.open(run).parts()]
    if len(found) < 2:
        raise ValueError(
            f"a generator learns what tells tasks apart, from two at least, and got {len(found)}; give more run folders"
        )
    places = [source.folder.path.expanduser().resolve() for source in found]
    for place in places:
        if places.count(place) > 1:
            raise ValueError(f"{place} is given twice; give each run once")
    first = found[0]
    for other in found[1:]:
        for what, own, its in (
            ("base", first.card.digest, other.card.digest),
            ("kind of task", first.card.head, other.card.head),
            ("number of classes", len(first.card.labels), len(other.card.labels)),
        ):
            if own != its:
                raise ValueError(
                    f"{other.folder.path} has another {what} ({_short(its)}) than {first.folder.path} ({_short(own)}); "
                    "a generator is of experts that have the same tensors: give those"
                )
    return found


def read(source: Source, base: Base, settings: GeneratorSettings, device: torch.device) -> Read:
    """The states of a task's expert and its vector.

    Raises:
        ValueError: If its rows are not at hand.
    """
    tell(f"reading {source.folder.path.name}")
    layout, states = None, []
    for path in source.experts:
        own, vector = flat_expert(path, base, settings.form)
        if layout is not None and (odd := layout.difference(own)) is not None:
            raise ValueError(
                f"{path}: {odd}; the states of a run differ in shape, as a method that changes ranks makes them"
            )
        layout = own
        states.append(vector)
    assert layout is not None
    run, card = source.folder.run, source.card
    if run.task is not None and run.task.in_memory and not run.task.data:
        raise ValueError(
            f"{source.folder.path} was trained on rows in memory, which its vector would be made of; train it on files"
        )
    rows, records = rows_of(run, card, base, "train", max_examples=settings.examples)
    how = how_of(rows.task, settings.vector)
    return Read(torch.stack(states), layout, task_vector(base, task_of(card), records, how, device))


def flat_expert(path: Path, base: Base, form: str) -> tuple[Layout, Tensor]:
    """The layout of the expert in a folder and its vector, computed in double and given in single precision."""
    expert, _ = load_expert(path, base)
    factors = {
        module: (A.detach().double(), B.detach().double())
        for module, (A, B) in factors_of(expert, base.trunk).items()
    }
    head = {} if expert.head is None else {n: v.double() for n, v in expert.head.state().items()}
    state = state_of(factors, head, form)
    layout = Layout.of(state)
    return layout, layout.flatten(state).float()


def _card(folder: RunFolder) -> Card:
    run = folder.run
    if run.mixture is not None or run.task is None:
        raise ValueError(f"{folder.path} is a mixture; give runs that trained an expert")
    if not folder.expert.is_dir():
        raise ValueError(f"{folder.path} holds no expert yet; train it to its end first")
    card = read_card(folder.expert)
    recipe = recipe_file(card.recipe["name"])
    if recipe.trains != "adapters" or recipe.adapter is None:
        raise ValueError(
            f"{folder.path}: recipe {card.recipe['name']} trained no adapters; a generator writes low-rank factors: "
            "give runs of recipe lora or of another that has them"
        )
    if not adapters.load(recipe.adapter).low_rank:
        raise ValueError(
            f"{folder.path}: recipe {card.recipe['name']} changes weights by more than low-rank factors, which is what "
            "a generator writes; export it with a rank and import it, or train with another recipe"
        )
    if card.train_also:
        raise ValueError(
            f"{folder.path} owns copies of {', '.join(card.train_also[:3])}, which are no factors; train it without "
            "train_also"
        )
    return card


def _short(value: object) -> str:
    return str(value)[:19]
