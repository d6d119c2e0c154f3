"""Experts on disk: one folder each, whole or not at all.

    weft.json                                        what the expert is: its card
    adapter_config.json, adapter_model.safetensors   its exact plain LoRA, in PEFT's format
    config.json, index, tokenizer                    its class, labels and tokenizer, for transformers
    native.safetensors                               its own state, where that is more
    head.safetensors                                 in place of PEFT's files: no adapters
    encoders.safetensors                             what reads its recordings and pictures, which PEFT has no place for
    config.json, model.safetensors, tokenizer        in place of all those: recipe `full`

An expert without adapters has no PEFT form, because PEFT refuses a config without targets.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from weft.atomic import atomic_folder, write_tensors
from weft.base.loading import Base, checkpoint_tensors, config_of, load_base
from weft.config import RecipeSettings, validate
from weft.data.reading import find_kind
from weft.lowrank.peft.reading import read_peft
from weft.lowrank.peft.tensors import read_tensors
from weft.lowrank.peft.writing import PeftFolder, write_peft
from weft.methods.adapters.contract import Adapter
from weft.methods.recipes import Recipe, resolve
from weft.model.card import Card
from weft.model.expert import Expert
from weft.model.head import Head, trained_dtype
from weft.model.heads import kind_of
from weft.model.model import Model
from weft.model.prefix import encoders_for, state_of, take_state
from weft.storage.card import CARD, read_card, versions, write_card
from weft.storage.dense import write_checkpoint, write_frame
from weft.storage.tensors import (
    exact_state,
    is_plain,
    linear_shapes,
    native_adapters,
    native_metadata,
    native_state,
    plain_adapters,
    plain_state,
    take_copies,
    take_head,
    whole_modules,
)
from weft.tasks.contract import TaskSpec

NATIVE = "native.safetensors"
HEAD = "head.safetensors"
ENCODERS = "encoders.safetensors"


def save_expert(expert: Expert, card: Card, base: Base, folder: Path) -> None:
    """Write an expert as a folder that PEFT opens too; an expert that is there is replaced.

    Args:
        expert: What to write.
        card: What to say of it; `versions` are filled in where they are empty.
        base: The base it was trained on.
        folder: Where to write.

    Raises:
        ValueError: If card, expert and base do not belong together, or `folder` holds something
            else.
        NotLowRank: If the variant has no exact factors, with the reason.
    """
    folder = Path(folder)
    _check_place(folder)
    _check_card(card, expert, base)
    extra, biases = whole_modules(expert, base)
    with atomic_folder(folder) as draft:
        if expert.adapters:
            plain = is_plain(expert)
            write_peft(
                draft,
                plain_state(expert, extra, biases)
                if plain
                else exact_state(expert, base, extra, biases),
                base_name=card.source,
                task_type=_task_type(card.head),
                transposed=base.transposed,
            )
            if not plain:
                write_tensors(draft / NATIVE, native_state(expert), native_metadata(expert))
            if expert.head is not None:
                write_frame(draft, head=expert.head, base=base, labels=card.labels)
        else:
            write_tensors(draft / HEAD, extra)
        _write_encoders(draft, expert.head)
        write_card(_with_versions(card), draft)


def _write_encoders(folder: Path, head: Head | None) -> None:
    if head is not None and head.encoders is not None:
        write_tensors(folder / ENCODERS, state_of(head.encoders))


def _take_encoders(folder: Path, head: Head) -> None:
    if head.encoders is not None:
        try:
            take_state(head.encoders, read_tensors(folder / ENCODERS))
        except ValueError as error:
            raise ValueError(f"{folder / ENCODERS}: {error}") from None


def load_expert(folder: Path, base: Base, *, name: str | None = None) -> tuple[Expert, Card]:
    """The expert in a folder, ready to answer or to be trained further on `base`.

    Args:
        folder: What `save_expert` wrote.
        base: The base it was trained on.
        name: How routes call it; None takes its task's name.

    Raises:
        ValueError: If a file is missing or damaged, or the expert belongs to another base, kind of
            task or set of
            labels.
    """
    folder = Path(folder)
    card = read_card(folder)
    if card.digest != base.digest:
        raise ValueError(
            f"{folder}: expert for another base: it was trained on {card.base} (digest "
            f"{card.digest}), this base is "
            f"{base.name} (digest {base.digest}); load the base it was trained on"
        )
    recipe = _recipe_of(card, folder)
    if recipe.trains == "base":
        raise ValueError(
            f"{folder} holds a whole trained model, no expert to weave in; use load_full"
        )
    expert = restore(folder, card, base, recipe)
    expert.name = str(card.task["name"]) if name is None else name
    return expert, card


def _recipe_of(card: Card, folder: Path) -> Recipe:
    """The recipe that a card says, whatever is wrong with it said with the file."""
    where = f"{folder / CARD}: recipe"
    try:
        return resolve(validate(RecipeSettings, card.recipe, where))
    except (KeyError, ValueError) as error:
        said = str(error.args[0] if error.args else error)
        raise ValueError(said if said.startswith(where) else f"{where}: {said}"[:400]) from None


def restore(folder: Path, card: Card, base: Base, recipe: Recipe) -> Expert:
    """The expert of a folder, built by `recipe`; base and card are taken to belong together.

    Raises:
        ValueError: If the folder's tensors are damaged or do not fit base, card or recipe.
    """
    head = head_of(card, base, folder)
    adapters: Mapping[str, Adapter] = {}
    shared: nn.Module | None = None
    config: Mapping[str, Any] = {}
    if recipe.adapter is None:
        path = folder / HEAD
        extra = read_tensors(path)
    else:
        path = folder
        peft = read_peft(folder, linear_shapes(base.trunk))
        check_kind(peft, card.head, head.prefix if head else "", folder)
        odd = sorted(set(peft.factors) ^ set(card.targets))
        if odd:
            raise ValueError(
                f"{folder}: {CARD} and the tensors differ in their targets: {', '.join(odd[:3])}"
            )
        extra, config = peft.extra, peft.config
        if (folder / NATIVE).is_file():
            factors = {module: peft.factors[module] for module in card.targets}
            adapters, shared = native_adapters(folder / NATIVE, factors, base, recipe)
        else:
            adapters = plain_adapters(peft, card.targets, base, recipe, folder)
    prefix = head.prefix if head else ""
    copies = take_copies(extra, _copied(card, prefix, config), base, prefix, path)
    if head is not None:
        take_head(extra, head, path)
        _take_encoders(folder, head)
    elif extra:
        raise ValueError(f"{path}: {CARD} names no head, but there is a tensor {sorted(extra)[0]}")
    return Expert(str(card.task["name"]), adapters, head, copies, shared)


def _copied(card: Card, prefix: str, config: Mapping[str, Any]) -> dict[str, bool]:
    """The copies of base modules that an expert owns, and of each whether its bias alone is stored."""
    below = f"{prefix}." if prefix else ""
    whole = config.get("modules_to_save") or ()
    biased = config.get("bias", "none") != "none"
    return {module: biased and f"{below}{module}" not in whole for module in card.train_also}


def _task_type(kind: str) -> str | None:
    """PEFT's task type of a kind, which is empty where there is no head."""
    return kind_of(kind).task_type if kind else None


def check_kind(peft: PeftFolder, kind: str, prefix: str, folder: Path) -> None:
    """Refuse a PEFT folder of another kind of task, or of another architecture's task class.

    Raises:
        ValueError: Names what the folder says and what was expected.
    """
    found, expected = peft.config.get("task_type"), _task_type(kind)
    if None not in (found, expected) and found != expected:
        raise ValueError(
            f"{folder}: task_type is {found}, but a {kind or 'headless'} expert was expected "
            f"({expected})"
        )
    if peft.prefix not in ("", prefix):
        raise ValueError(
            f"{folder}: its tensors are those of a class that calls its trunk {peft.prefix!r}, "
            f"this base's class for "
            f"{kind} says {prefix!r}; the adapter belongs to another architecture"
        )


def head_of(card: Card, base: Base, folder: Path) -> Head | None:
    """A new head as the card describes it; None for an expert that has none.

    Raises:
        ValueError: If kind, task and labels of the card contradict each other.
    """
    if not card.head:
        return None
    spec = validate(TaskSpec, card.task, f"{folder / CARD}: task")
    if spec.kind != card.head:
        raise ValueError(
            f"{folder / CARD}: the task {spec.name} is {spec.kind}, but the head is {card.head}"
        )
    if spec.labels is not None and tuple(spec.labels) != card.labels:
        raise ValueError(
            f"{folder / CARD}: the task's labels are {spec.labels}, but the head's "
            f"{list(card.labels)}"
        )
    task = find_kind(spec)(spec, card.labels)
    head = Head(card.head, base, task.num_labels, seed=0)
    head.encoders = encoders_for(task, base.config.hidden_size, trained_dtype(base), seed=0)
    return head


def save_full(model: Model, expert: Expert, card: Card, folder: Path) -> None:
    """Write a fully trained model as a transformers checkpoint of its task's class, with its card.

    Args:
        model: Holds the trained private trunk.
        expert: The head on it.
        card: What to say of it; `versions` are filled in where they are empty.
        folder: Where to write; a model that is there is replaced.

    Raises:
        ValueError: If there is no head, or `folder` holds something else.
    """
    folder = Path(folder)
    _check_place(folder)
    if expert.head is None:
        raise ValueError(
            "a model without a head belongs to no task class, so it cannot be saved as one"
        )
    with atomic_folder(folder) as draft:
        write_checkpoint(
            draft, head=expert.head, trunk=model.trunk, base=model.base, labels=card.labels
        )
        _write_encoders(draft, expert.head)
        write_card(_with_versions(card), draft)


def load_full(folder: Path) -> tuple[Model, Expert, Card]:
    """A fully trained model, its head as an expert without adapters, and its card.

    In double precision where it was trained so, else in single.

    Raises:
        ValueError: If a file is missing or damaged, or the head does not fit.
    """
    folder = Path(folder)
    card = read_card(folder)
    double = config_of(str(folder)).dtype == torch.float64
    base = load_base(str(folder), dtype=torch.float64 if double else torch.float32)
    head = head_of(card, base, folder)
    if head is None:
        raise ValueError(f"{folder / CARD} names no head")
    take_head(checkpoint_tensors(base, head.trained_names()), head, folder)
    _take_encoders(folder, head)
    expert = Expert(str(card.task["name"]), {}, head)
    model = Model(base)
    model.add(expert)
    return model, expert, card


def _check_place(folder: Path) -> None:
    if folder.is_dir() and any(folder.iterdir()) and not (folder / CARD).is_file():
        raise ValueError(
            f"{folder} exists and holds no expert, so it is not overwritten; choose another folder"
        )


def _check_card(card: Card, expert: Expert, base: Base) -> None:
    said = (card.digest, card.head, set(card.targets), set(card.train_also))
    head = expert.head.kind_name if expert.head else ""
    real = (base.digest, head, set(expert.adapters), set(expert.copies))
    for what, one, other in zip(
        ("base digest", "head", "targets", "train_also"), said, real, strict=True
    ):
        if one != other:
            raise ValueError(f"the card says {what} {one!r}, but the expert has {other!r}")


def _with_versions(card: Card) -> Card:
    return card if card.versions else replace(card, versions=versions())
