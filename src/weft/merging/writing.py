"""A merged run on disk: one task, or several with an expert for each, which differ in their heads alone.

one task      run.yaml expert/ merge.json metrics.json predictions-validation.jsonl training.json
several       run.yaml merge.json <task>/
<task>/run.yaml <task>/expert/ <task>/metrics.json ...
"""

import math
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from weft.answering.evaluation import save_evaluation
from weft.atomic import atomic_folder
from weft.base.loading import Base
from weft.config import MergeSettings, RecipeSettings, Run, TaskSettings, TrainingSettings
from weft.lowrank.roles import roles_of
from weft.merging.combine import Combined
from weft.merging.heads import Answered
from weft.merging.plan import Plan
from weft.merging.record import Made, Record, write_record
from weft.merging.scores import Scored
from weft.merging.sources import Source
from weft.model.expert import Expert
from weft.model.factoring import lora_of, plain_recipe
from weft.runs import RunFolder
from weft.scoped import tell
from weft.storage.experts import save_expert, versions


@dataclass(frozen=True)
class Done:
    """A merge that has been made and is to be written."""

    plan: Plan
    base: Base
    sources: Sequence[Source]
    result: Combined
    scored: Scored
    seconds: float

    def write(self, folder: RunFolder) -> None:
        """Write the run folder, whole or not at all."""
        answered = self.plan.answered
        with atomic_folder(folder.path) as draft:
            if len(answered) > 1:
                RunFolder(draft).write_config(self._run(answered))
            for one in answered:
                tell(f"writing {one.part.label}")
                part = RunFolder(draft / one.part.label if len(answered) > 1 else draft)
                part.path.mkdir(exist_ok=True)
                part.write_config(self._run([one]))
                self._write_expert(part, one)
                part.write_training(self._summary(one))
            write_record(self.record(), draft)

    def record(self) -> Record:
        """What `merge.json` says."""
        plan, result = self.plan, self.result
        made = [
            Made(
                run=str(source.found.path),
                tasks=tuple(source.experts),
                weight=weight,
                rank=max(len(A) for A, _ in source.factors.values()),
                lost=source.lost,
            )
            for source, weight in zip(self.sources, result.weights, strict=True)
        ]
        entered = [
            f"{source.found.path} has no exact factors: it enters as the nearest change of rank "
            f"{plan.settings.dense}, {source.lost:.1%} of its own away"
            for source in self.sources
            if source.exact
        ]
        errors = result.errors(roles_of(self.base.trunk))
        return Record(
            method=plan.settings.name,
            settings=self._settings.model_dump(mode="json"),
            experts=tuple(made),
            rank=max(len(A) for A, _ in result.factors.values()),
            error=_finite(result.error),
            errors={role: _finite(value) for role, value in errors.items()},
            scores=tuple(self.scored.compared),
            notes=(*plan.notes, *entered, *result.notes, *self.scored.notes),
            learned=result.told,
        )

    @property
    def _recipe(self) -> RecipeSettings:
        return plain_recipe({name: len(A) for name, (A, _) in self.result.factors.items()})

    @property
    def _settings(self) -> MergeSettings:
        """The settings with the weights in force; those that a method learns itself it learns again."""
        weights = None if self.plan.learns else list(self.result.weights)
        return self.plan.settings.model_copy(update={"weights": weights})

    def _write_expert(self, part: RunFolder, one: Answered) -> None:
        adapters = {name: lora_of(A.cpu(), B.cpu()) for name, (A, B) in self.result.factors.items()}
        evaluation = self.scored.evaluations.get(one.part.label)
        scores = {} if evaluation is None else evaluation.scores
        card = replace(
            one.part.card,
            recipe=self._recipe.model_dump(mode="json"),
            targets=tuple(adapters),
            train_also=(),
            versions=versions(),
            metrics={name: value.value for name, value in scores.items()},
        )
        own = next(source for source in self.sources if source.found is one.own)
        head = own.experts[one.part.label].head
        expert = Expert(one.part.label, adapters, None if head is None else head.cpu())
        save_expert(expert, card, self.base, part.expert)
        if evaluation is not None:
            save_evaluation(part, evaluation, one.part.folder.run.seed)

    def _run(self, answered: Sequence[Answered]) -> Run:
        """What `run.yaml` says; of one task as its own run read its rows."""
        runs = [one.part.folder.run for one in answered]
        tasks = [_task(run) for run in runs]
        training = TrainingSettings()
        if len({run.training.precision for run in runs}) == 1:
            training = TrainingSettings(precision=runs[0].training.precision)
        return Run(
            base=runs[0].base,
            revision=runs[0].revision,
            task=tasks[0] if len(tasks) == 1 else None,
            tasks=tasks if len(tasks) > 1 else [],
            experts="shared" if len(self.plan.answered) > 1 else "separate",
            recipe=self._recipe,
            merge=self._settings,
            training=training,
            seed=runs[0].seed if len(runs) == 1 else self.plan.settings.seed,
        )

    def _summary(self, one: Answered) -> dict[str, Any]:
        """What it cost; nothing but weights was trained."""
        factors = self.result.factors.values()
        return {
            "adapter_parameters": sum(A.numel() + B.numel() for A, B in factors),
            "trainable_parameters": self.result.trained,
            "base_parameters": self.base.num_parameters,
            "head": one.part.card.head,
            "examples": self.result.rows,
            "steps": 0,
            "seconds": self.seconds,
            "learning_rate": None,
            "threads": torch.get_num_threads(),
            "processes": 1,
            "machine": platform.machine(),
            "python": sys.version.split()[0],
            "torch": torch.__version__,
        }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _task(run: Run) -> TaskSettings:
    assert run.task is not None  # a part has one
    data = run.task.data if run.task.data is not None else run.data
    return run.task.model_copy(update={"data": data})
