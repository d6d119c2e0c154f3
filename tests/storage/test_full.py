"""Fully trained models are transformers checkpoints."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoTokenizer

from weft.model.expert import Expert
from weft.model.heads import heads, kind_of
from weft.model.model import Model
from weft.storage.card import CARD
from weft.storage.experts import load_expert, load_full, save_full

MODEL_TYPES = ("bert", "distilbert", "roberta", "modernbert", "gpt2", "llama")
CASES = [
    (model_type, kind)
    for model_type in MODEL_TYPES
    for kind in heads.names()
    if kind_of(kind).fits(AutoConfig.for_model(model_type))
    # What reads files is tried in `tests/training/test_transcription.py`.
    and kind != "transcription"
]


def trained(lab: Any, made: Any) -> Model:
    """A private model whose every weight has moved."""
    model = Model(made.base, private=True)
    lab.shake(model.trunk.parameters(), seed=8)
    return model


def full(lab: Any, *where: str, **settings: Any) -> Any:
    return lab.make(*where, name="full", **settings)


@pytest.mark.parametrize(("model_type", "kind"), CASES)
def test_transformers_answers_as_weft_does(
    lab: Any, tmp_path: Path, model_type: str, kind: str
) -> None:
    made = full(lab, model_type, kind)
    model = trained(lab, made)
    model.add(made.expert, trainable=True)
    frozen = lab.answer(made.base, Expert("frozen", {}, made.expert.head))
    ours = lab.answer(made.base, made.expert, model)
    save_full(model, made.expert, made.card, tmp_path / "m")
    theirs = lab.task_class(tmp_path / "m", kind)
    found = lab.transformers_answer(theirs, made.base, kind)
    torch.testing.assert_close(found, ours, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(ours, frozen, rtol=1e-2)


@pytest.mark.parametrize(
    ("model_type", "kind"), [c for c in CASES if c != ("llama", "span_extraction")]
)
def test_a_model_comes_back(lab: Any, tmp_path: Path, model_type: str, kind: str) -> None:
    made = full(lab, model_type, kind)
    model = trained(lab, made)
    model.add(made.expert, trainable=True)
    ours = lab.answer(made.base, made.expert, model)
    save_full(model, made.expert, made.card, tmp_path / "m")
    again, expert, card = load_full(tmp_path / "m")
    found = lab.answer(again.base, expert, again)
    torch.testing.assert_close(found, ours, rtol=1e-5, atol=1e-5)
    assert (card.digest, card.labels) == (made.card.digest, made.card.labels)
    assert again.base.digest != made.base.digest


def test_labels_and_tokenizer_go_along(lab: Any, tmp_path: Path) -> None:
    made = full(lab, "gpt2", labels=("no", "maybe", "yes"))
    save_full(trained(lab, made), made.expert, made.card, tmp_path / "m")
    config = AutoConfig.from_pretrained(tmp_path / "m")
    assert config.id2label == {0: "no", 1: "maybe", 2: "yes"}
    assert config.label2id == {"no": 0, "maybe": 1, "yes": 2}
    assert config.architectures == ["GPT2ForSequenceClassification"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "m")
    # GPT-2 has no padding; transformers refuses batches without it.
    assert tokenizer.pad_token == tokenizer.eos_token
    assert config.pad_token_id == tokenizer.pad_token_id
    assert tokenizer.model_max_length == 128
    assert tokenizer("good film")["input_ids"] == made.base.tokenizer("good film")["input_ids"]
    assert made.base.tokenizer.pad_token is None


def test_double_precision_is_kept(lab: Any, tmp_path: Path) -> None:
    made = full(lab, "modernbert", "token_classification", dtype=torch.float64)
    model = trained(lab, made)
    model.add(made.expert, trainable=True)
    ours = lab.answer(made.base, made.expert, model)
    save_full(model, made.expert, made.card, tmp_path / "m")
    again, expert, _ = load_full(tmp_path / "m")
    assert again.base.trunk.dtype == torch.float64
    torch.testing.assert_close(lab.answer(again.base, expert, again), ours, rtol=1e-12, atol=1e-12)


def test_a_tied_head_that_stays_behind_is_stored_apart(lab: Any, tmp_path: Path) -> None:
    made = full(lab, "gpt2", "causal_lm")
    model = Model(made.base, private=True)
    model.add(made.expert, trainable=True)
    save_full(model, made.expert, made.card, tmp_path / "together")
    assert "lm_head.weight" not in load_file(tmp_path / "together" / "model.safetensors")
    lab.shake(model.trunk.parameters())
    save_full(model, made.expert, made.card, tmp_path / "apart")
    assert "lm_head.weight" in load_file(tmp_path / "apart" / "model.safetensors")
    ties = [
        AutoConfig.from_pretrained(tmp_path / n).tie_word_embeddings for n in ("together", "apart")
    ]
    assert ties == [True, False]


def test_wrapping_of_a_shared_trunk_is_not_saved(lab: Any, tmp_path: Path) -> None:
    resident = lab.make("gpt2", train_also=["norms"])
    Model(resident.base).add(resident.expert)
    made = full(lab, "gpt2")
    plain, wrapped = trained(lab, made), Model(resident.base, private=True)
    lab.shake(wrapped.trunk.parameters(), seed=8)
    save_full(plain, made.expert, made.card, tmp_path / "plain")
    save_full(wrapped, made.expert, made.card, tmp_path / "wrapped")
    one, other = (load_file(tmp_path / n / "model.safetensors") for n in ("plain", "wrapped"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_whole_model_is_no_expert_to_weave_in(lab: Any, tmp_path: Path) -> None:
    made = full(lab)
    save_full(trained(lab, made), made.expert, made.card, tmp_path / "m")
    with pytest.raises(ValueError, match="no expert to weave in; use load_full"):
        load_expert(tmp_path / "m", made.base)
    with pytest.raises(ValueError, match="a model without a head belongs to no task class"):
        save_full(trained(lab, made), Expert("mine", {}, None), made.card, tmp_path / "n")
    (tmp_path / "m" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="has no weights"):
        load_full(tmp_path / "m")
    (tmp_path / "m" / CARD).unlink()
    with pytest.raises(ValueError, match=r"has no weft.json"):
        load_full(tmp_path / "m")
