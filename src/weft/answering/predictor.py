"""What somebody at a Python prompt holds: a run's experts on their base, ready to be asked, looked into and joined.

    model = weft.load("runs/topic")
    model.predict(["the good dog"])
    both = model.attach("runs/tags")
    both.predict(["John went to Paris"])

Answers come by the same way as those of `weft predict` and `weft evaluate`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from weft.answering import raw
from weft.answering.automatic import predict_auto
from weft.answering.generation import Generation
from weft.answering.inference import Progress
from weft.answering.inputs import Inputs, inputs_of
from weft.answering.prediction import predict as predict_one
from weft.answering.raw import Axes, Pool
from weft.answering.streaming import CHUNK, answers, generation_of
from weft.answering.summary import as_html, as_text, row_of
from weft.base.loading import Base
from weft.config import Run
from weft.lowrank.route import Members
from weft.model.card import Card
from weft.model.model import Model
from weft.model.recogniser import Recogniser
from weft.registry import unknown
from weft.runs import RunFolder
from weft.storage.loading import LoadedMixture, LoadedRun, load_beside, of_user
from weft.storage.personal.experts import called
from weft.storage.personal.users import Users
from weft.tasks.contract import Prediction, Task, TaskSpec

AUTO = "auto"
"""In place of a task's name: whatever a mixture takes each input for."""


@dataclass
class Held:
    """What the views of one predictor share.

    Attributes:
        runs: The experts that answer, by name, in the order in which they came.
        folders: Where each was trained.
        mixture: What recognises tasks, where a mixture was loaded.
        users: Who has an expert in a personal run, by its population's name.
    """

    runs: dict[str, LoadedRun]
    folders: dict[str, RunFolder] = field(default_factory=dict)
    mixture: LoadedMixture | None = None
    users: dict[str, Users] = field(default_factory=dict)


class Predictor:
    """One or several experts that answer; made by `weft.load`.

    Where it holds several, a call names the one that it asks, `task=`, or `expert(name)` gives a view that asks that
    one; all views share the model, and what one attaches the others have.
    """

    def __init__(self, held: Held, chosen: str | None = None) -> None:
        self._held = held
        self._chosen = chosen

    @property
    def experts(self) -> tuple[str, ...]:
        """Names of the experts that can be asked."""
        return tuple(self._held.runs)

    @property
    def model(self) -> Model:
        """The model: base, experts and heads. Fully trained runs have one each, so that one must be chosen."""
        models = {id(run.model): run.model for run in self._held.runs.values()}
        return next(iter(models.values())) if len(models) == 1 else self.loaded().model

    @property
    def base(self) -> Base:
        """The frozen base."""
        return self.model.base

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The base's tokenizer."""
        return self.base.tokenizer

    @property
    def task(self) -> Task:
        """What the chosen expert was trained to do."""
        return self.loaded().task

    @property
    def card(self) -> Card:
        """What is written of the chosen expert."""
        return self.loaded().card

    @property
    def run(self) -> Run:
        """The settings that the chosen expert was trained with."""
        return self.loaded().run

    @property
    def name(self) -> str:
        """How routes call the chosen expert."""
        return self.loaded().name

    @property
    def members(self) -> Members:
        """What speaks for the chosen expert's rows."""
        return self.loaded().members

    @property
    def recogniser(self) -> Recogniser | None:
        """Which of a mixture's tasks a row belongs to."""
        return self.loaded().recogniser

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(iter(self._held.runs.values())).device

    @property
    def precision(self) -> str:
        """The arithmetic of its forward passes."""
        return next(iter(self._held.runs.values())).precision

    def expert(self, name: str) -> "Predictor":
        """A view that answers with one expert; it shares everything with this one.

        Raises:
            KeyError: If there is none of that name; names the nearest.
        """
        if name not in self._held.runs:
            raise KeyError(unknown("expert", name, self.experts))
        return Predictor(self._held, name)

    def user(self, name: str) -> "Predictor":
        """A view that answers with one user's expert, read when it is first asked for; it shares the model.

        Whoever has none gets the population's: then the view is of that one, and `loaded().user` is None.

        Args:
            name: The user.

        Raises:
            ValueError: If the chosen run has no experts of users.
        """
        population = self.loaded()
        if population.user is not None:
            # A view of one user leads to the others.
            population = self._held.runs[population.name.removesuffix(f"@{population.user}")]
        folder = self._held.folders.get(population.name)
        if folder is None:
            raise ValueError(
                f"{population.name} was given without its run folder; load it by weft.load(folder)"
            )
        users = self._held.users.get(population.name)
        if users is None:
            users = self._held.users[population.name] = Users(folder.path)
        if name not in users:
            return self.expert(population.name)
        own = called(population.name, name)
        if own not in self._held.runs:
            self._held.runs[own] = of_user(population, users, name)
            self._held.folders[own] = folder
        return self.expert(own)

    def loaded(self, task: str | None = None) -> LoadedRun:
        """The parts that answer for one expert.

        Args:
            task: Its name; None is the chosen one, or the only one.

        Raises:
            KeyError: If there is none of that name.
            ValueError: If there are several and none is named; users' experts do not count beside their population's.
        """
        name = task or self._chosen
        if name is not None:
            return self.expert(name)._held.runs[name]
        everybodys = [run for run in self._held.runs.values() if run.user is None]
        if len(everybodys) == 1:
            return everybodys[0]
        if len(self.experts) > 1:
            auto = f", or {AUTO!r}" if self._held.mixture else ""
            raise ValueError(
                f"there are several experts here: {', '.join(self.experts)}{auto}; name one, task={self.experts[0]!r}, "
                "or take a view, .expert(name)"
            )
        return next(iter(self._held.runs.values()))

    def predict(
        self,
        inputs: Inputs,
        *,
        task: str | None = None,
        generation: Generation | Mapping[str, Any] | None = None,
        tokens_per_batch: int | None = None,
        progress: Progress | None = None,
    ) -> list[Prediction]:
        """What an expert says of each input, in order; see `weft.predict`.

        Raises:
            KeyError: If there is no expert of that name.
            ValueError: If several are there and none is named, or an input is not what the task takes.
        """
        asked = self._asked(task)
        rows = list(inputs_of(inputs, _spec(asked)))
        how = _generation(generation)
        extra = {"tokens_per_batch": tokens_per_batch, "progress": progress}
        if isinstance(asked, LoadedMixture):
            return predict_auto(asked, rows, generation=how, **extra) if rows else []
        return predict_one(asked, rows, generation=how, **extra)

    def predict_iter(
        self,
        inputs: Inputs,
        *,
        task: str | None = None,
        generation: Generation | Mapping[str, Any] | None = None,
        chunk: int = CHUNK,
    ) -> Iterator[Prediction]:
        """The same answers one after another, as batches are done; inputs may be endless.

        Args:
            inputs: As of `predict`; read a chunk at a time, so memory does not grow with their number.
            task: As of `predict`.
            generation: As of `predict`.
            chunk: Inputs that are read and answered together.

        Raises:
            KeyError: If there is no expert of that name.
            ValueError: As of `predict`; for an input, when its chunk is read.
        """
        if chunk < 1:
            raise ValueError(f"chunk must be at least 1, got {chunk}")
        asked = self._asked(task)
        rows = inputs_of(inputs, _spec(asked))
        return answers(asked, rows, generation=_generation(generation), chunk=chunk)

    def logits(
        self, inputs: Inputs, *, task: str | None = None, tokens_per_batch: int | None = None
    ) -> Axes:
        """What the head says before any decoding; `Axes` names every axis, and the classes."""
        run = self.loaded(task)
        return raw.logits(
            run, list(inputs_of(inputs, run.task.spec)), tokens_per_batch=tokens_per_batch
        )

    def hidden(
        self,
        inputs: Inputs,
        *,
        layer: int = -1,
        pool: Pool | None = None,
        task: str | None = None,
        tokens_per_batch: int | None = None,
    ) -> Axes:
        """The trunk's states while the expert speaks: (sequence, token, hidden) with their mask.

        Args:
            inputs: As of `predict`.
            layer: 0 is the embeddings, n what layer n makes, -1 what the head is given.
            pool: mean, first or last: one state for a sequence; None is all of them.
            task: As of `predict`.
            tokens_per_batch: Padded tokens in one forward call; None takes what is fastest on the device.

        Raises:
            ValueError: If there is no such layer or pooling.
        """
        run = self.loaded(task)
        rows = list(inputs_of(inputs, run.task.spec))
        return raw.hidden(run, rows, layer=layer, pool=pool, tokens_per_batch=tokens_per_batch)

    def attach(
        self, run: str | Path, *, task: str | None = None, name: str | None = None
    ) -> "Predictor":
        """Weave the expert of another run into this model, in memory; files stay as they are.

        Args:
            run: The run folder; all experts of one that trained several.
            task: Of several, this one.
            name: What to call it here; None is its task's name.

        Returns:
            A view that answers with it; of several, one that leaves open which.

        Raises:
            ValueError: If it was trained on another base, is a mixture or a fully trained model, or its name is
                taken; with the reason, and nothing is attached.
        """
        folder = RunFolder.open(run)
        several = bool(folder.run.tasks) and task is None and folder.run.mixture is None
        parts = folder.parts() if several else [folder]
        if name is not None and len(parts) > 1:
            raise ValueError(
                f"{run} has {len(parts)} experts, so one name is not enough; say task= as well"
            )
        beside, new = next(iter(self._held.runs.values())), {}
        try:
            for part in parts:
                own = load_beside(part.path, beside, task=task, name=name)
                new[own.name] = own
        except ValueError:
            for own in new:
                beside.model.remove(own)
            raise
        self._held.runs.update(new)
        for part, own in zip(parts, new, strict=True):
            self._held.folders[own] = part if task is None else RunFolder(part.path / task)
        return Predictor(self._held, next(iter(new)) if len(new) == 1 else None)

    def detach(self, name: str) -> None:
        """Take an expert out again; calls under way go on with it.

        Raises:
            KeyError: If there is none of that name.
            ValueError: If it is the last one, or a mixture answers by it.
        """
        run = self.loaded(name)
        if run.members != (run.name,) and run.user is None:
            raise ValueError(f"{name} is a head of the mixture here, which stays whole")
        if len(self.experts) == 1:
            raise ValueError(f"{name} is the only expert here; drop the predictor instead")
        run.model.remove(run.name)
        del self._held.runs[name]
        self._held.folders.pop(name, None)

    def _asked(self, task: str | None) -> LoadedRun | LoadedMixture:
        if task != AUTO or AUTO in self._held.runs:
            return self.loaded(task)
        if self._held.mixture is None:
            raise ValueError(
                f"task={AUTO!r}: only a mixture recognises tasks; name one of {', '.join(self.experts)}"
            )
        return self._held.mixture

    def summary(self) -> list[dict[str, str]]:
        """What is here, an expert a row: its name, kind, method, labels, score and parameters, as words."""
        held = self._held
        return [row_of(name, run, held.folders.get(name)) for name, run in held.runs.items()]

    def _title(self) -> str:
        bases = dict.fromkeys(run.model.base.name for run in self._held.runs.values())
        asked = f", answering with {self._chosen}" if self._chosen and len(self.experts) > 1 else ""
        return f"{', '.join(bases)} ({self.precision}, {self.device}){asked}"

    def __repr__(self) -> str:
        return as_text(f"Predictor on {self._title()}", self.summary())

    def _repr_html_(self) -> str:
        return as_html(f"Predictor on {self._title()}", self.summary())


def _generation(given: Generation | Mapping[str, Any] | None) -> Generation | None:
    return given if given is None or isinstance(given, Generation) else generation_of(given)


def _spec(asked: LoadedRun | LoadedMixture) -> TaskSpec | None:
    return asked.task.spec if isinstance(asked, LoadedRun) else None
