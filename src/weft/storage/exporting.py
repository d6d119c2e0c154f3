"""Experts and mixtures for other tools: PEFT folders, transformers checkpoints, folders of sentence-transformers."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Literal

from weft.atomic import atomic_folder
from weft.config import RecipeSettings
from weft.lowrank.peft.writing import CONFIG as PEFT_CONFIG
from weft.methods.recipes import file_of, resolve
from weft.model.factoring import approximated, cut, is_nested
from weft.runs import RunFolder
from weft.storage.dense import write_checkpoint, write_pooling
from weft.storage.experts import read_card, save_expert
from weft.storage.links import refuse_links
from weft.storage.loading import LoadedRun, load_run_model
from weft.storage.xlora import export_xlora
from weft.tasks.kinds.embedding import Embedding

FORMS = ("peft", "merged", "sentence-transformers")
"""What an expert is written as."""


def export(
    run_folder: str | Path,
    folder: str | Path,
    to: Literal["peft", "merged", "sentence-transformers"],
    rank: int | None = None,
) -> Path:
    """Write a run's expert for other tools.

    Args:
        run_folder: The run folder of one task, or of a mixture.
        folder: Where to write; must not exist.
        to: `peft` is the expert's own folder, which PEFT opens, or the X-LoRA folder of a mixture
            (`storage/xlora.py`); `merged` is a transformers checkpoint of the task's class whose
            weights are the base's plus the expert's; `sentence-transformers` is the merged checkpoint of an embedding
            with its pooling, which `SentenceTransformer` opens.
        rank: For `peft`: write the nearest plain LoRA of this rank instead, for variants that have
            no exact one (DoRA) or a larger one; `weft.json` says under `metrics` how far it is
            (`approximation_error`, the share of the change that is lost). Of an expert that was
            trained for every rank (recipe `dylora`) it is the plain LoRA that it is at this one.

    Returns:
        `folder`.

    Raises:
        ValueError: If `folder` exists, or the expert has no such form.
    """
    run, folder = RunFolder.open(run_folder), Path(folder)
    if folder.exists():
        raise ValueError(f"{folder} exists; choose another folder, or remove it")
    if to not in FORMS:
        raise ValueError(f"export to {to!r}: expected {', '.join(FORMS)}")
    if run.run.mixture is not None:
        if to != "peft" or rank is not None:
            raise ValueError(
                f"{run.path} holds a mixture, which changes with its input: it has no merged form and no LoRA near it; "
                "export it to peft without a rank"
            )
        return export_xlora(run.path, folder)
    if to == "sentence-transformers" and (kind := read_card(run.expert).head) != "embedding":
        raise ValueError(
            f"{run.expert}: sentence-transformers opens embeddings, and this expert's kind is {kind or 'none'}; export "
            "it to peft or merged"
        )
    whole = file_of(RecipeSettings(**read_card(run.expert).recipe)).trains == "base"
    if to == "peft" and not (run.expert / PEFT_CONFIG).is_file():
        trained = "every weight" if whole else "a head alone"
        raise ValueError(
            f"{run.expert} trained {trained}, which PEFT's LoRA format cannot hold; export it to "
            f"merged"
        )
    if rank is not None and (to != "peft" or whole):
        raise ValueError("rank: only an export to peft has one; leave it away")
    if rank is not None:
        return _export_near(run, folder, rank)
    if to == "peft" or whole:
        refuse_links(run.expert)
        with atomic_folder(folder) as draft:
            shutil.copytree(run.expert, draft, dirs_exist_ok=True)
            if to == "sentence-transformers":
                _write_pooling(draft, load_run_model(run.path, device="cpu"))
        return folder
    loaded = load_run_model(run.path, device="cpu")
    model, expert = loaded.model, loaded.model.expert(loaded.name)
    if expert.head is None:
        raise ValueError(
            f"{run.expert} has no head, so it belongs to no task class; export to peft"
        )
    with atomic_folder(folder) as draft:
        write_checkpoint(
            draft,
            head=expert.head,
            trunk=model.merged(expert.name),
            base=model.base,
            labels=loaded.card.labels,
        )
        if to == "sentence-transformers":
            _write_pooling(draft, loaded)
    return folder


def _write_pooling(folder: Path, loaded: LoadedRun) -> None:
    task = loaded.task
    assert isinstance(task, Embedding)
    write_pooling(
        folder,
        base=loaded.model.base,
        max_length=task.spec.max_length,
        normalize=task.options.normalize,
    )


def _export_near(run: RunFolder, folder: Path, rank: int) -> Path:
    loaded = load_run_model(run.path, device="cpu")
    near, metrics, alpha = loaded.model.expert(loaded.name), loaded.card.metrics, float(rank)
    if is_nested(near):
        cut(near, rank)
        # The scores on the card are those of all ranks.
        metrics, alpha = {}, float(loaded.card.recipe["alpha"])
    else:
        near, error = approximated(near, loaded.model.trunk, rank)
        metrics = metrics | {"approximation_error": error}
    recipe = RecipeSettings(
        name="lora",
        targets=list(near.adapters),
        train_also=list(near.copies),
        modules=list(near.adapters),
        **{"rank": rank, "alpha": alpha},
    )
    card = replace(
        loaded.card, recipe=resolve(recipe).describe().model_dump(mode="json"), metrics=metrics
    )
    save_expert(near, card, loaded.model.base, folder)
    return folder
