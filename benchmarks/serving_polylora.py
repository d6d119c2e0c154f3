"""PolyLoRA, the runtime behind GLiNER's adapters, as a peer: rows of several adapters of one kind in one call.

Its package is not among those that the tests install: `pip install --no-deps polylora`. On a CPU it takes its own loop
over rows; its Triton kernels need a GPU. It has no heads: theirs are taken row by row from the same folders.
"""

from pathlib import Path
from typing import Any

import torch
from polylora import PolyLoraConfig, PolyLoraModel  # pyright: ignore
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModel

from serving_experts import ADAPTER, COUNTS, names_of
from serving_peers import Rows, Sides
from weft.base.loading import load_base
from weft.model.heads import kind_of
from weft.tasks.contract import Prediction

_PREFIX = "base_model.model."
_POOLER = "bert.pooler.dense"


class _Heads:
    """The heads of a set's experts, stacked: row by row, each by its own expert's.

    Args:
        shelf: Folder of run folders.
        names: The experts.
    """

    def __init__(self, shelf: Path, names: list[str]) -> None:
        self._at = {name: at for at, name in enumerate(names)}
        own = [load_file(shelf / name / ADAPTER) for name in names]
        saved = [name for name in own[0] if ".lora_" not in name]
        self._tensors = {
            name.removeprefix(_PREFIX): torch.stack([tensors[name] for tensors in own])
            for name in saved
        }

    def __call__(self, hidden: Tensor, names: list[str], *, compares: bool) -> Tensor:
        """Logits `(sequences, seq, labels)`, or `(rows, choices)` of pooled first tokens where rows compare."""
        rows = torch.tensor([self._at[name] for name in names])
        if not compares:
            head = "qa_outputs" if "qa_outputs.weight" in self._tensors else "classifier"
            return self._linear(hidden, head, rows)
        pooled = torch.tanh(self._linear(hidden[:, :1], _POOLER, rows))
        return self._linear(pooled, "classifier", rows)[:, 0, 0]

    def _linear(self, values: Tensor, name: str, rows: Tensor) -> Tensor:
        weight, bias = self._tensors[f"{name}.weight"][rows], self._tensors[f"{name}.bias"][rows]
        return torch.baddbmm(bias[:, None], values, weight.transpose(1, 2))


class PolyLora:
    """A PolyLoRA model for each set, with all its adapters in its cache.

    Args:
        shelf: Folder of run folders.
    """

    most = 32

    def __init__(self, shelf: Path) -> None:
        self._sides = Sides(shelf)
        self._heads = {task: _Heads(shelf, names_of(task)) for task in COUNTS}
        self._models = {task: self._opened(shelf, task) for task in COUNTS}

    def _opened(self, shelf: Path, task: str) -> Any:
        base = AutoModel.from_pretrained(load_base("minilm").files[0].parent)
        names = names_of(task)
        config = PolyLoraConfig(
            max_gpu_adapters=len(names), max_rank=8, target_modules=["query", "value"]
        )
        model = PolyLoraModel(base, config)
        for name in names:
            model.load_adapter_from_disk(name, str(shelf / name / "expert"))
        return model.eval()

    def answer(self, task: str, rows: Rows) -> list[Prediction]:
        """See `Peer`."""
        pairs = self._sides.encoded(task, [value for _, value in rows])
        records = [record for _, record in pairs]
        counts = [len(record["input_ids"]) for record in records]
        owners = [name for (name, _), n in zip(rows, counts, strict=True) for _ in range(n)]
        compares = kind_of(self._sides.tasks[task].spec.kind).compares
        with torch.inference_mode():
            hidden = self._models[task](**self._sides.inputs(records), adapter_ids=owners)[0]
            logits = self._heads[task](hidden, owners, compares=compares)
            if compares:
                logits = logits.view(len(rows), -1)
        return self._sides.decoded(task, pairs, logits)
