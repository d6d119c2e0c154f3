"""Tensors of an expert as a run folder like any other: it is evaluated, asked, mixed, exported, served."""

from collections.abc import Mapping
from typing import Any

from weft.base.loading import Base
from weft.config import Run, TaskSettings, TrainingSettings
from weft.data.reading import LoadedTask
from weft.generating.layout import State, parted
from weft.model.card import Card
from weft.model.expert import Expert
from weft.model.factoring import lora_of, plain_recipe
from weft.model.head import Head, trained_dtype
from weft.runs import RunFolder
from weft.storage.experts import save_expert, versions


def write_run(
    folder: RunFolder,
    state: State,
    loaded: LoadedTask,
    base: Base,
    *,
    base_name: str,
    precision: str,
    data: str | None,
    seed: int,
    summary: Mapping[str, Any],
) -> None:
    """Write config, expert and costs into a folder that exists.

    Args:
        folder: Where.
        state: The expert's tensors; a plain LoRA of scale 1 is made of them, and the task's head.
        loaded: The task.
        base: What the expert stands on.
        base_name: As a user says it.
        precision: Of the run.
        data: Folder of the task's data; None where it is not known.
        seed: Of the run.
        summary: What `training.json` says besides counts.

    Raises:
        ValueError: If the head's tensors are not those of the task's head.
    """
    task, dtype = loaded.task, trained_dtype(base)
    factors, tensors = parted(state)
    adapters = {name: lora_of(A.to(dtype), B.to(dtype)) for name, (A, B) in factors.items()}
    head = Head(task.spec.kind, base, task.num_labels, seed=seed)
    head.load_state({name: value.to(dtype) for name, value in tensors.items()})
    expert = Expert(task.spec.name, adapters, head)
    recipe = plain_recipe({name: len(A) for name, (A, _) in factors.items()})
    card = Card(
        task=task.spec.model_dump(mode="json"),
        labels=tuple(task.labels),
        head=task.spec.kind,
        recipe=recipe.model_dump(mode="json"),
        targets=tuple(adapters),
        base=base.name,
        source=base.source,
        revision=base.revision,
        digest=base.digest,
        versions=versions(),
    )
    settings = loaded.settings
    # Whole, whatever the settings said: a run says everything.
    spec = task.spec.model_dump(mode="json", exclude={"name"})
    spec["labels"] = list(task.labels) or None
    run = Run(
        base=base_name,
        revision=base.revision,
        task=TaskSettings.model_validate({**settings.model_dump(), "spec": spec, "data": data}),
        recipe=recipe,
        training=TrainingSettings.model_validate({"precision": precision}),
        seed=seed,
    )
    folder.write_config(run)
    save_expert(expert, card, base, folder.expert)
    folder.write_training(
        {
            "adapter_parameters": sum(A.numel() + B.numel() for A, B in factors.values()),
            "trainable_parameters": 0,
            "base_parameters": base.num_parameters,
            "steps": 0,
            "learning_rate": None,
            "processes": 1,
            **summary,
        }
    )
