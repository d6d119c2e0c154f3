"""LoRAM: train a low-rank expert on a pruned copy of a base, use it on the whole base.

    pruned     W_P = S_out^T W0 S_in (structured), or W_P = W0 * M (semi-structured, unstructured)
    trained    y = W_P x + s B A x
    recovered  y = W0 x + s (S_out B) (A S_in^T) x

S_out and S_in select the rows and columns that stay, M is 0 where a weight is pruned. Where only
M prunes, shapes are those of the base, and the adapter is used as it is, unmasked. Zhang et al.
2025, Train Small, Infer Large: Memory-Efficient LoRA Training for Large Language Models,
arXiv:2502.13533. What structured pruning takes from which side is the authors' code's
(github.com/junzhang-zj/LoRAM); the other two kinds are from memory of the paper.

Three steps. `prune` writes the pruned copy, a base folder like any other; `weft train` with recipe
`loram` and that folder as the base trains on it; `recover` makes a run folder for the whole base.
The paper has a stage between the first two, alignment: the pruned copy is trained further on text,
because an expert of a copy that no longer models language can harm the whole base. That is `weft
train` with recipe `full` and a causal or masked language-model task on the pruned folder; the
`expert` folder of that run is then the base to train on, and `recover` is told the pruned folder.
Full training does not hold masked weights at 0, and trains a language-model head that is not tied.

The hidden size is never pruned. Structured pruning is uniform: every layer keeps as many neurons as
the others, because a config has one width; so the authors' choice, all layers but the outer ones,
is not to be had. Heads go where a config can say fewer heads of the same size, which is the Llama
family: a key-value head with all query heads that it serves. Elsewhere (BERT and its kin,
ModernBERT, GPT-2) a head's size is hidden size / heads, so heads stay, and `pruning.json` says so.

Also different: importance is a draw, or magnitude (the sum of squares of a unit's weights, or a
weight's size in its row), where the authors use LLM-Pruner's gradients and SparseGPT; no 4-bit
base; no adapter on the language-model head. The columns of A that were pruned come back as 0; the
authors' "normA", which draws them and so makes another expert, is not offered.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from weft import guard
from weft.atomic import atomic_folder, write_tensors, write_text
from weft.base.digest import checkpoint_digest, tensors_digest
from weft.base.loading import load_base
from weft.base.locate import config_file, locate
from weft.config import validate
from weft.lowrank.roles import ALL_LINEAR, resolve
from weft.pruning.record import FILE, Importance, Kind, Pruning, write_pruning
from weft.pruning.stored import Stored
from weft.pruning.units import Group, config_values, counts_kept, groups_of, notes_on
from weft.scoped import tell

_ABOUT_WEIGHTS = ("config.json", FILE, "weft.json", "adapter_config.json")
_WITH_TOKENIZER = (".json", ".txt", ".model", ".jinja")


def prune(
    base: str,
    out: str | Path,
    *,
    kind: Kind,
    ratio: float | None = None,
    pattern: str | None = None,
    importance: Importance = "magnitude",
    seed: int = 0,
    layers: list[int] | None = None,
    revision: str | None = None,
) -> Path:
    """Write a pruned copy of a base, with its tokenizer and `pruning.json`.

    Tensors of the base are read one at a time; the pruned copy is in memory whole, twice in the end.

    Args:
        base: An alias, a hub id or a folder.
        out: The folder to write; must not exist. A run trains on it by `base: OUT`.
        kind: `structured` takes neurons and heads away, so the copy is smaller and faster; `semi`
            and `unstructured` set weights of the layers' linear maps to 0 and keep all shapes.
        ratio: Fraction to prune, rounded to whole neurons, heads or weights; not for `semi`.
        pattern: `n:m` keeps n of every m weights in a row; for `semi` alone, 4:8 if left open.
        importance: Whether the largest stay, or a draw.
        seed: Source of the draw.
        layers: Layers to prune, counted from 0; None is all. Not for `structured`.
        revision: Branch, tag or commit; for bases on the hub only.

    Returns:
        `out`.

    Raises:
        KeyError: If `base` is no alias and looks like neither a folder nor a hub id.
        ValueError: If `out` exists, settings do not go together or do not fit the base, or the
            base cannot be read.
    """
    out = Path(out)
    if out.exists():
        raise ValueError(f"{out} exists; choose another folder, or remove it")
    folder, source, revision = locate(base, revision)
    asked: dict[str, Any] = {
        "kind": kind,
        "ratio": ratio,
        "pattern": "4:8" if kind == "semi" and pattern is None else pattern,
        "importance": importance,
        "seed": seed,
        "layers": layers,
        "base": base,
        "source": source,
        "revision": revision,
    }
    plan = validate(Pruning, asked, "prune")
    plan.check()
    stored = Stored(folder)
    config, found = _cut(stored, plan) if kind == "structured" else _mask(stored, plan)
    tensors = stored.tensors()
    whole, own = checkpoint_digest(stored.files), tensors_digest(tensors)
    pruning = plan.model_copy(update={**found, "base_digest": whole, "digest": own})
    with atomic_folder(out) as draft:
        for file in sorted(folder.iterdir()):
            if _goes_along(file):
                shutil.copyfile(file, draft / file.name)
        values = guard.read_json(config_file(folder)) | config
        write_text(draft / "config.json", json.dumps(values, indent=2, sort_keys=True) + "\n")
        write_tensors(draft / "model.safetensors", tensors)
        write_pruning(pruning, draft)
        # What is no base, or not what was to be written, is not left behind.
        if load_base(str(draft), dtype=torch.bfloat16).digest != own:
            raise OSError(f"{out}: the disk gave back other tensors than were written")
    return out


def _cut(stored: Stored, plan: Pruning) -> tuple[dict[str, int], dict[str, Any]]:
    """Take units away; what the config and `pruning.json` say of it."""
    trunk, ratio = stored.trunk, plan.ratio or 0.0
    groups = groups_of(trunk)
    units = {group.what: group.units for group in groups}
    counts = counts_kept(trunk.config, units, ratio)
    generator = torch.Generator().manual_seed(plan.seed)
    kept: dict[str, dict[int, list[int]]] = {}
    for at, group in enumerate(groups):
        tell("groups of units pruned", at, len(groups))
        if plan.importance == "random":
            scores = torch.rand(group.units, generator=generator)
        else:
            scores = _squares(stored, group)
        stay = _largest(scores, counts[group.what]).sort().values
        kept.setdefault(group.what, {})[group.layer] = stay.tolist()
        for cut in group.cuts:
            stored.select(cut.module, cut.side, cut.places(stay, group.units))
    notes = notes_on(trunk.config, units, ratio)
    return config_values(trunk, counts), {"kept": kept, "notes": notes}


def _squares(stored: Stored, group: Group) -> Tensor:
    """The sum of squares of each unit's weights over all its maps; biases do not count."""
    scores = torch.zeros(group.units)
    for cut in group.cuts:
        weight = stored.weight(cut.module).float()
        lines = weight.square().sum(1 if cut.side == "out" else 0)
        scores += lines.view(cut.blocks, group.units, cut.width).sum((0, 2))
    return scores


def _mask(stored: Stored, plan: Pruning) -> tuple[dict[str, int], dict[str, Any]]:
    """Set weights to 0; what the config and `pruning.json` say of it."""
    modules = resolve(stored.trunk, ALL_LINEAR, layers=plan.layers)
    generator = torch.Generator().manual_seed(plan.seed)
    for at, module in enumerate(modules):
        tell("maps pruned", at, len(modules))
        weight = stored.weight(module)
        columns = weight.shape[1]
        if plan.ratio is None:
            count, group = plan.pattern_numbers
        else:
            count, group = columns - round(plan.ratio * columns), columns
        if columns % group:
            raise ValueError(
                f"pattern {plan.pattern}: {module} takes {columns} values, which {group} does not "
                "divide; choose another pattern"
            )
        drawn = plan.importance == "random"
        scores = torch.rand(weight.shape, generator=generator) if drawn else weight.float().abs()
        stay = _largest(scores.reshape(-1, columns // group, group), count)
        mask = torch.zeros(len(weight), columns // group, group, dtype=torch.bool)
        mask.scatter_(2, stay, True)
        stored.put(module, weight.where(mask.view(weight.shape), 0))
    return {}, {"masked": modules}


def _largest(scores: Tensor, count: int) -> Tensor:
    """Where the `count` largest of the last dimension are; of equal ones, the first."""
    return scores.argsort(dim=-1, descending=True, stable=True)[..., :count]


def _goes_along(file: Path) -> bool:
    """Whether a base's file is not about its weights: the tokenizer's files, notes."""
    about = file.name in _ABOUT_WEIGHTS or file.name.endswith(".index.json")
    return file.is_file() and file.suffix in _WITH_TOKENIZER and not about
