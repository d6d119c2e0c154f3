"""What a form of an export keeps: it refuses what it cannot hold before any work, then writes a folder."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from weft.config import RecipeSettings
from weft.lowrank.intruders import SHRINK
from weft.methods.recipes import file_of
from weft.model.card import Card
from weft.model.factoring import added, plain_recipe, without_intruders
from weft.registry import unknown
from weft.runs import RunFolder
from weft.storage.card import read_card, refuse_files
from weft.storage.loading import LoadedRun, load_run_model
from weft.storage.personal.users import Users


@dataclass(frozen=True)
class Wanted:
    """What is to be exported, and how.

    Attributes:
        run: The run folder.
        rank: Of the plain LoRA to write in place of the expert's own change; None is the expert as it is.
        quantise: The type of the weights to write; None is that of the expert.
        mitigate_intruders: What stays of intruder dimensions, 0 to 1; None leaves them as they are.
        user: Whose expert, of a personal run; None is the population's.
    """

    run: RunFolder
    rank: int | None = None
    quantise: str | None = None
    mitigate_intruders: float | None = None
    user: str | None = None

    @property
    def is_mixture(self) -> bool:
        return self.run.run.mixture is not None

    @cached_property
    def card(self) -> Card:
        """The expert's."""
        return read_card(self.run.expert)

    @property
    def is_whole(self) -> bool:
        """Whether every weight was trained, so that the run's folder is a checkpoint already."""
        return file_of(RecipeSettings(**self.card.recipe)).trains == "base"

    def load(self, precision: str | None = None) -> LoadedRun:
        """The expert on its base, on the CPU, its intruders shrunk where that is wanted.

        Args:
            precision: As of `load_run_model`.
        """
        loaded = load_run_model(self.run.path, device="cpu", precision=precision, user=self.user)
        if self.user is not None:
            loaded = _whole(loaded)
        if self.mitigate_intruders is None:
            return loaded
        own = loaded.model.expert(loaded.name)
        changed, count = without_intruders(own, loaded.model.trunk, self.mitigate_intruders)
        loaded.model.replace(changed)
        # The scores on the card are those of the expert as it was trained.
        return replace(loaded, card=replace(loaded.card, metrics={"mitigated_intruders": count}))


def _whole(loaded: LoadedRun) -> LoadedRun:
    """A user's expert and the population's as one expert, whose ranks are those of both."""
    model = loaded.model
    own = model.expert(loaded.name)
    owners = [model.expert(name) for name in loaded.members]
    model.replace(added(loaded.name, owners, own.head, model.trunk))
    recipe = plain_recipe(
        {module: adapter.rank for module, adapter in model.expert(loaded.name).adapters.items()}
    )
    recipe = recipe.model_copy(update={"train_also": list(model.expert(loaded.name).copies)})
    # The scores on the card are the population's.
    card = replace(loaded.card, recipe=recipe.model_dump(mode="json"), metrics={})
    return replace(loaded, members=(loaded.name,), card=card)


class Form(ABC):
    """One form; a file of this folder defines one."""

    options: ClassVar[frozenset[str]] = frozenset()
    """What it takes of `rank` and `quantise`."""
    mixtures: ClassVar[bool] = False
    """Whether it can hold a mixture."""
    encoders: ClassVar[bool] = False
    """Whether it can hold what reads recordings and pictures."""

    def check(self, wanted: Wanted) -> None:
        """Refuse what this form cannot hold; nothing is loaded.

        Raises:
            ValueError: With the reason, and what to do.
        """
        if not (wanted.is_mixture or self.encoders):
            refuse_files(
                wanted.card,
                wanted.run.path,
                "its encoders have no place in a transformers checkpoint or a graph; export it to peft, whose folder "
                "has them beside PEFT's files",
            )
        if wanted.is_mixture and not self.mixtures:
            raise ValueError(
                f"{wanted.run.path} holds a mixture, which changes with its input: it has no merged form and no LoRA "
                "near it; export it to peft without a rank, or each of its experts from the run that trained it"
            )
        for option in ("rank", "quantise"):
            if getattr(wanted, option) is not None and option not in self.options:
                takes = "peft" if option == "rank" else "onnx"
                raise ValueError(f"{option}: only an export to {takes} has one; leave it away")
        if wanted.user is not None:
            users = Users(wanted.run.path)
            if wanted.user not in users:
                raise KeyError(unknown("user", wanted.user, users))
        if wanted.mitigate_intruders is not None:
            _check_mitigation(wanted, wanted.mitigate_intruders)

    @abstractmethod
    def write(self, wanted: Wanted, folder: Path) -> None:
        """Write what `check` let pass.

        Args:
            wanted: What to export.
            folder: Where to; does not exist.

        Raises:
            ValueError: If the run is damaged or does not fit its base.
        """


def _check_mitigation(wanted: Wanted, shrink: float) -> None:
    if not 0 <= shrink <= 1:
        raise ValueError(
            f"mitigate_intruders {shrink:g}: expected 0 to 1, the share of an intruder that stays (PEFT's default is "
            f"{SHRINK:g})"
        )
    if wanted.is_mixture:
        raise ValueError(
            f"{wanted.run.path} holds a mixture, whose weights are others for every input, so they have no singular "
            "vectors; mitigate its experts, each exported from the run that trained it"
        )
    trains = file_of(RecipeSettings(**wanted.card.recipe)).trains
    if trains != "adapters":
        what = "every weight" if trains == "base" else "a head alone"
        raise ValueError(
            f"{wanted.run.expert} trained {what}, so there is no adapter whose intruders could be shrunk; leave "
            "mitigate_intruders away"
        )


def check_headed(wanted: Wanted) -> None:
    """Refuse an expert that answers nothing.

    Raises:
        ValueError: If it has no head.
    """
    if not wanted.card.head:
        raise ValueError(
            f"{wanted.run.expert} has no head, so it belongs to no task class; export to peft"
        )
