"""Embeddings and language-model head trained beside adapters: saved, reloaded, opened by PEFT, merged."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import weft
from weft.base.loading import load_base
from weft.storage.experts import load_expert

TEXTS = ["the city of the king", "a river and a house", "men and women of paris", "she made a book"]
ROWS = [{"text": text} for text in TEXTS]


def settings(base: Path, **values: Any) -> dict[str, Any]:
    return {
        "base": str(base),
        "task": {"name": "texts", "spec": {"kind": "causal_lm", "max_length": 64}},
        "recipe": {"name": "lora", "rank": 2, "train_also": ["embeddings", "lm_head"]},
        "training": {"max_steps": 4, "batch_size": 2, "learning_rate": 1e-2},
        "device": "cpu",
    } | values


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_embeddings_and_head_are_trained_saved_and_opened_by_peft(
    model_type: str, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tiny_folder(model_type)
    run = weft.train(
        settings(folder), data={"train": ROWS, "validation": ROWS}, out=tmp_path / "run"
    )
    stored = load_file(run.expert / "adapter_model.safetensors")
    base = load_base(str(folder))
    inputs = base.trunk.get_input_embeddings().weight
    model = AutoModelForCausalLM.from_pretrained(folder)
    tied = model.config.tie_word_embeddings
    assert tied == (model_type == "gpt2")
    assert torch.equal(model.get_input_embeddings().weight, inputs)
    head = stored["base_model.model.lm_head.weight"]
    (trained,) = (
        v for name, v in stored.items() if name.endswith(("embed_tokens.weight", "wte.weight"))
    )
    assert not torch.equal(head, model.get_output_embeddings().weight)
    assert not torch.equal(trained, inputs)
    # Parted, where they were one.
    assert not torch.equal(head, trained)
    expert, card = load_expert(run.expert, base)
    assert expert.head is not None
    assert torch.equal(expert.head.state()["lm_head.weight"], head)
    assert "embeddings" not in card.train_also
    assert len(card.train_also) == len(expert.copies) >= 1
    weft.export(run.path, tmp_path / "merged", "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    assert not merged.config.tie_word_embeddings
    with warnings.catch_warnings():
        # PEFT remarks on tied weights, which are parted here as it parts them.
        warnings.simplefilter("ignore")
        opened = PeftModel.from_pretrained(model, run.expert).eval()
    ids = base.tokenizer(TEXTS[0], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        torch.testing.assert_close(
            merged(input_ids=ids).logits, opened(input_ids=ids).logits, rtol=1e-5, atol=1e-5
        )
    loaded = weft.evaluate(run.path, data=ROWS, save=False)
    assert not isinstance(loaded, list)
    with torch.no_grad():
        loss = merged(input_ids=ids, labels=ids).loss
    first = loaded.predictions[0]
    assert first["nll"] / first["tokens"] == pytest.approx(float(loss), rel=1e-5)


def test_a_head_that_is_trained_anyway_is_refused(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    spec = {"kind": "sequence_classification", "labels": ["a", "b"]}
    rows = [{"text": "the city", "label": "a"}, {"text": "a king", "label": "b"}]
    own = settings(tiny_folder("llama"), task={"name": "topic", "spec": spec})
    with pytest.raises(
        ValueError, match=r"train_also: lm_head is what comes with the base.*leave it out"
    ):
        weft.train(own, data={"train": rows, "validation": rows}, out=tmp_path / "run")


def test_a_head_is_no_part_of_an_expert_that_tasks_share(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    spec = {"kind": "causal_lm", "max_length": 64}
    own = settings(tiny_folder("llama"), experts="shared")
    del own["task"]
    own["tasks"] = [{"name": name, "spec": spec} for name in ("one", "two")]
    data = {name: {"train": ROWS, "validation": ROWS} for name in ("one", "two")}
    with pytest.raises(ValueError, match=r"train_also: lm_head belongs to one task"):
        weft.train(own, data=data, out=tmp_path / "run")
