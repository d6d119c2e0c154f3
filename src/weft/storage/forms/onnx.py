"""An expert as an ONNX graph, which ONNX Runtime answers without torch, transformers and weft.

    model.onnx                               base + expert + head; batch and length are free
    onnx.json                                what a caller must know: inputs, answers, labels, padding, lengths
    config.json, tokenizer.json, ...         as transformers has them, which `optimum` and `tokenizers` read
    weft.json                                the expert's card

Inputs are `input_ids`, `attention_mask` and, where the base has them, `token_type_ids`, int64; answers have the names
that transformers' own exports give them. Int8 is ONNX Runtime's dynamic quantisation: weights of products in 8 bits,
each output channel with its own scale, what goes into them as it comes (onnxruntime.ai, "Quantize ONNX models").
"""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from weft.atomic import atomic_folder, write_text, writing
from weft.base.tokens import embedding_rows
from weft.model.folded import Folded, axes_of, example_inputs
from weft.model.graph import ABOUT, GRAPH, About, session
from weft.model.heads import kind_of
from weft.scoped import tell
from weft.storage.card import write_card
from weft.storage.dense import write_config
from weft.storage.forms.contract import Form, Wanted, check_headed
from weft.storage.loading import LoadedRun
from weft.tasks.kinds.embedding import Embedding

OPSET = 18
"""The operators' version: the first with all that encoders need, so the oldest runtimes read it."""
TYPES = ("int8",)
"""What weights can be quantised to."""
NEEDS = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4
"""How far answers of the graph may be from ours: rounding of sums in another order is some 1e-6 a layer."""
_SHAPES = {2: ((2, 7), (3, 5)), 3: ((2, 3, 7), (3, 2, 5))}
"""Inputs to make the graph from, and others to try it on, by their axes."""


class Onnx(Form):
    """A graph of the folded expert."""

    options = frozenset({"quantise"})

    def check(self, wanted: Wanted) -> None:
        super().check(wanted)
        check_headed(wanted)
        if wanted.card.head == "causal_lm":
            raise ValueError(
                f"{wanted.run.expert} continues texts, which takes a cache of keys and values that this graph has not; "
                "export it to merged, and let a program for generation read that"
            )
        if wanted.quantise is not None and wanted.quantise not in TYPES:
            raise ValueError(f"quantise {wanted.quantise!r}: expected {', '.join(TYPES)}")
        absent = [name for name in NEEDS if find_spec(name) is None]
        if absent:
            raise ValueError(
                f"an export to onnx takes {', '.join(absent)}, not installed here: pip install 'weft[onnx]'"
            )

    def write(self, wanted: Wanted, folder: Path) -> None:
        # In single precision whatever the run computes in: the graph's products are.
        loaded = wanted.load("fp32")
        folded = Folded(loaded.model, loaded.name, normalize=_normalizes(loaded))
        with atomic_folder(folder) as draft:
            tell("making the graph")
            _write_graph(folded, loaded, draft)
            if wanted.quantise is not None:
                tell("quantising")
                _quantise(draft / GRAPH)
            write_config(draft, head=folded.head, base=loaded.model.base, labels=loaded.card.labels)
            write_card(loaded.card, draft)
            about = _described(loaded, folded, wanted).model_dump_json(indent=2)
            write_text(draft / ABOUT, about + "\n")


def _normalizes(loaded: LoadedRun) -> bool:
    return isinstance(loaded.task, Embedding) and loaded.task.options.normalize


def _described(loaded: LoadedRun, folded: Folded, wanted: Wanted) -> About:
    """What `onnx.json` says."""
    task, tokenizer = loaded.task, loaded.model.base.tokenizer
    return About(
        task=task.spec.name,
        kind=task.spec.kind,
        labels=list(loaded.card.labels),
        inputs=list(_inputs(loaded)),
        axes=list(axes_of(task.spec.kind)),
        along=list(kind_of(task.spec.kind).along),
        answers=list(folded.answers),
        pad_id=_number(tokenizer.pad_token_id) or 0,
        mask_id=_number(tokenizer.mask_token_id),
        special_ids=sorted(set(tokenizer.all_special_ids)),
        vocabulary=embedding_rows(loaded.model.base),
        max_length=task.spec.max_length,
        quantised=wanted.quantise,
        opset=OPSET,
    )


def _number(token: Any) -> int | None:
    """The number of a special token, of which a tokenizer may have none."""
    return token if isinstance(token, int) else None


def _inputs(loaded: LoadedRun, shape: tuple[int, ...] | None = None) -> dict[str, torch.Tensor]:
    base, axes = loaded.model.base, axes_of(loaded.task.spec.kind)
    shape = shape or _SHAPES[len(axes)][0]
    return example_inputs(
        shape,
        embedding_rows(base),
        types="token_type_ids" in base.tokenizer.model_input_names,
    )


def _write_graph(folded: Folded, loaded: LoadedRun, folder: Path) -> None:
    """Make the graph, try it on inputs of another shape, write it."""
    inputs = _inputs(loaded)
    axes = axes_of(loaded.task.spec.kind)
    # Sizes that differ in the trial below are free; what the exporter finds out of bounds it says itself.
    free = dict.fromkeys(range(len(axes)), torch.export.Dim.DYNAMIC)
    with _quiet_exporter():
        made = torch.onnx.export(
            folded,
            kwargs=inputs,
            input_names=list(inputs),
            output_names=list(folded.answers),
            dynamic_shapes=dict.fromkeys(inputs, free),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert made is not None  # None is of the older exporter
    _name_axes(made.model, axes)
    made.model.metadata_props.update(_metadata(loaded))
    with writing(folder / GRAPH):
        made.save(folder / GRAPH)
    _try(folded, _inputs(loaded, _SHAPES[len(axes)][1]), folder / GRAPH)


def _metadata(loaded: LoadedRun) -> dict[str, str]:
    """What the graph itself says of where it is from."""
    card = loaded.card
    return {
        "weft": metadata.version("weft"),
        "task": loaded.task.spec.name,
        "kind": loaded.task.spec.kind,
        "labels": json.dumps(list(card.labels), ensure_ascii=False),
        "recipe": str(card.recipe["name"]),
        "base": card.source,
        "base_digest": card.digest,
    }


def _name_axes(graph: Any, axes: tuple[str, ...]) -> None:
    """Call free sizes what they are, in place of the exporter's numbers."""
    import onnx_ir

    names: dict[str, str] = {}
    for value in graph.graph.inputs:
        for size, name in zip(value.shape, axes, strict=True):
            names.setdefault(str(size), name)
    values = [*graph.graph.inputs, *graph.graph.outputs]
    values += [value for node in graph.graph for value in node.outputs]
    for value in values:
        if value.shape is not None:
            sizes = [
                size if isinstance(size, int) else names.get(str(size), size)
                for size in value.shape
            ]
            value.shape = onnx_ir.Shape(sizes)


def _try(folded: Folded, inputs: dict[str, torch.Tensor], path: Path) -> None:
    """Ask both, with other sizes than the graph was made from.

    Raises:
        ValueError: If they differ: something in the graph depends on what it was made from.
    """
    with torch.inference_mode():
        ours = [value.numpy() for value in folded(**inputs)]
    theirs = session(path).run(None, {name: value.numpy() for name, value in inputs.items()})
    for one, other in zip(ours, map(np.asarray, theirs), strict=True):
        size = max(1.0, float(np.abs(one).max()))
        if one.shape != other.shape or not np.allclose(one, other, rtol=0, atol=TOLERANCE * size):
            raise ValueError(
                "the graph answers otherwise than the expert it was made of, so it is not written: this architecture "
                "cannot be exported to onnx; export it to merged"
            )


def _quantise(path: Path) -> None:
    """Put the weights of a graph's products into 8 bits, in its place."""
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = path.with_name("prepared.onnx")
    with _quiet_exporter():
        # Shapes are known, so nothing is to be found by symbols.
        quant_pre_process(path, prepared, skip_symbolic_shape=True)
        quantize_dynamic(prepared, path, weight_type=QuantType.QInt8, per_channel=True)
    for draft in path.parent.glob("prepared.onnx*"):
        draft.unlink()


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Nothing of what torch and ONNX Runtime remark on operators that no text model has, and on their own parts."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
