"""Experts on pruned bases as their run folders, without a run, and what they answer."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.methods.adapters.starts import move
from tests.methods.adapters.stored import card_of
from weft.base.loading import load_base
from weft.config import RecipeSettings, Run, to_yaml
from weft.lowrank.route import Route
from weft.methods.recipes import resolve
from weft.model.expert import build, factors_of
from weft.model.head import Head
from weft.storage.experts import save_expert
from weft.storage.loading import load_run_model

TASKS = {
    "bert": "sequence_classification",
    "modernbert": "sequence_classification",
    "gpt2": "causal_lm",
    "llama": "causal_lm",
}
LABELS = ("no", "yes")


def make_run(base_folder: Path, out: Path, model_type: str, **recipe: Any) -> Path:
    """A run folder with an expert on that base, as if it was trained, in double precision."""
    base = load_base(str(base_folder), dtype=torch.float64)
    kind = TASKS[model_type]
    labels = LABELS if kind == "sequence_classification" else ()
    method = resolve(RecipeSettings(**{"name": "loram", "rank": 3, "dropout": 0.0} | recipe))
    expert = build("mine", base, method, Head(kind, base, len(labels), seed=1), seed=2)
    move(expert.trained().values(), by=0.1)
    task = {"name": "mine", "kind": kind, "labels": list(labels) or None}
    card = card_of(
        expert,
        base,
        task=task,
        labels=labels,
        head=kind,
        recipe=method.describe().model_dump(mode="json"),
        train_also=tuple(expert.copies),
        metrics={"accuracy": 0.5},
    )
    out.mkdir()
    (out / "mine.yaml").write_text(yaml.safe_dump({"kind": kind, "labels": list(labels) or None}))
    values = {
        "base": str(base_folder),
        "task": str(out / "mine.yaml"),
        "recipe": method.describe(),
        "training": {"precision": "fp64"},
    }
    (out / "run.yaml").write_text(to_yaml(Run.model_validate(values)))
    save_expert(expert, card, base, out / "expert")
    return out


def ids() -> Tensor:
    return torch.randint(5, 90, (4, 7), generator=torch.Generator().manual_seed(0))


def answer(run: Path) -> Tensor:
    """A run's logits."""
    loaded = load_run_model(run, device="cpu")
    batch = {"input_ids": ids(), "attention_mask": torch.ones(4, 7, dtype=torch.long)}
    head = loaded.model.expert(loaded.name).head
    assert head is not None
    with torch.no_grad():
        hidden = loaded.model.states(batch, Route.everywhere(loaded.name))
        return head(hidden, batch["attention_mask"], (1, 1, 1, 1))


def deltas(run: Path) -> dict[str, Tensor]:
    """The change of every adapted map's weight."""
    loaded = load_run_model(run, device="cpu")
    found = factors_of(loaded.model.expert(loaded.name), loaded.model.trunk)
    return {module: B @ A for module, (A, B) in found.items()}


def changed_copy(folder: Path, out: Path, change: Callable[[dict[str, Tensor]], None]) -> Path:
    """A base folder with other weights."""
    shutil.copytree(folder, out)
    tensors = load_file(out / "model.safetensors")
    change(tensors)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return out
