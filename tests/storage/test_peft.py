"""PEFT opens what weft writes and gives weft's answers."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModel, AutoTokenizer

from weft.lowrank.peft.writing import CONFIG
from weft.model.heads import heads, kind_of
from weft.storage.experts import load_expert, save_expert

pytestmark = [
    # PEFT itself asks for a property that transformers has renamed,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    # and remarks on merging where a trained module is tied to another.
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning"),
]

MODEL_TYPES = ("bert", "distilbert", "roberta", "modernbert", "gpt2", "llama")
CASES = [
    (model_type, kind)
    for model_type in MODEL_TYPES
    for kind in heads.names()
    if kind_of(kind).fits(AutoConfig.for_model(model_type))
    # What reads files is tried in `tests/training/test_transcription.py`.
    and kind != "transcription"
    # transformers calls the trunk of this one class by another name than the checkpoint, and so
    # loads none of it: there is nothing to compare with.
    and (model_type, kind) != ("llama", "span_extraction")
]


def opened_by_peft(lab: Any, made: Any, folder: Path) -> torch.Tensor:
    """The answers of an expert's folder on its base, both loaded as PEFT's users do."""
    model = lab.task_class(
        made.folder, made.kind, len(made.card.labels), dtype=made.base.trunk.dtype
    )
    if made.base.trunk.dtype == torch.float64:
        model.set_attn_implementation("sdpa")
    opened = PeftModel.from_pretrained(model, folder, autocast_adapter_dtype=False)
    return lab.transformers_answer(opened, made.base, made.kind)


@pytest.mark.parametrize(("model_type", "kind"), CASES)
def test_peft_answers_as_weft_does(lab: Any, tmp_path: Path, model_type: str, kind: str) -> None:
    made = lab.make(model_type, kind)
    ours = lab.answer(made.base, made.expert)
    save_expert(made.expert, made.card, made.base, tmp_path / "e")
    torch.testing.assert_close(
        opened_by_peft(lab, made, tmp_path / "e"), ours, rtol=1e-5, atol=1e-5
    )
    assert ours.abs().max() > 0.05
    reloaded, _ = load_expert(tmp_path / "e", made.base)
    assert torch.equal(lab.answer(made.base, reloaded), ours)


@pytest.mark.parametrize(
    ("model_type", "kind"),
    [
        ("bert", "multiple_choice"),
        ("roberta", "sequence_classification"),
        ("modernbert", "token_classification"),
        ("gpt2", "causal_lm"),
    ],
)
@pytest.mark.parametrize(
    "recipe",
    [
        {"name": "rslora"},
        {"ranks": {"query": 5, "ffn_out": 1}},
        {"name": "rslora", "ranks": {"query": 5}, "layers": [1]},
        {"train_also": ["norms"]},
        {"train_also": ["embeddings"], "targets": ["query"]},
    ],
)
def test_peft_answers_as_weft_does_in_double_precision(
    lab: Any, tmp_path: Path, model_type: str, kind: str, recipe: dict[str, Any]
) -> None:
    made = lab.make(model_type, kind, dtype=torch.float64, **recipe)
    ours = lab.answer(made.base, made.expert)
    save_expert(made.expert, made.card, made.base, tmp_path / "e")
    theirs = opened_by_peft(lab, made, tmp_path / "e")
    torch.testing.assert_close(theirs, ours, rtol=1e-10, atol=1e-10)
    reloaded, _ = load_expert(tmp_path / "e", made.base)
    assert torch.equal(lab.answer(made.base, reloaded), ours)


def trunk_alone(lab: Any, model_type: str, folder: Path) -> Path:
    """A base's checkpoint without any pooler and head."""
    source = lab.tiny_folder(model_type)
    trunk = AutoModel.from_pretrained(source)
    state = {name: value for name, value in trunk.state_dict().items() if "pooler" not in name}
    trunk.save_pretrained(folder, state_dict=state)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("model_type", "kind", "modules"),
    [
        ("bert", "sequence_classification", ["bert.pooler.dense", "classifier"]),
        ("bert", "multiple_choice", ["bert.pooler.dense", "classifier"]),
        ("bert", "masked_lm", ["cls"]),
        ("distilbert", "masked_lm", ["vocab_layer_norm", "vocab_projector", "vocab_transform"]),
        ("roberta", "masked_lm", ["lm_head"]),
        ("modernbert", "masked_lm", ["decoder", "head"]),
        ("llama", "causal_lm", ["lm_head"]),
    ],
)
def test_what_the_checkpoint_lacks_is_trained_and_saved(
    lab: Any, tmp_path: Path, model_type: str, kind: str, modules: list[str]
) -> None:
    made = lab.make(trunk_alone(lab, model_type, tmp_path / "base"), kind)
    ours = lab.answer(made.base, made.expert)
    save_expert(made.expert, made.card, made.base, tmp_path / "e")
    assert json.loads((tmp_path / "e" / CONFIG).read_text())["modules_to_save"] == modules
    theirs = opened_by_peft(lab, made, tmp_path / "e")
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5)
    reloaded, _ = load_expert(tmp_path / "e", made.base)
    assert torch.equal(lab.answer(made.base, reloaded), ours)


def test_a_pretrained_pooler_stays_the_bases_and_is_not_saved(lab: Any, tmp_path: Path) -> None:
    made = lab.make("bert", "sequence_classification")
    before = copy.deepcopy(made.base.pooler.state_dict())
    save_expert(made.expert, made.card, made.base, tmp_path / "e")
    load_expert(tmp_path / "e", made.base)
    assert json.loads((tmp_path / "e" / CONFIG).read_text())["modules_to_save"] == ["classifier"]
    assert all(torch.equal(before[k], v) for k, v in made.base.pooler.state_dict().items())
