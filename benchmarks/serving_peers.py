"""What else could answer, behind one `answer`: PEFT with one adapter at a time, PEFT's mixed batches, a pipeline, ONNX.

All but the pipeline encode by the task's own `encode` and decode by its `decode`, so that what differs is how batches
are made and run.
"""

import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime
import torch
import transformers
from peft import PeftModel
from torch import Tensor, nn

import weft
from serving_experts import COUNTS, names_of
from weft.answering.prediction import checked_input
from weft.base.loading import load_base
from weft.data.reading import find_kind
from weft.model.heads import kind_of
from weft.storage.card import read_card
from weft.tasks.contract import Prediction, Record, Task, TaskSpec

Rows = Sequence[tuple[str, dict[str, Any]]]
"""Experts and inputs of one set."""


class Peer(Protocol):
    """A program that answers; called by one thread at a time."""

    most: int
    """Rows that it is given at once."""

    def answer(self, task: str, rows: Rows) -> list[Prediction]:
        """What each expert says of its input."""
        ...


class Sides:
    """What is on both sides of a model: encoding and decoding by weft's task.

    Args:
        shelf: Folder of run folders.
    """

    def __init__(self, shelf: Path) -> None:
        self.tokenizer = load_base("minilm").tokenizer
        self.tasks: dict[str, Task] = {}
        for task in COUNTS:
            card = read_card(shelf / names_of(task)[0] / "expert")
            spec = TaskSpec.model_validate(card.task)
            self.tasks[task] = find_kind(spec)(spec, list(card.labels))

    def encoded(self, task: str, inputs: Sequence[dict[str, Any]]) -> list[tuple[Any, Record]]:
        """Checked examples and their records."""
        own = self.tasks[task]
        examples = [checked_input(own, value, at) for at, value in enumerate(inputs)]
        return [(example, own.encode(example, self.tokenizer)) for example in examples]

    def inputs(self, records: Sequence[Record]) -> dict[str, Tensor]:
        """Sequences of all records, padded to the longest."""
        names = [name for name in ("input_ids", "token_type_ids") if name in records[0]]
        flat = [
            {name: record[name][at] for name in names}
            for record in records
            for at in range(len(record["input_ids"]))
        ]
        return dict(self.tokenizer.pad(flat, return_tensors="pt"))

    def decoded(
        self, task: str, pairs: Sequence[tuple[Any, Record]], logits: Tensor
    ) -> list[Prediction]:
        """Predictions of logits by sequence, or by row."""
        own = self.tasks[task]
        lengths = [[len(ids) for ids in record["input_ids"]] for _, record in pairs]
        found = kind_of(own.spec.kind).outputs(logits, None, lengths)
        return [
            own.decode(example, record, output)
            for (example, record), output in zip(pairs, found, strict=True)
        ]


class Peft:
    """A PEFT model for each set, with all its adapters.

    Args:
        shelf: Folder of run folders; PEFT opens an expert's own folder.
        mixed: Rows of several adapters in one call, by `adapter_names`; else one row with one adapter at a time.
    """

    def __init__(self, shelf: Path, *, mixed: bool) -> None:
        self._sides = Sides(shelf)
        self._mixed = mixed
        self.most = 32 if mixed else 1
        self._lock = threading.Lock()
        self._models = {task: self._opened(shelf, task) for task in COUNTS}

    def _opened(self, shelf: Path, task: str) -> PeftModel:
        kind = kind_of(self._sides.tasks[task].spec.kind)
        first, *rest = names_of(task)
        auto = getattr(transformers, kind.auto)
        labels = getattr(self._sides.tasks[task], "num_labels", 2) if kind.has_classes else 2
        # Heads are the adapters' own.
        model = auto.from_pretrained(load_base("minilm").files[0].parent, num_labels=labels)
        found = PeftModel.from_pretrained(model, shelf / first / "expert", adapter_name=first)
        for name in rest:
            found.load_adapter(shelf / name / "expert", adapter_name=name)
        return found.eval()

    def answer(self, task: str, rows: Rows) -> list[Prediction]:
        """See `Peer`."""
        pairs = self._sides.encoded(task, [value for _, value in rows])
        names = [name for name, _ in rows]
        records = [record for _, record in pairs]
        inputs = self._sides.inputs(records)
        counts = [len(record["input_ids"]) for record in records]
        kind = kind_of(self._sides.tasks[task].spec.kind)
        if kind.compares:
            inputs = {name: value.view(len(rows), counts[0], -1) for name, value in inputs.items()}
        with self._lock, torch.inference_mode():
            if self._mixed:
                owners = [name for name, n in zip(names, counts, strict=True) for _ in range(n)]
                output = _called(self._models[task], **inputs, adapter_names=owners)
            else:
                self._models[task].set_adapter(names[0])
                output = _called(self._models[task], **inputs)
            logits = kind.logits(output)
        return self._sides.decoded(task, pairs, logits)


def _called(model: PeftModel, **inputs: Any) -> Any:
    """By the class for any task: PEFT's own for questions loses `token_type_ids` on the way to the model."""
    return PeftModel.forward(model, **inputs)


class Pipeline:
    """transformers' pipeline on one expert's merged weights, with batches.

    Args:
        made: Folder of `make`.
        task: The set; token classification.
    """

    most = 32

    def __init__(self, made: Path, task: str = "wnut17") -> None:
        self._pipeline = transformers.pipeline(
            "token-classification", model=str(merged(made, task)), device="cpu"
        )

    def answer(self, task: str, rows: Rows) -> list[Prediction]:
        """See `Peer`; texts, as a pipeline takes them, and its own groups of tokens."""
        texts = [" ".join(value["tokens"]) for _, value in rows]
        found = self._pipeline(texts, batch_size=len(texts), aggregation_strategy="simple")
        return [
            {"id": str(at), "entities": [_plain(entity) for entity in own]}
            for at, own in enumerate(found)
        ]


def _plain(entity: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.item() if hasattr(value, "item") else value for name, value in entity.items()
    }


class Onnx:
    """ONNX Runtime on one expert's merged weights.

    Args:
        made: Folder of `make`.
        threads: Of a call.
        task: The set; token classification.
    """

    most = 32

    def __init__(self, made: Path, threads: int, task: str = "wnut17") -> None:
        self._sides = Sides(made / "shelf")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(
            graph_of(merged(made, task), self._sides), options, providers=["CPUExecutionProvider"]
        )

    def answer(self, task: str, rows: Rows) -> list[Prediction]:
        """See `Peer`."""
        pairs = self._sides.encoded(task, [value for _, value in rows])
        inputs = self._sides.inputs([record for _, record in pairs])
        arrays = {own.name: inputs[own.name].numpy() for own in self._session.get_inputs()}
        logits = np.asarray(self._session.run(None, arrays)[0])
        return self._sides.decoded(task, pairs, torch.from_numpy(logits))


def merged(made: Path, task: str) -> Path:
    """The merged checkpoint of a set's first expert."""
    folder = made / "merged" / task
    if not folder.is_dir():
        folder.parent.mkdir(exist_ok=True)
        weft.export(made / "shelf" / names_of(task)[0], folder, "merged")
    return folder


class _Logits(nn.Module):
    """A task class as a graph has it: tensors in, one tensor out."""

    def __init__(self, model: transformers.PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        """The logits."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        return self.model(**inputs, token_type_ids=token_type_ids).logits


def graph_of(checkpoint: Path, sides: Sides) -> str:
    """The checkpoint as an ONNX graph, batch and length free, fused by ONNX Runtime when it opens."""
    path = checkpoint / "model.onnx"
    if not path.is_file():
        model = transformers.AutoModelForTokenClassification.from_pretrained(
            checkpoint, attn_implementation="eager"
        )
        example = sides.encoded("wnut17", [{"tokens": ["a", "good", "film"]}] * 2)
        inputs = sides.inputs([record for _, record in example])
        names = ("input_ids", "attention_mask", "token_type_ids")
        free = dict.fromkeys(range(2), torch.export.Dim.DYNAMIC)
        with warnings.catch_warnings():
            # What the exporter remarks on its own parts.
            warnings.simplefilter("ignore")
            made = torch.onnx.export(
                _Logits(model.eval()),
                kwargs={name: inputs[name] for name in names},
                input_names=list(names),
                output_names=["logits"],
                dynamic_shapes=dict.fromkeys(names, free),
                dynamo=True,
                verbose=False,
            )
        assert made is not None  # None is of the older exporter
        made.save(path)
    return str(path)
