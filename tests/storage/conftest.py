"""Trained-looking experts on tiny bases, and their answers by weft and by transformers."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from torch import Tensor
from transformers import PreTrainedModel

from weft.base.loading import Base, load_base
from weft.config import RecipeSettings, Run, to_yaml
from weft.lowrank.route import Route
from weft.methods.recipes import Recipe, resolve
from weft.model.card import Card
from weft.model.expert import Expert, build
from weft.model.head import Head
from weft.model.heads import kind_of
from weft.model.model import Model
from weft.storage.experts import save_expert, save_full

LABELS = {"sequence_classification": ("no", "yes"), "token_classification": ("O", "B-a", "I-a")}
ROWS = {"multiple_choice": (2, 2)}


@dataclass
class Made:
    """An expert with its base and card."""

    base: Base
    expert: Expert
    card: Card
    recipe: Recipe

    @property
    def kind(self) -> str:
        return self.card.head

    @property
    def folder(self) -> Path:
        """The base's checkpoint."""
        return Path(self.base.source)


@dataclass
class Lab:
    """Makes experts and asks them."""

    tiny_folder: Callable[[str], Path]

    def make(
        self,
        model_type: str | Path = "bert",
        kind: str = "sequence_classification",
        *,
        dtype: torch.dtype = torch.float32,
        labels: tuple[str, ...] | None = None,
        **recipe: Any,
    ) -> Made:
        """An expert of an architecture (or a base's folder) and kind, as if trained."""
        folder = model_type if isinstance(model_type, Path) else self.tiny_folder(model_type)
        base = load_base(str(folder), dtype=dtype)
        labels = LABELS.get(kind, ()) if labels is None else labels
        head = Head(kind, base, len(labels), seed=1)
        settings = {"name": "lora", "targets": ["all-linear"], "rank": 3, "alpha": 7} | recipe
        settings = {key: value for key, value in settings.items() if value is not None}
        if settings["name"] in ("head", "full"):
            settings = recipe
        method = resolve(RecipeSettings(**settings))
        expert = build("mine", base, method, head, seed=2)
        self.shake(expert.trained().values())
        return Made(base, expert, self.card(base, expert, method, labels), method)

    def card(
        self, base: Base, expert: Expert, recipe: Recipe, labels: tuple[str, ...] = ()
    ) -> Card:
        assert expert.head is not None
        kind = expert.head.kind_name
        return Card(
            task={"name": "mine", "kind": kind, "labels": list(labels) if kind in LABELS else None},
            labels=labels,
            head=kind,
            recipe=recipe.describe().model_dump(mode="json"),
            targets=tuple(expert.adapters),
            base=base.name,
            source=base.source,
            revision=None,
            digest=base.digest,
            train_also=tuple(expert.copies),
            metrics={"accuracy": 0.5},
        )

    def shake(self, parameters: Iterable[Tensor], seed: int = 5) -> None:
        """Move parameters away from where they start, as training would."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for value in parameters:
                noise = torch.randn(value.shape, generator=generator, dtype=value.dtype)
                value.add_(0.1 * noise)

    def answer(self, base: Base, expert: Expert, model: Model | None = None) -> Tensor:
        """The expert's logits; 0 at padding."""
        assert expert.head is not None
        model = (model or Model(base)).eval()
        if expert.name not in model.experts:
            model.add(expert)
        batch = inputs(base)
        rows = ROWS.get(expert.head.kind_name, (1, 1, 1, 1))
        with torch.no_grad():
            hidden = model.states(batch, Route.everywhere(expert.name))
            logits = expert.head(hidden, batch["attention_mask"], rows)
        model.remove(expert.name)
        return without_padding(logits, base)

    def task_class(
        self, folder: Path, kind: str, labels: int = 0, **settings: Any
    ) -> PreTrainedModel:
        """Transformers' class of that kind, loaded from a checkpoint as any user would."""
        sizes = {"num_labels": labels} if labels else {}
        model = getattr(transformers, kind_of(kind).auto).from_pretrained(
            folder, **sizes, **settings
        )
        if model.config.pad_token_id is None:
            model.config.pad_token_id = 0
        return model

    def transformers_answer(self, model: Any, base: Base, kind: str) -> Tensor:
        """The logits of a class of transformers, or of PEFT's wrapper around one; 0 at padding."""
        batch = inputs(base, model.config.pad_token_id)
        if kind == "multiple_choice":
            batch = {name: value.view(2, 2, -1) for name, value in batch.items()}
        with torch.no_grad():
            output = model.eval()(**batch)
            if kind == "embedding":
                mask = batch["attention_mask"].unsqueeze(-1)
                return (output.last_hidden_state * mask).sum(1) / mask.sum(1)
            return without_padding(kind_of(kind).logits(output), base)


def inputs(base: Base, pad: int | None = None) -> dict[str, Tensor]:
    """Four sequences of up to seven tokens; two are padded."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 90, (4, 7), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    mask[2, 3:] = 0
    pad = base.config.pad_token_id if pad is None else pad
    return {"input_ids": ids.masked_fill(mask == 0, pad or 0), "attention_mask": mask}


def without_padding(logits: Tensor, base: Base) -> Tensor:
    mask = inputs(base)["attention_mask"]
    by_token = logits.dim() == 3 and logits.shape[:2] == mask.shape
    return logits * mask.unsqueeze(-1) if by_token else logits


@pytest.fixture(scope="session")
def lab(tiny_folder: Callable[[str], Path]) -> Lab:
    """Makes experts and asks them."""
    return Lab(tiny_folder)


@pytest.fixture
def task(tmp_path: Path) -> Callable[..., str]:
    """A function that writes a task's YAML file and says where."""

    def write(kind: str, **more: Any) -> str:
        path = tmp_path / "mine.yaml"
        labels = {"labels": list(LABELS[kind])} if kind in LABELS else {}
        path.write_text(yaml.safe_dump({"kind": kind} | labels | more))
        return str(path)

    return write


@pytest.fixture
def run_folder(lab: Any, tmp_path: Path, task: Callable[..., str]) -> Callable[..., Any]:
    """A function that makes a run folder of an expert, as training leaves it."""

    def write(model_type: str, kind: str, **recipe: Any) -> tuple[Any, Path]:
        made = lab.make(model_type, kind, **recipe)
        run = Run.model_validate(
            {"base": made.base.source, "task": task(kind), "recipe": made.recipe.describe()}
        )
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "run.yaml").write_text(to_yaml(run))
        if made.recipe.trains == "base":
            model = Model(made.base, private=True)
            save_full(model, made.expert, made.card, tmp_path / "run" / "expert")
        else:
            save_expert(made.expert, made.card, made.base, tmp_path / "run" / "expert")
        return made, tmp_path / "run"

    return write
