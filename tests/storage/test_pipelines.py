"""Transformers opens an expert's folder with its own classes and pipelines, and is told nothing else.

The oracle is weft's prediction for the same text, and transformers' class on the expert's merged checkpoint.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoTokenizer, pipeline

from weft.model.heads import kind_of
from weft.model.model import Model
from weft.storage.dense import write_checkpoint
from weft.storage.experts import save_expert

pytestmark = [
    # PEFT itself asks for a property that transformers has renamed.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning"),
]

KINDS = [
    ("bert", "sequence_classification", ("red", "green", "blue")),
    ("modernbert", "sequence_classification", ("red", "green", "blue")),
    ("distilbert", "token_classification", ("O", "B-a", "I-a", "B-b")),
    ("roberta", "span_extraction", ()),
    ("roberta", "masked_lm", ()),
    ("gpt2", "causal_lm", ()),
    ("llama", "causal_lm", ()),
    ("llama", "token_classification", ("O", "B-a", "I-a", "B-b")),
    ("bert", "multiple_choice", ()),
    ("bert", "embedding", ()),
    ("gpt2", "embedding", ()),
]


@pytest.fixture
def folders(lab: Any, tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """A function that writes an expert's folder, and the same expert merged into a whole checkpoint."""

    def write(model_type: str, kind: str, labels: tuple[str, ...]) -> tuple[Path, Path]:
        made = lab.make(model_type, kind, labels=labels)
        save_expert(made.expert, made.card, made.base, tmp_path / "expert")
        model = Model(made.base)
        model.add(made.expert)
        (tmp_path / "merged").mkdir()
        write_checkpoint(
            tmp_path / "merged",
            head=made.expert.head,
            trunk=model.merged("mine"),
            base=made.base,
            labels=labels,
        )
        return tmp_path / "expert", tmp_path / "merged"

    return write


@pytest.mark.parametrize(("model_type", "kind", "labels"), KINDS)
def test_the_auto_class_of_every_kind_opens_the_folder(
    lab: Any, folders: Callable[..., Any], model_type: str, kind: str, labels: tuple[str, ...]
) -> None:
    expert, merged = folders(model_type, kind, labels)
    auto = getattr(transformers, kind_of(kind).auto)
    base = lab.make(model_type, kind, labels=labels).base
    opened = auto.from_pretrained(expert)
    theirs = lab.transformers_answer(opened, base, kind)
    torch.testing.assert_close(
        theirs,
        lab.transformers_answer(auto.from_pretrained(merged), base, kind),
        rtol=1e-4,
        atol=1e-5,
    )
    assert theirs.abs().max() > 0.01
    if labels:
        assert opened.config.id2label == dict(enumerate(labels))
        assert opened.config.label2id == {label: at for at, label in enumerate(labels)}
    tokenizer = AutoTokenizer.from_pretrained(expert)
    assert tokenizer("the cat sat")["input_ids"] == base.tokenizer("the cat sat")["input_ids"]


def answers(task: str, folder: Path) -> Any:
    """What a pipeline of transformers says of one text, its device and length settings at their defaults."""
    text = "the cat <mask> on the mat ." if task == "fill-mask" else "the cat sat on the mat ."
    more: dict[str, Any] = {
        "text-generation": {"max_new_tokens": 5, "do_sample": False},
        "text-classification": {"top_k": None},
    }.get(task, {})
    made = pipeline(task, model=str(folder), device="cpu")
    return made(text, **more)


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return (
        pytest.approx(float(value), abs=1e-4) if isinstance(value, float | np.floating) else value
    )


@pytest.mark.parametrize(
    ("task", "model_type", "kind", "labels"),
    [
        ("text-classification", "bert", "sequence_classification", ("red", "green", "blue")),
        ("token-classification", "distilbert", "token_classification", ("O", "B-a", "I-a", "B-b")),
        ("fill-mask", "roberta", "masked_lm", ()),
        ("text-generation", "gpt2", "causal_lm", ()),
        ("text-generation", "llama", "causal_lm", ()),
    ],
)
def test_the_pipeline_of_a_kind_answers_as_with_the_merged_checkpoint(
    folders: Callable[..., Any], task: str, model_type: str, kind: str, labels: tuple[str, ...]
) -> None:
    expert, merged = folders(model_type, kind, labels)
    found = answers(task, expert)
    assert found == rounded(answers(task, merged))
    if labels:
        said = {row.get("label", row.get("entity")) for row in found}
        assert said
        assert said <= set(labels)


def test_a_folder_without_these_files_is_still_an_adapter_of_its_base(
    lab: Any, folders: Callable[..., Any], tmp_path: Path
) -> None:
    expert, merged = folders("bert", "sequence_classification", ("no", "yes"))
    for path in (expert / "config.json", expert / "model.safetensors.index.json"):
        path.unlink()
    auto = transformers.AutoModelForSequenceClassification
    base = lab.make("bert").base
    theirs = [
        lab.transformers_answer(auto.from_pretrained(f), base, "sequence_classification")
        for f in (expert, merged)
    ]
    torch.testing.assert_close(*theirs, rtol=1e-4, atol=1e-5)


def test_the_base_s_weights_are_named_and_not_copied(
    lab: Any, folders: Callable[..., Any], tmp_path: Path
) -> None:
    expert, _ = folders("bert", "sequence_classification", ("no", "yes"))
    said = json.loads((expert / "model.safetensors.index.json").read_text())["weight_map"]
    assert {Path(place).parent for place in said.values()} == {lab.tiny_folder("bert").absolute()}
    assert not (expert / "model.safetensors").exists()
    # A moved folder stays what it is.
    shutil.move(expert, tmp_path / "moved")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "moved")
    assert model.config.id2label == {0: "no", 1: "yes"}
