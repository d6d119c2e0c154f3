"""The experts that are merged, read from their run folders; what does not belong together is refused first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from weft.base.loading import Base, load_base
from weft.lowrank.attach import frozen_linear
from weft.lowrank.product import Pair
from weft.lowrank.start import wide
from weft.methods.adapters import adapters
from weft.methods.recipes import recipe_file
from weft.model.card import Card
from weft.model.expert import Expert, check_rank, factors_of
from weft.model.factoring import approximated
from weft.runs import RunFolder
from weft.scoped import tell
from weft.storage.card import read_card, refuse_files
from weft.storage.experts import load_expert


@dataclass(frozen=True)
class Part:
    """A task of a run, with the head that answers it."""

    folder: RunFolder
    card: Card

    @property
    def label(self) -> str:
        """What the task is called."""
        return self.folder.label


@dataclass(frozen=True)
class Found:
    """One expert of the runs, still on disk: a change of the base, and the tasks that answer with it."""

    path: Path
    """The run folder; of several tasks with an expert each, that of the task."""
    parts: tuple[Part, ...]
    """More than one where tasks share the expert."""

    @property
    def needs_dense(self) -> bool:
        """Whether the change has no exact factors."""
        adapter = recipe_file(self.parts[0].card.recipe["name"]).adapter
        return adapter is not None and not adapters.load(adapter).low_rank


@dataclass(frozen=True)
class Source:
    """One expert on the base."""

    found: Found
    experts: dict[str, Expert]
    """By task; they differ in their heads alone."""
    factors: dict[str, Pair]
    """What enters the merge, by module."""
    exact: dict[str, Pair] = field(default_factory=dict)
    """What it stands for, where that is something else."""
    lost: float = 0.0
    """Share of the change that does not enter; more than 0 only where there are no exact factors."""


def find(runs: Sequence[str | Path], dense: int | None) -> list[Found]:
    """The experts of run folders; nothing of torch is read.

    Args:
        runs: Run folders, of one task or of several.
        dense: Rank at which experts without exact factors enter; None refuses them.

    Raises:
        ValueError: If there is no run, one has no expert that can be merged, one is given twice, or they belong to
            different bases; says what to do.
    """
    if not runs:
        raise ValueError("no expert to merge; give the run folders of at least one")
    grouped: dict[Path, list[Part]] = {}
    for run in runs:
        for folder in RunFolder.open(run).parts():
            part = Part(folder, _card(folder))
            refuse_files(
                part.card, folder.path, "encoders of several experts have no sum, so merge others"
            )
            # Of tasks that share one expert the change is the same, and counts once.
            shared = folder.run.experts == "shared"
            own = grouped.setdefault(_place(folder.path.parent if shared else folder.path), [])
            if any(_place(other.folder.path) == _place(folder.path) for other in own):
                raise ValueError(
                    f"{folder.path} is given twice; give each run once, and a larger weight where one counts more"
                )
            own.append(part)
    found = [Found(path, tuple(parts)) for path, parts in grouped.items()]
    for own in found:
        if own.needs_dense and dense is None:
            raise ValueError(
                f"{own.path}: recipe {own.parts[0].card.recipe['name']} changes weights by more than low-rank factors, "
                "so no merge of factors is exact; merge its change as the nearest of some rank, which says what is "
                "lost (--dense RANK), or export it with that rank and import it"
            )
    _same_base([part for own in found for part in own.parts])
    return found


def read(
    found: Sequence[Found], dtype: torch.dtype, dense: int | None
) -> tuple[Base, list[Source]]:
    """The experts on their base.

    Args:
        found: What `find` found.
        dtype: Of the base.
        dense: As of `find`.
    """
    first = found[0].parts[0].folder.run
    tell("loading the base")
    base = load_base(first.base, revision=first.revision, dtype=dtype)
    return base, [_read(own, base, dense) for own in found]


def _read(found: Found, base: Base, dense: int | None) -> Source:
    tell(f"reading {found.path.name}")
    experts = {}
    for part in found.parts:
        expert, _ = load_expert(part.folder.expert, base, name=part.label)
        experts[part.label] = expert
    first = next(iter(experts.values()))
    if not found.needs_dense:
        return Source(found, experts, _own(factors_of(first, base.trunk)))
    assert dense is not None  # refused by find
    for module in first.adapters:
        check_rank(module, dense, tuple(frozen_linear(base.trunk, module).weight.shape))
    near, lost = approximated(first, base.trunk, dense)
    exact = {}
    with torch.no_grad():
        for module, adapter in first.adapters.items():
            delta = adapter.delta(wide(frozen_linear(base.trunk, module).weight))
            exact[module] = (torch.eye(delta.shape[1], dtype=delta.dtype), delta)
    return Source(found, experts, _own(factors_of(near, base.trunk)), exact, lost)


def _own(factors: Mapping[str, Pair]) -> dict[str, Pair]:
    """Copies: the adapters that they are of may move to another device."""
    return {name: (A.detach().clone(), B.detach().clone()) for name, (A, B) in factors.items()}


def _place(path: Path) -> Path:
    return path.expanduser().resolve()


def _card(folder: RunFolder) -> Card:
    run = folder.run
    if run.mixture is not None or run.task is None:
        raise ValueError(
            f"{folder.path} is a mixture, whose change is another for every input; merge its experts' runs"
        )
    if not folder.expert.is_dir():
        raise ValueError(f"{folder.path} holds no expert yet; train it to its end first")
    card = read_card(folder.expert)
    trains = recipe_file(card.recipe["name"]).trains
    if trains == "base":
        raise ValueError(
            f"{folder.path} trained every weight, so it is a whole model and no expert; add it up as one "
            f"(--arithmetic \"base + 0.5*('{folder.path}' - base)\")"
        )
    if trains != "adapters":
        raise ValueError(
            f"{folder.path}: recipe {card.recipe['name']} trained no adapters, so there is nothing to merge; train an "
            "expert, e.g. with recipe lora"
        )
    if card.train_also:
        raise ValueError(
            f"{folder.path} owns copies of {', '.join(card.train_also[:3])}, which no merge of factors holds; train it "
            "without train_also"
        )
    return card


def _same_base(parts: Sequence[Part]) -> None:
    first = parts[0]
    for part in parts[1:]:
        if part.card.digest != first.card.digest:
            raise ValueError(
                f"experts of different bases cannot be merged: {first.folder.path} was trained on {first.card.base} "
                f"(digest {first.card.digest[:12]}), {part.folder.path} on {part.card.base} (digest "
                f"{part.card.digest[:12]}), so their weights, and perhaps their vocabularies, differ; merge those of "
                "one base"
            )
