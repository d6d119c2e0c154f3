"""A mixture on disk: one folder that moves as one.

mixture.yaml        the method, its settings, the experts and their digests, the maps, the base
gate.safetensors    everything of the mixture that is not an expert's; with the experts, if it trained them
experts/<name>/     copies of the experts that are mixed, where they stayed as they were
heads/<task>/       each task's head, as an expert without adapters
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
import yaml
from pydantic import ConfigDict
from torch import Tensor

from weft.atomic import atomic_folder, write_tensors, write_text
from weft.base.loading import Base
from weft.config import MixtureSettings, Settings, read_yaml, validate
from weft.lowrank.peft.tensors import read_tensors
from weft.methods.gates.settings import trains_experts
from weft.methods.gates.stack import Stack
from weft.model.card import Card
from weft.model.expert import Expert
from weft.model.head import trained_dtype
from weft.model.mixed import Mix
from weft.model.mixing import MIX, Ingredient, frame_of, make_mix, method_of, starts_from_experts
from weft.storage.experts import load_expert, save_expert
from weft.storage.links import refuse_links

DESCRIPTION = "mixture.yaml"
GATE = "gate.safetensors"
FORMAT = 1
"""Grows when the folder changes its meaning."""
EXPERTS = "experts"
HEADS = "heads"
OWN = "mixture."
"""What the names of a mixture's own tensors start with in `gate.safetensors`."""


class Description(Settings):
    """What `mixture.yaml` says."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    format: int
    mixture: MixtureSettings
    experts: list[str]
    """In the order of the gates."""
    digests: dict[str, str]
    """SHA-256 over every file of each copied expert."""
    maps: dict[str, list[int]]
    """Ranks of the experts by the map they sit on, in the order of the trunk."""
    tasks: list[str]
    base: str
    digest: str
    """Of the base."""


def save_mixture(
    folder: Path,
    mix: Mix,
    base: Base,
    *,
    settings: MixtureSettings,
    ingredients: Mapping[str, Ingredient],
    heads: Mapping[str, tuple[Expert, Card]],
    extra: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a mixture with all it needs.

    Args:
        folder: Where to; replaced if it is there.
        mix: The mixture.
        base: The frozen base.
        settings: The mixture's complete settings.
        ingredients: The experts it was made of, by name.
        heads: Each task's head as an expert without adapters, with its card.
        extra: Further tensors for `gate.safetensors`, by name.
    """
    mixture = mix.mixture
    copied = {} if trains_experts(mixture.spec) else dict(ingredients)
    with atomic_folder(folder) as draft:
        for name, own in copied.items():
            refuse_links(own.folder)
            shutil.copytree(own.folder, draft / EXPERTS / name)
        for name, (expert, card) in heads.items():
            save_expert(expert, card, base, draft / HEADS / name)
        description = Description(
            format=FORMAT,
            mixture=settings,
            experts=list(mixture.experts),
            digests={name: folder_digest(draft / EXPERTS / name) for name in copied},
            maps={name: list(mixture.stack(name).ranks) for name in mixture.modules_woven},
            tasks=list(heads),
            base=base.name,
            digest=base.digest,
        )
        tensors = {
            f"{OWN}{name}": value.detach().cpu().contiguous()
            for name, value in mixture.state_dict().items()
            if not (copied and name.startswith("stacks."))
        }
        write_tensors(draft / GATE, {**tensors, **(extra or {})})
        text = yaml.safe_dump(description.model_dump(mode="json"), sort_keys=False)
        write_text(draft / DESCRIPTION, text)


def load_mixture(
    folder: Path, base: Base
) -> tuple[Mix, dict[str, tuple[Expert, Card]], dict[str, Tensor]]:
    """The mixture in a folder, each task's head, and the further tensors.

    Raises:
        ValueError: If a file is missing, damaged or changed, or the mixture belongs to another base.
    """
    folder = Path(folder)
    path = folder / DESCRIPTION
    values = read_yaml(path)
    if values.get("format", FORMAT) != FORMAT:
        raise ValueError(
            f"{path}: format {values['format']}, this weft reads {FORMAT}; update weft"
        )
    said = validate(Description, values, str(path))
    if said.digest != base.digest:
        raise ValueError(
            f"{folder}: mixture for another base: it was trained on {said.base} (digest {said.digest}), this base "
            f"is {base.name} (digest {base.digest}); load the base it was trained on"
        )
    tensors = read_tensors(folder / GATE)
    own = {n.removeprefix(OWN): v for n, v in tensors.items() if n.startswith(OWN)}
    mix = _skeleton(said, folder, base, own)
    _fill(mix, own, folder / GATE)
    heads = {}
    for name in said.tasks:
        head, card = load_expert(folder / HEADS / name, base, name=name)
        heads[name] = (head, card)
    return mix, heads, {n: v for n, v in tensors.items() if not n.startswith(OWN)}


def folder_digest(folder: Path) -> str:
    """SHA-256 over names and bytes of every file below a folder."""
    found = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        found.update(f"{path.relative_to(folder).as_posix()}\0".encode())
        with path.open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()


def _skeleton(said: Description, folder: Path, base: Base, own: Mapping[str, Tensor]) -> Mix:
    """The mixture as `said`, its experts in place, its gates still to be filled."""
    kind, spec = method_of(said.mixture)
    if not trains_experts(spec):
        mixed = {name: _ingredient(name, said, folder, base) for name in said.experts}
        return make_mix(said.mixture, base, mixed, said.tasks, seed=0)
    device, dtype = base.trunk.device, trained_dtype(base)
    stacks = {}
    for at, (module, ranks) in enumerate(said.maps.items()):
        kept = {
            key: own[name].to(device, dtype)
            for key in ("A", "B", "scale", "cores")
            if (name := f"stacks.{at}.{key}") in own
        }
        missing = {"A", "B", "scale"} - set(kept)
        if missing:
            names = ", ".join(f"stacks.{at}.{key}" for key in sorted(missing))
            raise ValueError(f"{folder / GATE} lacks {names}; the mixture is incomplete")
        stacks[module] = Stack(ranks=ranks, trained=True, **kept)
    frame = frame_of(base.trunk)
    mixture = kind(said.experts, stacks, frame, spec, torch.Generator()).to(device, dtype)
    return Mix(MIX, mixture, () if starts_from_experts(spec) else said.tasks)


def _ingredient(name: str, said: Description, folder: Path, base: Base) -> Ingredient:
    path = folder / EXPERTS / name
    if not path.is_dir():
        raise ValueError(f"{folder} lacks its expert {name}: there is no {path}; restore the copy")
    if folder_digest(path) != said.digests.get(name):
        raise ValueError(
            f"{path} is not the expert that was mixed: its files have changed; restore it, or mix again"
        )
    expert, card = load_expert(path, base, name=name)
    return Ingredient(expert, card, path)


def _fill(mix: Mix, own: Mapping[str, Tensor], path: Path) -> None:
    wanted = mix.mixture.state_dict()
    stored = {**{n: v for n, v in wanted.items() if n.startswith("stacks.")}, **own}
    missing = sorted(set(wanted) - set(stored))
    if missing:
        raise ValueError(
            f"{path} lacks tensors of the gate: {', '.join(missing)}; the mixture is incomplete"
        )
    odd = sorted(set(stored) - set(wanted))
    odd += [n for n in wanted if n in stored and wanted[n].shape != stored[n].shape]
    if odd:
        raise ValueError(
            f"{path}: its tensors are not those of {json.dumps(mix.mixture.experts)} mixed this way: "
            f"{', '.join(odd[:3])}"
        )
    mix.mixture.load_state_dict({name: value.to(wanted[name]) for name, value in stored.items()})
