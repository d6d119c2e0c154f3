"""Experts and mixtures to and from other tools: PEFT folders, and whole transformers checkpoints."""

import shutil
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from torch import Tensor, zeros

from weft.atomic import atomic_folder, write_text
from weft.base.loading import Base, checkpoint_tensors, load_base
from weft.config import RecipeSettings, Run, TaskSettings, to_yaml
from weft.data.reading import find_kind, find_spec
from weft.lowrank.checkpoint import CONFIG as PEFT_CONFIG
from weft.lowrank.checkpoint import PeftFolder, read_peft
from weft.methods.recipes import HEAD_ONLY, recipe_file, resolve
from weft.model.expert import Card, Expert
from weft.model.factoring import approximated
from weft.model.head import Head
from weft.model.heads import kind_of
from weft.model.mixing import MIX
from weft.model.recogniser import STATES, Recogniser
from weft.runs import CONFIG, RunFolder
from weft.storage.dense import write_checkpoint
from weft.storage.experts import check_kind, read_card, save_expert, versions
from weft.storage.foreign import recipe_of
from weft.storage.loading import load_run_model
from weft.storage.mixture import save_mixture
from weft.storage.tensors import linear_shapes, plain_adapters, take_copies, take_head
from weft.storage.xlora import export_xlora, import_xlora
from weft.storage.xlora_format import xlora_folder
from weft.tasks.contract import TaskSpec


def export(
    run_folder: str | Path,
    folder: str | Path,
    to: Literal["peft", "merged"],
    rank: int | None = None,
) -> Path:
    """Write a run's expert for other tools.

    Args:
        run_folder: The run folder of one task, or of a mixture.
        folder: Where to write; must not exist.
        to: `peft` is the expert's own folder, which PEFT opens, or the X-LoRA folder of a mixture
            (`storage/xlora.py`); `merged` is a transformers checkpoint of the task's class whose
            weights are the base's plus the expert's.
        rank: For `peft`: write the nearest plain LoRA of this rank instead, for variants that have
            no exact one (DoRA) or a larger one; `weft.json` says under `metrics` how far it is
            (`approximation_error`, the share of the change that is lost).

    Returns:
        `folder`.

    Raises:
        ValueError: If `folder` exists, or the expert has no such form.
    """
    run, folder = RunFolder.open(run_folder), Path(folder)
    if folder.exists():
        raise ValueError(f"{folder} exists; choose another folder, or remove it")
    if to not in ("peft", "merged"):
        raise ValueError(f"export to {to!r}: expected peft or merged")
    if run.run.mixture is not None:
        if to != "peft" or rank is not None:
            raise ValueError(
                f"{run.path} holds a mixture, which changes with its input: it has no merged form and no LoRA near it; "
                "export it to peft without a rank"
            )
        return export_xlora(run.path, folder)
    whole = recipe_file(read_card(run.expert).recipe["name"]).trains == "base"
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
        with atomic_folder(folder) as draft:
            shutil.copytree(run.expert, draft, dirs_exist_ok=True)
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
    return folder


def _export_near(run: RunFolder, folder: Path, rank: int) -> Path:
    loaded = load_run_model(run.path, device="cpu")
    near, error = approximated(loaded.model.expert(loaded.name), loaded.model.trunk, rank)
    recipe = RecipeSettings(
        name="lora",
        targets=list(near.adapters),
        train_also=list(near.copies),
        modules=list(near.adapters),
        **{"rank": rank, "alpha": float(rank)},
    )
    card = replace(
        loaded.card,
        recipe=resolve(recipe).describe().model_dump(mode="json"),
        metrics=loaded.card.metrics | {"approximation_error": error},
    )
    save_expert(near, card, loaded.model.base, folder)
    return folder


def import_expert(
    folder: str | Path,
    out: str | Path,
    *,
    base: str,
    task: str,
    data: str | Path | None = None,
) -> Path:
    """Bring a PEFT folder in as a run folder: of an expert, or of a mixture where it holds an X-LoRA.

    Args:
        folder: What PEFT, or a tool that writes its format, saved.
        out: The run folder to write; must not exist.
        base: The base it was trained on; PEFT folders do not identify it, so this is believed as
            far as names and shapes fit.
        task: A registered set, or a YAML file that says the user's own, with `labels` in the
            head's class order where the kind has classes. Of an X-LoRA it is a causal_lm task.
        data: Folder of the task's data, for evaluation later.

    Returns:
        `out`.

    Raises:
        ValueError: If `out` exists, or the folder does not fit base, task and labels.
    """
    folder, run_folder = Path(folder), RunFolder(Path(out))
    run_folder.refuse_existing()
    spec = find_spec(task)
    labels = _labels(spec)
    loaded = load_base(base)
    run = Run(
        base=loaded.source if Path(base).expanduser().is_dir() else base,
        revision=loaded.revision,
        task=TaskSettings.model_validate(
            {
                "name": str(Path(task).resolve()) if Path(task).is_file() else task,
                "data": None if data is None else str(Path(data).expanduser().resolve()),
            }
        ),
        recipe=resolve(RecipeSettings(name=HEAD_ONLY)).describe(),
    )
    card = Card(
        task=spec.model_dump(mode="json"),
        labels=tuple(labels),
        head=spec.kind,
        recipe=run.recipe.model_dump(mode="json"),
        targets=(),
        base=loaded.name,
        source=loaded.source,
        revision=loaded.revision,
        digest=loaded.digest,
        versions=versions(),
    )
    head = Head(spec.kind, loaded, find_kind(spec)(spec, labels).num_labels, seed=0)
    if xlora_folder(folder) is not None:
        return _import_mixture(folder, run_folder, loaded, run, (head, card))
    peft = read_peft(folder, linear_shapes(loaded.trunk))
    check_kind(peft, spec.kind, head.prefix, folder)
    recipe = recipe_of(peft, _copied(peft, head))
    adapters = plain_adapters(peft, peft.factors, loaded, resolve(recipe), folder)
    extra = dict(peft.extra)
    copies = take_copies(extra, tuple(recipe.train_also), loaded, peft.prefix, folder)
    take_head(extra | _from_base(extra, head, loaded), head, folder)
    expert = Expert(spec.name, adapters, head, copies)
    card = replace(
        card,
        recipe=recipe.model_dump(mode="json"),
        targets=tuple(expert.adapters),
        train_also=tuple(expert.copies),
    )
    with atomic_folder(run_folder.path) as draft:
        write_text(draft / CONFIG, to_yaml(run.model_copy(update={"recipe": recipe})))
        save_expert(expert, card, loaded, RunFolder(draft).expert)
    return run_folder.path


def _import_mixture(
    folder: Path, run_folder: RunFolder, base: Base, run: Run, answers: tuple[Head, Card]
) -> Path:
    """An X-LoRA folder as the run folder of a mixture of one task, whose head is the base's."""
    assert run.task is not None
    head, card = answers
    name = run.task.label
    if name == MIX:
        raise ValueError(f"a task may not be called {name!r} here; rename its file")
    take_head(_from_base({}, head, base), head, folder)
    own = (Expert(name, {}, head), card)
    width = STATES * base.config.hidden_size
    with atomic_folder(run_folder.path) as draft, TemporaryDirectory() as experts:
        found = import_xlora(folder, base, own, Path(experts))
        write_text(draft / CONFIG, to_yaml(run.model_copy(update={"mixture": found.settings})))
        save_mixture(
            draft / "mixture",
            found.mix,
            base,
            settings=found.settings,
            ingredients=found.ingredients,
            heads={name: own},
            # Of one task there is nothing to tell apart.
            extra=Recogniser((name,), zeros(1, width), zeros(1)).tensors(),
        )
    return run_folder.path


def _labels(spec: TaskSpec) -> list[str]:
    """The class names; a PEFT folder does not have them, so the task must."""
    kind = find_kind(spec)
    regression = spec.options.get("mode") == "regression"
    if spec.labels is None and kind_of(spec.kind).has_classes and not regression:
        raise ValueError(
            f"task {spec.name}: a PEFT folder does not name its classes; list them in the head's "
            "order under the task's `labels:`"
        )
    return kind.collect_labels(spec, [])


def _copied(peft: PeftFolder, head: Head) -> list[str]:
    """Modules of the trunk that the folder holds a trained copy of."""
    own = {name for name, _ in head.module.named_parameters(remove_duplicate=False)}
    below = f"{peft.prefix}." if peft.prefix else ""
    inside = [name for name in peft.extra if name not in own and name.startswith(below)]
    return sorted({name.removeprefix(below).rpartition(".")[0] for name in inside})


def _from_base(extra: dict[str, Tensor], head: Head, base: Base) -> dict[str, Tensor]:
    """What PEFT left in the head as the base's checkpoint has it, and so did not save."""
    lacking = [name for name in head.trained_names() if name not in extra]
    found = checkpoint_tensors(base, lacking)
    if base.pooler is not None:
        below = f"{head.prefix}.pooler."
        pooler = {f"{below}{key}": value for key, value in base.pooler.state_dict().items()}
        found |= {name: pooler[name] for name in lacking if name in pooler}
    return found
