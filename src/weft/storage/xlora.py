"""X-LoRA mixtures on decoders to and from PEFT's folders.

    adapter_config.json         peft_type XLORA: settings of the head, where the experts are
    adapter_model.safetensors   every map of the head
    0/  1/  ...                 the experts in the order of the gates, as PEFT's LoRA

`PeftModel.from_pretrained(model, folder)` of PEFT 0.21.2 opens what is written here, where the task class calls its
trunk `model` (Llama and its kin) and `model.config.use_cache` is False. Its layer n is the n-th of the linear maps with
adapters as the trunk lists its modules, which is our order too. Where we work around PEFT 0.21.2:

- It takes an expert's path as it stands, never from the folder it is in: paths are written absolute. Put new ones in
  `adapters` when the folder has moved; weft finds the experts inside it anyway.
- It expects trunks to be called `model`: for GPT-2 (`transformer`), wrap the task class in a module that holds it as
  `model`. No encoder loads at all, nor do experts with a trained head: both are refused.
- It reads experts in the file's order but calls them by number, and its own writer sorts "10" before "2": ours does
  not, and numbers are read as numbers.
- Its own writer drops those of the head's maps whose number is an expert's name, and of the experts it saves in 0/, 1/,
  ... whole layers. The first is refused with the tensors' names; of the second only folders that weft wrote are read,
  else what `adapters` says.

Dropout on the experts' input (`dropout`) is not carried over; without training it has no effect.
"""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from weft.atomic import atomic_folder, write_tensors, write_text
from weft.base.loading import Base, load_base
from weft.config import MixtureSettings
from weft.lowrank.peft.reading import read_peft
from weft.lowrank.peft.writing import CONFIG, WEIGHTS, PeftFolder
from weft.methods.gates.settings import trains_experts
from weft.methods.mixtures.xlora import XLoRA
from weft.model.card import Card
from weft.model.expert import Expert
from weft.model.heads import kind_of
from weft.model.mixed import Mix
from weft.model.mixing import Ingredient, make_mix
from weft.runs import RunFolder
from weft.storage.card import CARD, read_card
from weft.storage.experts import check_kind, load_expert, save_expert
from weft.storage.foreign import adopted
from weft.storage.links import refuse_links
from weft.storage.mixture import EXPERTS, load_mixture
from weft.storage.tensors import linear_shapes
from weft.storage.xlora_format import (
    fill_gate,
    gate_tensors,
    xlora_config,
    xlora_folder,
    xlora_spec,
)

KIND = "causal_lm"
"""The kind of task that PEFT's X-LoRA can be of: the base has its head."""


class Imported(NamedTuple):
    """A mixture out of a PEFT folder, as `save_mixture` takes it."""

    mix: Mix
    settings: MixtureSettings
    ingredients: dict[str, Ingredient]


def export_xlora(run_folder: str | Path, folder: str | Path) -> Path:
    """Write the X-LoRA of a run for PEFT.

    Args:
        run_folder: The run folder of a mixture, or of one of its tasks.
        folder: Where to write; must not exist.

    Returns:
        `folder`.

    Raises:
        ValueError: If it is no X-LoRA on a decoder, has heads of its own, or settings that PEFT has not.
    """
    run, folder = RunFolder.open(run_folder), Path(folder)
    said = run.run
    if folder.exists():
        raise ValueError(f"{folder} exists; choose another folder, or remove it")
    if said.mixture is None or said.mixture.name != "xlora":
        name = "no mixture" if said.mixture is None else f"the mixture {said.mixture.name}"
        raise ValueError(f"{run.path} holds {name}; of all mixtures PEFT reads xlora alone")
    if not run.mixture.is_dir():
        raise ValueError(f"{run.path} holds no mixture yet; train it to its end first")
    dtype = torch.float64 if said.training.precision == "fp64" else torch.float32
    base = load_base(said.base, revision=said.revision, dtype=dtype)
    _check_decoder(base)
    mix, heads, _ = load_mixture(run.mixture, base)
    mixture = mix.mixture
    assert isinstance(mixture, XLoRA)
    for name, (head, _) in heads.items():
        if head.head is None or head.head.kind_name != KIND or head.head.trained_names():
            raise ValueError(
                f"{run.path}: task {name} has a head of its own, and PEFT's X-LoRA takes no expert that brings one; "
                f"only {KIND} with the base's head can be exported"
            )
    config = _config(mixture, base, folder.resolve())
    with atomic_folder(folder) as draft:
        for at, name in enumerate(mixture.experts):
            if trains_experts(mixture.spec):
                own = heads.get(name) or next(iter(heads.values()))
                expert, card = adopted(name, _factors(mixture, at), base, own, run.mixture)
                card = replace(card, task={**card.task, "name": name})
                save_expert(expert, card, base, draft / str(at))
            else:
                refuse_links(run.mixture / EXPERTS / name)
                shutil.copytree(run.mixture / EXPERTS / name, draft / str(at))
        write_tensors(draft / WEIGHTS, gate_tensors(mixture))
        write_text(draft / CONFIG, json.dumps(config, indent=2) + "\n")
    return folder


def import_xlora(folder: Path, base: Base, head: tuple[Expert, Card], drafts: Path) -> Imported:
    """The mixture in an X-LoRA folder of PEFT, or of `export_xlora`.

    Experts are named as the cards in their folders say, or 0, 1, ... in the order of the gates, as PEFT names them.

    Args:
        folder: Has `adapter_config.json` of type XLORA and `adapter_model.safetensors`.
        base: The decoder it was trained on.
        head: The task's expert without adapters, and its card.
        drafts: Where experts that are none of weft's are written; wanted until the mixture is saved.

    Raises:
        ValueError: If a file is missing or damaged, tensors of the gate are missing (named), an expert is not found, or
            the settings mean what weft does not do.
    """
    path = folder / CONFIG
    config = xlora_folder(folder)
    if config is None:
        raise ValueError(f"{folder} is no X-LoRA folder: it has no {CONFIG} of peft_type XLORA")
    _check_decoder(base)
    owner = head[0].head
    if owner is None or owner.kind_name != KIND:
        raise ValueError(
            f"task {head[1].task['name']} is {head[1].head}, but an X-LoRA of PEFT has no head but the base's; give a "
            f"{KIND} task"
        )
    spec = xlora_spec(config, path)
    wide, places = config.get("hidden_size"), config.get("adapters")
    if wide != base.config.hidden_size:
        raise ValueError(
            f"{path}: hidden_size is {wide}, but that of {base.name} is {base.config.hidden_size}; "
            "load the base it was trained on"
        )
    if not isinstance(places, dict) or not places:
        raise ValueError(f"{path}: adapters names no expert, so there is nothing to mix")
    numbers = [str(at) for at in range(len(places))]
    order = numbers if set(numbers) == set(places) else list(places)
    found = [_place(folder, key, str(places[key]), spec.train_experts) for key in order]
    ingredients = {
        name: _ingredient(name, place, base, head, drafts)
        for name, place in zip(_names(found), found, strict=True)
    }
    settings = MixtureSettings(name="xlora", **spec.model_dump(mode="json"))
    mix = make_mix(settings, base, ingredients, [str(head[1].task["name"])], seed=0)
    assert isinstance(mix.mixture, XLoRA)
    fill_gate(mix.mixture, folder / WEIGHTS)
    return Imported(mix, settings, ingredients)


def _check_decoder(base: Base) -> None:
    if not kind_of(KIND).fits(base.config):
        raise ValueError(
            f"{base.name} is no decoder, and PEFT 0.21.2 loads an X-LoRA on no encoder: it expects a trunk called "
            "`model` and a base with its head. Keep the run folder, which weft opens, or export its experts one by one"
        )


def _config(mixture: XLoRA, base: Base, folder: Path) -> dict[str, Any]:
    """What `adapter_config.json` says; the order of `adapters` is that of the gates."""
    return {
        "peft_type": "XLORA",
        "task_type": kind_of(KIND).task_type,
        "base_model_name_or_path": base.source,
        "inference_mode": True,
        "hidden_size": base.config.hidden_size,
        "adapters": {str(at): str(folder / str(at)) for at in range(len(mixture.experts))},
        **xlora_config(mixture.spec),
    }


def _factors(mixture: XLoRA, at: int) -> PeftFolder:
    """Expert `at` as the mixture has trained it."""
    factors, alphas = {}, {}
    for module in mixture.modules_woven:
        stack = mixture.stack(module)
        begin, rank = sum(stack.ranks[:at]), stack.ranks[at]
        if rank:
            own = slice(begin, begin + rank)
            factors[module] = (stack.A[own].detach(), stack.B[:, own].detach())
            alphas[module] = float(stack.scale[begin]) * rank
    return PeftFolder(factors, alphas, {}, "")


def _place(folder: Path, key: str, said: str, trained: bool) -> Path:
    """Where an expert is: inside if weft wrote it there, else where the config says."""
    inside = folder / key
    if (inside / CARD).is_file():
        return inside
    if trained:
        raise ValueError(
            f"{folder / CONFIG}: use_trainable_adapters is on, but PEFT 0.21.2 saves the experts it has trained "
            f"without whole layers, and {said} is expert {key} as it was before; train with frozen experts, or with "
            "weft"
        )
    for path in (Path(said).expanduser(), folder / said, inside):
        if (path / CONFIG).is_file():
            return path
    raise ValueError(
        f"{folder / CONFIG}: expert {key} is {said}, which is no folder with {CONFIG}; put its PEFT folder there, or "
        "name where it is"
    )


def _names(places: list[Path]) -> list[str]:
    """What the cards say, if that tells all experts apart; else their numbers."""
    said = [str(read_card(p).task["name"]) if (p / CARD).is_file() else "" for p in places]
    if len(set(said)) == len(said) and all(re.fullmatch(r"\w[\w.+-]*", name) for name in said):
        return said
    return [str(at) for at in range(len(places))]


def _ingredient(
    name: str, place: Path, base: Base, head: tuple[Expert, Card], drafts: Path
) -> Ingredient:
    refuse_links(place)
    if (place / CARD).is_file():
        expert, card = load_expert(place, base, name=name)
        return Ingredient(expert, card, place)
    peft = read_peft(place, linear_shapes(base.trunk))
    owner = head[0].head
    check_kind(peft, KIND, owner.prefix if owner else "", place)
    if peft.extra:
        raise ValueError(
            f"{place} holds trained modules ({sorted(peft.extra)[0]}), which no gate can weigh; give an expert without "
            "modules_to_save"
        )
    expert, card = adopted(name, peft, base, head, place)
    save_expert(expert, card, base, drafts / name)
    return Ingredient(expert, card, drafts / name)
