"""What is analysed: experts of run folders on their one base, each with its changes of the weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from weft.analysis.measures.changes import Change
from weft.base.loading import Base, load_base
from weft.config import RecipeSettings
from weft.lowrank.attach import frozen_linear
from weft.lowrank.roles import ALL_LINEAR, resolve
from weft.lowrank.start import wide
from weft.methods.recipes import file_of
from weft.model.card import Card
from weft.model.expert import Expert
from weft.model.model import Model
from weft.runs import RunFolder
from weft.scoped import tell
from weft.storage.card import read_card, refuse_files
from weft.storage.experts import load_expert, load_full
from weft.storage.loading import load_mixture_model


@dataclass(frozen=True)
class Found:
    """A run of one task that has ended, still on disk."""

    name: str
    folder: RunFolder
    card: Card

    @property
    def task(self) -> str:
        """What the task is called."""
        return self.folder.label

    @property
    def mixes(self) -> bool:
        return self.folder.run.mixture is not None

    @property
    def method(self) -> str:
        """What was trained."""
        run = self.folder.run
        if run.merge is not None:
            return f"{run.merge.name} merge"
        return run.mixture.name if run.mixture else run.recipe.name


@dataclass(frozen=True, eq=False)
class Subject:
    """An expert, or a mixture with one task's head, ready to be asked."""

    found: Found
    model: Model
    """Has it woven in, or is it."""
    member: str
    """Who speaks for it there."""
    changes: dict[str, Change] | None
    """By map; None of a mixture, whose change is another for every input."""

    @property
    def name(self) -> str:
        return self.found.name

    @property
    def whole(self) -> bool:
        """Whether all weights were trained, so that the model is its own."""
        return _trains(self.found.card) == "base"


def find(runs: Sequence[str | Path]) -> list[Found]:
    """The experts of run folders; no tensor is read.

    Raises:
        ValueError: If there is no run, one is given twice or has changed nothing of its base, or they stand on
            different bases; says what to do.
    """
    if not runs:
        raise ValueError("no run to analyse; give the run folders of at least one expert")
    places: dict[Path, None] = {}
    for run in runs:
        folder = RunFolder.open(run)
        parts = folder.parts()
        # Of tasks that share one expert the change is the same.
        shared = folder.run.experts == "shared" and folder.run.mixture is None
        for part in parts[:1] if shared else parts:
            place = part.path.expanduser().resolve()
            if place in places:
                raise ValueError(f"{part.path} is given twice; give each run once")
            places[place] = None
    names = _names(list(places))
    found = [
        Found(name, RunFolder(place), _card(RunFolder(place)))
        for name, place in zip(names, places, strict=True)
    ]
    for own in found:
        refuse_files(own.card, own.folder.path, "the measures read texts, so analyse others")
    first = found[0]
    for other in found[1:]:
        if other.card.digest != first.card.digest:
            raise ValueError(
                f"experts of different bases cannot be compared: {first.folder.path} was trained on {first.card.base} "
                f"(digest {first.card.digest[:12]}), {other.folder.path} on {other.card.base} (digest "
                f"{other.card.digest[:12]}); analyse those of one base at a time"
            )
    return found


def read(found: Sequence[Found], device: torch.device) -> tuple[Model, list[Subject]]:
    """The base as a model that experts are woven into, and the experts.

    Args:
        found: What `find` found.
        device: Where to compute.
    """
    first = found[0].folder.run
    double = {one.folder.run.training.precision for one in found} == {"fp64"}
    tell("loading the base")
    dtype = torch.float64 if double else torch.float32
    base = load_base(first.base, revision=first.revision, dtype=dtype, device=device)
    model = Model(base)
    return model.eval(), [_read(one, model, device) for one in found]


def _read(found: Found, model: Model, device: torch.device) -> Subject:
    tell(f"reading {found.name}")
    if found.mixes:
        loaded = load_mixture_model(found.folder.path, device=device.type)
        return Subject(found, next(iter(loaded.runs.values())).model, loaded.mix.name, None)
    if _trains(found.card) == "base":
        own, expert, _ = load_full(found.folder.expert)
        own.to(device=device, dtype=next(model.trunk.parameters()).dtype)
        return Subject(found, own.eval(), expert.name, _between(model.base, own.base.trunk))
    expert, _ = load_expert(found.folder.expert, model.base, name=found.name)
    model.add(expert.to(device))
    return Subject(found, model, expert.name, changes_of(expert, model.trunk))


@torch.no_grad()
def changes_of(expert: Expert, trunk: nn.Module) -> dict[str, Change]:
    """The change of every adapted map, from its exact factors; of a variant that has none, from the change itself."""
    found = {}
    for module, adapter in expert.adapters.items():
        weight = frozen_linear(trunk, module).weight
        if adapter.low_rank:
            found[module] = Change.of(*(side.cpu() for side in adapter.factors(weight)))
        else:
            found[module] = _dense(adapter.delta(wide(weight)).cpu())
    return found


@torch.no_grad()
def _between(base: Base, trunk: nn.Module) -> dict[str, Change]:
    """What full training changed of every linear map inside the layers."""
    found = {}
    for module in resolve(base.trunk, ALL_LINEAR):
        before, after = (wide(frozen_linear(one, module).weight) for one in (base.trunk, trunk))
        found[module] = _dense((after - before).cpu())
    return found


def _dense(delta: Tensor) -> Change:
    """A change that has no thin factors: all of its rows against the identity."""
    return Change.of(torch.eye(delta.shape[1], dtype=delta.dtype), delta)


def _trains(card: Card) -> str:
    return file_of(RecipeSettings(**card.recipe)).trains


def _card(folder: RunFolder) -> Card:
    run = folder.run
    if run.mixture is not None and run.task is not None:
        heads = folder.mixture / "heads" / run.task.label
        if not heads.is_dir():
            raise ValueError(f"{folder.path} holds no mixture yet; train it to its end first")
        return read_card(heads)
    if not folder.expert.is_dir():
        raise ValueError(f"{folder.path} holds no expert yet; train it to its end first")
    card = read_card(folder.expert)
    if _trains(card) == "head":
        raise ValueError(
            f"{folder.path}: recipe {card.recipe['name']} trained a head alone, which changed nothing of the base; "
            "leave it out"
        )
    return card


def _names(places: Sequence[Path]) -> list[str]:
    """The ends of paths, as long as they must be to differ."""
    for length in range(1, max(len(place.parts) for place in places) + 1):
        names = ["/".join(place.parts[-length:]) for place in places]
        if len(set(names)) == len(names):
            return names
    raise AssertionError("paths differ")  # equal ones are refused before


def owner(subject: Subject) -> Mapping[str, str]:
    """What is said of a subject in every row of a result."""
    found = subject.found
    return {
        "expert": found.name,
        "task": found.task,
        "method": found.method,
        "seed": str(found.folder.run.seed),
    }
