"""Experts as ONNX graphs answer as they do in weft, at any batch and length; what a graph cannot hold is refused."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.storage.conftest import inputs
from weft.model.graph import ABOUT, GRAPH, Graph
from weft.runs import RunFolder
from weft.storage.exporting import export
from weft.storage.forms import names
from weft.storage.loading import load_run_model

KINDS = (
    ("bert", "sequence_classification"),
    ("bert", "multiple_choice"),
    ("bert", "span_extraction"),
    ("bert", "masked_lm"),
    ("bert", "embedding"),
    ("roberta", "span_extraction"),
    ("distilbert", "token_classification"),
    ("modernbert", "masked_lm"),
    ("gpt2", "sequence_classification"),
    ("llama", "token_classification"),
)
ANSWERS = {
    "span_extraction": ["start_logits", "end_logits"],
    "embedding": ["sentence_embedding"],
}
MORE = {"token_classification": {"train_also": ["norms"]}, "masked_lm": {"name": "dora"}}
"""Recipes beside plain LoRA: copies of base modules, and a change of another form."""


def check_answers(lab: Any, made: Any, folder: Path) -> None:
    """Set a graph beside the expert that it was made of, on padded rows, on one row, on the longest."""
    graph = Graph(folder)
    batch = {name: value.numpy() for name, value in inputs(made.base).items()}
    batch["token_type_ids"] = np.zeros_like(batch["input_ids"])
    shape = (2, 2, -1) if made.kind == "multiple_choice" else (4, -1)
    said = graph.ask({name: batch[name].reshape(shape) for name in graph.about.inputs})
    ours = lab.answer(made.base, made.expert).numpy()
    theirs = np.stack(said, -1) if len(said) > 1 else said[0]
    if made.kind == "embedding":
        ours /= np.linalg.norm(ours, axis=-1, keepdims=True)
    if "token" in graph.about.along:
        theirs = theirs * batch["attention_mask"][..., None]
    np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-4)


@pytest.fixture
def exported(
    tmp_path: Path, run_folder: Callable[..., Any]
) -> Callable[[str, str], tuple[Any, Path]]:
    """A function that makes an expert and its graph."""

    def make(model_type: str, kind: str) -> tuple[Any, Path]:
        made, run = run_folder(model_type, kind, **MORE.get(kind, {}))
        return made, export(run, tmp_path / "out", "onnx")

    return make


def test_a_graph_answers_as_its_expert_and_says_what_it_is(
    lab: Any, exported: Callable[..., Any]
) -> None:
    made, folder = exported("bert", "token_classification")
    check_answers(lab, made, folder)
    said = onnx.load(folder / GRAPH)
    onnx.checker.check_model(said)
    names = {entry.key: entry.value for entry in said.metadata_props}
    assert (names["kind"], json.loads(names["labels"])) == (made.kind, list(made.card.labels))
    assert names["base_digest"] == made.base.digest
    (opset,) = [one.version for one in said.opset_import if one.domain == ""]
    about = json.loads((folder / ABOUT).read_text())
    assert (opset, about["opset"], about["answers"]) == (18, 18, ["logits"])
    for value in said.graph.input:
        sizes = [size.dim_param for size in value.type.tensor_type.shape.dim]
        assert sizes == about["axes"] == ["batch", "length"]
    assert {path.name for path in folder.iterdir()} == {
        *(GRAPH, ABOUT, "weft.json", "config.json", "tokenizer.json", "tokenizer_config.json")
    }
    config = json.loads((folder / "config.json").read_text())
    assert tuple(config["id2label"].values()) == made.card.labels
    assert config["architectures"] == ["BertForTokenClassification"]
    # One row of one token, and rows as long as the base numbers places.
    model = made.base.max_positions
    graph = Graph(folder)
    for shape in ((1, 1), (2, model)):
        ids = np.full(shape, 7)
        values = {"input_ids": ids, "attention_mask": ids**0, "token_type_ids": ids * 0}
        assert graph.ask(values)[0].shape == (*shape, 3)


@pytest.mark.slow
@pytest.mark.parametrize(("model_type", "kind"), KINDS)
def test_every_kind_has_a_graph(
    lab: Any, exported: Callable[..., Any], model_type: str, kind: str
) -> None:
    made, folder = exported(model_type, kind)
    check_answers(lab, made, folder)
    assert Graph(folder).about.answers == ANSWERS.get(kind, ["logits"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["head", "full"])
def test_experts_without_adapters_have_a_graph(
    lab: Any, tmp_path: Path, run_folder: Callable[..., Any], name: str
) -> None:
    made, run = run_folder("bert", "sequence_classification", name=name)
    check_answers(lab, made, export(run, tmp_path / "out", "onnx"))


@pytest.mark.slow
def test_int8_is_a_quarter_and_close(
    lab: Any, tmp_path: Path, run_folder: Callable[..., Any]
) -> None:
    made, run = run_folder("bert", "sequence_classification")
    export(run, tmp_path / "whole", "onnx")
    export(run, tmp_path / "small", "onnx", quantise="int8")
    sizes = {name: (tmp_path / name / GRAPH).stat().st_size for name in ("whole", "small")}
    assert sizes["small"] < 0.3 * sizes["whole"]
    small = Graph(tmp_path / "small")
    assert small.about.quantised == "int8"
    assert {path.name for path in small.folder.iterdir()} == {
        path.name for path in (tmp_path / "whole").iterdir()
    }
    batch = {name: value.numpy() for name, value in inputs(made.base).items()}
    batch["token_type_ids"] = np.zeros_like(batch["input_ids"])
    ours, theirs = lab.answer(made.base, made.expert).numpy(), small.ask(batch)[0]
    apart = np.abs(theirs - ours).max()
    assert 0 < apart < 0.2 * np.abs(ours).max()


@pytest.mark.parametrize(
    ("kind", "how", "message"),
    [
        ("causal_lm", {}, "continues texts, which takes a cache .* export it to merged"),
        ("token_classification", {"quantise": "int4"}, "quantise 'int4': expected int8"),
        ("token_classification", {"rank": 2}, "rank: only an export to peft has one"),
        ("token_classification", {"to": "peft", "quantise": "int8"}, "quantise: only .* onnx"),
        ("token_classification", {"to": "onxx"}, "no form named 'onxx'. Did you mean 'onnx'"),
    ],
)
def test_what_a_graph_cannot_hold_is_refused(
    tmp_path: Path, run_folder: Callable[..., Any], kind: str, how: dict[str, Any], message: str
) -> None:
    _, run = run_folder("llama" if kind == "causal_lm" else "bert", kind)
    with pytest.raises(ValueError, match=message):
        export(run, tmp_path / "out", **{"to": "onnx"} | how)
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_said_before_any_work(
    tmp_path: Path, run_folder: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, run = run_folder("bert", "token_classification")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ValueError, match=r"takes onnxscript, not installed .*'weft\[onnx\]'"):
        export(run, tmp_path / "out", "onnx")
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="out exists"):
        export(run, tmp_path / "out", "onnx")


def test_forms_are_the_files_of_their_folder() -> None:
    assert names() == ["merged", "onnx", "peft", "sentence-transformers"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wnut17", "squad", "swag", "stsb", "stsb_embedding"])
def test_real_rows_are_answered_alike(name: str, shared_data: Path, tmp_path: Path) -> None:
    import weft
    from weft.answering.evaluation import rows_of
    from weft.answering.inference import outputs, padding_id
    from weft.model.batching import Item

    folder = shared_data / name.removesuffix("_embedding")
    task = {"name": name, "data": str(folder), "max_examples": {"train": 16, "validation": 24}}
    settings = {
        "base": "minilm",
        "task": task,
        "recipe": {"name": "lora", "targets": ["all-linear"]},
        "training": {"max_steps": 2, "batch_size": 8, "learning_rate": 1e-3},
        "device": "cpu",
    }
    run: RunFolder = weft.train(settings, out=tmp_path / "run")
    graph = Graph(weft.export(run.path, tmp_path / "out", "onnx"))
    loaded = load_run_model(run.path, device="cpu")
    _, records = rows_of(loaded.run, loaded.card, loaded.model.base, "validation")
    items = [Item(loaded.name, loaded.task.spec.kind, loaded.members, own) for own in records]
    raw = outputs(loaded.model, items, pad_id=padding_id(loaded.model.base), device="cpu")
    for record, ours, theirs in zip(records, raw, graph.outputs(records), strict=True):
        said = theirs[0] if graph.about.along == ["row"] else theirs
        for one, other in zip(ours, said, strict=True):
            whole = one / np.linalg.norm(one) if name == "stsb_embedding" else one
            np.testing.assert_allclose(other, whole, rtol=0, atol=1e-4, err_msg=record["id"])
