"""Experts and mixtures from other tools: PEFT folders, and weft's own, as run folders."""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import yaml
from huggingface_hub import snapshot_download
from torch import zeros

from weft.atomic import atomic_folder, write_text
from weft.base.loading import Base, load_base
from weft.base.locate import is_here
from weft.config import RecipeSettings, Run, TaskSettings, to_yaml, validate
from weft.data.reading import find_kind, find_spec
from weft.lowrank.peft.reading import read_config, read_peft
from weft.lowrank.peft.writing import CONFIG as PEFT_CONFIG
from weft.methods.recipes import HEAD_ONLY, resolve
from weft.model.card import Card
from weft.model.expert import Expert
from weft.model.head import Head
from weft.model.heads import kind_of
from weft.model.mixing import MIX
from weft.model.recogniser import STATES, Recogniser
from weft.runs import CONFIG, RunFolder
from weft.storage.card import CARD, read_card, versions
from weft.storage.experts import check_kind, load_expert, save_expert
from weft.storage.foreign import adapters_of
from weft.storage.links import refuse_links
from weft.storage.mixture import save_mixture
from weft.storage.outside import from_base, places_of, settled
from weft.storage.tensors import linear_shapes, take_copies, take_head
from weft.storage.xlora import import_xlora
from weft.storage.xlora_format import xlora_folder
from weft.tasks.contract import TaskSpec

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_HUB_FILES = ["*.json", "adapter_model.*", "native.safetensors", "head.safetensors"]
_NAME = re.compile(r"\w[\w.+-]{0,99}")
"""What a task may be called that a card brings: it becomes the name of a file."""


class _Given(NamedTuple):
    """What a folder is imported as."""

    folder: Path
    spec: TaskSpec
    labels: list[str]
    base: Base
    run: Run


def import_expert(
    folder: str | Path,
    out: str | Path,
    *,
    base: str | None = None,
    task: str | None = None,
    data: str | Path | None = None,
) -> Path:
    """Bring a folder of PEFT or of weft in as a run folder: of an expert, or of a mixture where it holds an X-LoRA.

    Args:
        folder: What PEFT, or a tool that writes its format, saved; an expert's folder of weft; or the hub id of one.
        out: The run folder to write; must not exist.
        base: The base it was trained on, believed as far as names and shapes fit; None takes what the folder says.
        task: A registered set, or a YAML file that says the user's own, with `labels` in the head's class order where
            the kind has classes; of an X-LoRA it is a causal_lm task. None takes what weft's own card says.
        data: Folder of the task's data, for evaluation later.

    Returns:
        `out`.

    Raises:
        ValueError: If `out` exists, the folder does not fit base, task and labels, or one of them is said nowhere.
    """
    run_folder = RunFolder(Path(out))
    run_folder.refuse_existing()
    write = prepared(located(str(folder)), run_folder, {}, base=base, task=task, data=data)
    with atomic_folder(run_folder.path) as draft:
        write(draft)
    return run_folder.path


def prepared(
    folder: Path,
    run_folder: RunFolder,
    bases: dict[tuple[str, str | None], Base],
    *,
    base: str | None,
    task: str | None,
    data: str | Path | None,
) -> Callable[[Path], None]:
    """What writes the run folder into a draft of it, when all that can be refused has been.

    Args:
        folder: What is imported; here.
        run_folder: Where it will be.
        bases: Those that are loaded, by what they were asked for as; more are put in.
        base: As of `import_expert`; so are the others.
        task: Its task.
        data: Its data.

    Raises:
        ValueError: As `import_expert`; of an X-LoRA some when it is written.
    """
    refuse_links(folder)
    card = read_card(folder) if (folder / CARD).exists() else None
    inside = adapters_in(folder)
    if inside and folder not in inside.values():
        raise ValueError(
            f"{folder} holds several adapters ({', '.join(inside)}), each in a folder of its own: give one of "
            "those, or bring all in at once (--out PARENT, import_experts)"
        )
    if task is None and card is None:
        raise ValueError(
            f"{folder} has no {CARD} that says its task; name one (--task): a registered set or a YAML file"
        )
    where, revision = (base, None) if base is not None else _base_said(folder, card)
    if (where, revision) not in bases:
        try:
            bases[where, revision] = load_base(where, revision=revision)
        except (KeyError, ValueError) as error:
            if base is not None:
                raise
            said = error.args[0] if error.args else error
            raise ValueError(
                f"{folder} says its base is {where}: {said}; name another (--base)"
            ) from None
    loaded = bases[where, revision]
    spec = find_spec(task) if task is not None else _spec_of(card, folder)
    name = task
    if task is None:
        name = spec.name
    elif Path(task).is_file():
        name = str(Path(task).resolve())
    run = Run(
        base=loaded.source if is_here(where) else where,
        revision=loaded.revision,
        task=TaskSettings.model_validate(
            {
                "name": name,
                "data": None if data is None else str(Path(data).expanduser().resolve()),
            }
        ),
        recipe=resolve(RecipeSettings(name=HEAD_ONLY)).describe(),
    )
    if task is None:
        assert card is not None
        return _own(folder, run_folder, loaded, run, spec)
    if find_kind(spec).files:
        raise ValueError(
            f"{folder}: a folder of PEFT has no encoders, without which a {spec.kind} reads no recordings or pictures; "
            "import what weft exported, without --task, or name a task of texts"
        )
    given = _Given(folder, spec, _labels(spec), loaded, run)
    if xlora_folder(folder) is not None:
        return partial(_write_mixture, given)
    return _peft(given)


def adapters_in(folder: Path) -> dict[str, Path]:
    """The adapters of a folder by name: itself, and those that PEFT saves beside its first, a sub-folder each.

    A checkpoint of a training is none; an X-LoRA's adapters are its own.
    """
    if xlora_folder(folder) is not None:
        return {folder.name: folder}
    below = sorted(path for path in folder.iterdir() if (path / PEFT_CONFIG).is_file())
    found = {path.name: path for path in below if not path.name.startswith("checkpoint")}
    if (folder / PEFT_CONFIG).is_file() or (folder / CARD).is_file():
        found = {folder.name: folder, **found}
    return found


def expert_of(folder: Path, base: Base, spec: TaskSpec) -> tuple[Expert, RecipeSettings]:
    """The expert in a folder of PEFT, and the recipe that it would have been trained by.

    Args:
        folder: The folder.
        base: The base it was trained on.
        spec: Its task, with labels where the kind has classes.

    Raises:
        ValueError: If the folder is damaged, does not fit base and task, or holds what weft does not read.
    """
    kind = find_kind(spec)
    head = Head(spec.kind, base, kind(spec, _labels(spec)).num_labels, seed=0)
    peft = read_peft(folder, linear_shapes(base.trunk), places_of(head, base))
    check_kind(peft, spec.kind, head.prefix, folder)
    answers, inside = settled(peft, head, base, folder)
    below = head.below
    copied = sorted({name.removeprefix(below).rpartition(".")[0] for name in inside})
    recipe, adapters, shared = adapters_of(peft, base, folder, copied)
    copies = take_copies(inside, dict.fromkeys(copied, False), base, head.prefix, folder)
    take_head(answers, head, folder)
    return Expert(spec.name, adapters, head, copies, shared), recipe


def _peft(given: _Given) -> Callable[[Path], None]:
    expert, recipe = expert_of(given.folder, given.base, given.spec)
    card = replace(
        _card(given),
        recipe=recipe.model_dump(mode="json"),
        targets=tuple(expert.adapters),
        train_also=tuple(expert.copies),
    )

    def write(draft: Path) -> None:
        write_text(draft / CONFIG, to_yaml(given.run.model_copy(update={"recipe": recipe})))
        save_expert(expert, card, given.base, RunFolder(draft).expert)

    return write


def _own(
    folder: Path, run_folder: RunFolder, base: Base, run: Run, spec: TaskSpec
) -> Callable[[Path], None]:
    """An expert of weft, with all it is: its own variant and recipe, and a description of its task."""
    expert, card = load_expert(folder, base)
    recipe = validate(RecipeSettings, card.recipe, f"{folder / CARD}: recipe")
    assert run.task is not None
    registered = _is_registered(spec)
    said = (
        run.task
        if registered
        else run.task.model_copy(
            update={"name": str(run_folder.path.resolve() / f"{spec.name}.yaml")}
        )
    )

    def write(draft: Path) -> None:
        write_text(draft / CONFIG, to_yaml(run.model_copy(update={"recipe": recipe, "task": said})))
        if not registered:
            values = spec.model_dump(mode="json", exclude_defaults=True)
            text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
            write_text(draft / f"{spec.name}.yaml", text)
        save_expert(expert, card, base, RunFolder(draft).expert)

    return write


def _write_mixture(given: _Given, draft: Path) -> None:
    """An X-LoRA folder as the run folder of a mixture of one task, whose head is the base's."""
    assert given.run.task is not None
    head, card, base = _head(given), _card(given), given.base
    name = given.run.task.label
    if name == MIX:
        raise ValueError(f"a task may not be called {name!r} here; rename its file")
    take_head(from_base(head, base), head, given.folder)
    own = (Expert(name, {}, head), card)
    width = STATES * base.config.hidden_size
    with TemporaryDirectory() as experts:
        found = import_xlora(given.folder, base, own, Path(experts))
        mixed = given.run.model_copy(update={"mixture": found.settings})
        write_text(draft / CONFIG, to_yaml(mixed))
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


def _head(given: _Given) -> Head:
    kind = find_kind(given.spec)
    return Head(given.spec.kind, given.base, kind(given.spec, given.labels).num_labels, seed=0)


def _card(given: _Given) -> Card:
    return Card(
        task=given.spec.model_dump(mode="json"),
        labels=tuple(given.labels),
        head=given.spec.kind,
        recipe=given.run.recipe.model_dump(mode="json"),
        targets=(),
        base=given.base.name,
        source=given.base.source,
        revision=given.base.revision,
        digest=given.base.digest,
        versions=versions(),
    )


def located(name: str) -> Path:
    """The folder that `name` is, or that the hub has under it.

    Raises:
        ValueError: If there is no such folder, here or there.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise ValueError(f"{name} is a file; give the folder with the adapter's files")
    if path.is_absolute() or not _HUB_ID.fullmatch(name):
        raise ValueError(f"{name}: no such folder, and no id of the hub (org/name)")
    try:
        return Path(
            snapshot_download(name, allow_patterns=_HUB_FILES, ignore_patterns=["checkpoint*"])
        )
    except OSError as error:
        raise ValueError(
            f"{name} is no folder here and cannot be had from the hub: {error}"[:400]
        ) from error


def _base_said(folder: Path, card: Card | None) -> tuple[str, str | None]:
    """The base that a folder names, and its revision.

    Raises:
        ValueError: If it names none.
    """
    if card is not None:
        return card.source, card.revision
    config: dict[str, Any] = read_config(folder)
    name, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not isinstance(name, str) or not name or not isinstance(revision, str | None):
        raise ValueError(f"{folder} does not say which base it is for; name it (--base)")
    return name, None if Path(name).expanduser().is_dir() else revision


def _spec_of(card: Card | None, folder: Path) -> TaskSpec:
    """The task of weft's own card."""
    assert card is not None
    spec = validate(TaskSpec, card.task, f"{folder / CARD}: task")
    if not _NAME.fullmatch(spec.name):
        raise ValueError(
            f"{folder / CARD}: a task cannot be called {spec.name[:80]!r}; name one (--task)"
        )
    return spec.model_copy(update={"labels": list(card.labels) or spec.labels})


def _is_registered(spec: TaskSpec) -> bool:
    """Whether the task's name alone says all of it."""
    try:
        known = find_spec(spec.name)
    except (KeyError, ValueError):
        return False
    return known.model_copy(update={"labels": spec.labels}) == spec


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
