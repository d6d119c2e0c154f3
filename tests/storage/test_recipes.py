"""Every recipe's expert is saved whole, opens in PEFT with the same answers, or says why not."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch.utils._python_dispatch import TorchDispatchMode

from weft.lowrank.attach import frozen_linear
from weft.lowrank.route import Route
from weft.methods.recipes import recipe_file, recipes, settings_types
from weft.model.factoring import approximated
from weft.model.model import Model
from weft.storage.experts import load_expert, save_expert

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning"),
]
WOVEN = [name for name in recipes.names() if recipe_file(name).trains == "adapters"]


def made_by(lab: Any, name: str, model_type: str, **settings: Any) -> Any:
    """An expert of a recipe as if trained."""
    known = {field for kind in settings_types(recipe_file(name)) for field in kind.model_fields}
    own = {"name": name, "targets": ["query", "ffn_in"], "rank": 4} | settings
    if "alpha" in known:
        own |= {"alpha": 6}
    return lab.make(
        model_type, "token_classification", dtype=torch.float64, **({"alpha": None} | own)
    )


@pytest.mark.parametrize("model_type", ["bert", "gpt2"])
@pytest.mark.parametrize("name", WOVEN)
def test_it_is_saved_whole_and_peft_answers_the_same(
    name: str, model_type: str, lab: Any, tmp_path: Path
) -> None:
    made = made_by(lab, name, model_type)
    before = dict(made.expert.trained())
    ours = lab.answer(made.base, made.expert)
    save_expert(made.expert, made.card, made.base, tmp_path / "e")
    found, card = load_expert(tmp_path / "e", made.base)
    assert card.recipe["name"] == name
    after = found.trained()
    assert before.keys() == after.keys()
    assert [n for n in before if not torch.equal(before[n], after[n])] == []
    torch.testing.assert_close(lab.answer(made.base, found), ours, rtol=0, atol=1e-12)
    model = lab.task_class(made.folder, made.kind, len(made.card.labels), dtype=torch.float64)
    model.set_attn_implementation("sdpa")
    opened = PeftModel.from_pretrained(model, tmp_path / "e", autocast_adapter_dtype=False)
    theirs = lab.transformers_answer(opened, made.base, made.kind)
    torch.testing.assert_close(theirs, ours, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", WOVEN)
def test_merged_pooled_and_in_training_form_it_answers_the_same(name: str, lab: Any) -> None:
    made = made_by(lab, name, "bert")
    model = Model(made.base).eval()
    ids = torch.arange(5, 26).view(3, 7)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    route = Route.by_sequence(["mine", None, "mine"])
    found = []
    with torch.no_grad():
        bare = model.states(inputs, None)
        for trainable in (True, False):
            model.add(made.expert, trainable=trainable)
            found.append(model.states(inputs, route))
            merged = model.merged("mine")(**inputs).last_hidden_state
            model.remove("mine")
    for states in found:
        torch.testing.assert_close(states[[0, 2]], merged[[0, 2]], rtol=0, atol=1e-10)
        assert torch.equal(states[1], bare[1])
    assert not torch.allclose(found[0][0], bare[0])


@pytest.mark.parametrize("name", WOVEN)
def test_the_nearest_lora_of_a_rank_says_how_far_it_is(name: str, lab: Any) -> None:
    made = made_by(lab, name, "bert")
    trunk = made.base.trunk
    for rank in (2, 32):
        near, error = approximated(made.expert, trunk, rank)
        missed = whole = 0.0
        for module, adapter in made.expert.adapters.items():
            weight = frozen_linear(trunk, module).weight
            with torch.no_grad():
                true = adapter.delta(weight)
                missed += (near.adapters[module].delta(weight) - true).square().sum().item()
            whole += true.square().sum().item()
        assert error == pytest.approx((missed / whole) ** 0.5, abs=1e-12)
        assert (error < 1e-12) == (rank == 32)


class Decompositions(TorchDispatchMode):
    """Counts the decompositions that run on real numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        if ("svd" in name or "qr" in name or "eigh" in name) and args[0].device.type != "meta":
            self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["pissa", "olora", "lora_xs", "tinylora", "kasa"])
def test_what_decomposed_a_weight_to_start_is_loaded_without(
    name: str, lab: Any, tmp_path: Path
) -> None:
    with Decompositions() as starting:
        made = made_by(lab, name, "bert")
    assert starting.count > 0
    save_expert(made.expert, made.card, made.base, tmp_path / "e")
    with Decompositions() as loading:
        load_expert(tmp_path / "e", made.base)
    assert loading.count == 0
