"""LayRA's layers: both ends by the paper's counts and their shares, as PEFT picks them; the middle untouched."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel, PreTrainedModel

from weft.config import RecipeSettings
from weft.methods.plans.layra import LayRA, LayRASettings
from weft.methods.recipes import resolve
from weft.model.expert import plan_ranks

SMALL: dict[str, Any] = {
    "hidden_size": 8,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 20,
}


def bert(layers: int) -> PreTrainedModel:
    return BertModel(BertConfig(num_hidden_layers=layers, **SMALL))


def planned(trunk: PreTrainedModel, **settings: object) -> dict[str, int]:
    recipe = resolve(
        RecipeSettings.model_validate({"name": "layra", "targets": ["query", "ffn_in"], **settings})
    )
    return plan_ranks(trunk, recipe)


def ends(layers: int, first: int, last: int) -> list[int]:
    return [*range(first), *range(layers - last, layers)]


@pytest.mark.parametrize(
    ("layers", "first", "last"),
    [(32, 10, 2), (28, 9, 2), (24, 8, 2), (12, 4, 1), (6, 2, 1), (2, 1, 1), (1, 1, 0)],
)
def test_the_ends_are_the_paper_s_share_of_any_depth(layers: int, first: int, last: int) -> None:
    names = [f"layers.{layer}.self_attn.q_proj" for layer in range(layers)]
    found = LayRA().plan({}, dict.fromkeys(names, 8))
    assert found == {
        name: 8 if layer in ends(layers, first, last) else None for layer, name in enumerate(names)
    }


def test_with_the_base_s_own_depth_the_counts_are_exact() -> None:
    names = [f"layers.{layer}.self_attn.q_proj" for layer in range(28)]
    own = LayRA(LayRASettings(first=10, last=2, depth=28))
    found = own.plan({}, dict.fromkeys(names, 8))
    assert [at for at, rank in enumerate(found.values()) if rank] == ends(28, 10, 2)
    none = LayRA(LayRASettings(first=0, last=2, depth=28)).plan({}, dict.fromkeys(names, 8))
    assert [at for at, rank in enumerate(none.values()) if rank] == [26, 27]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_the_same_maps_as_pefts_layers_to_transform(kind: str) -> None:
    """And the count of the trained numbers is that of these layers alone."""
    trunk = bert(12) if kind == "bert" else LlamaModel(LlamaConfig(num_hidden_layers=12, **SMALL))
    found = planned(trunk, rank=3, targets=["query", "value"])
    shapes = [trunk.get_submodule(name).get_parameter("weight").shape for name in found]
    ends_of = ["query", "value"] if kind == "bert" else ["q_proj", "v_proj"]
    config = LoraConfig(r=3, target_modules=ends_of, layers_to_transform=ends(12, 4, 1))
    # PEFT wants something before the layers' name.
    theirs = get_peft_model(nn.ModuleDict({"model": trunk}), config)  # type: ignore[arg-type]
    wrapped = {
        name.removeprefix("base_model.model.model.")
        for name, module in theirs.named_modules()
        if hasattr(module, "lora_A")
    }
    assert set(found) == wrapped
    assert len(found) == 2 * (4 + 1)
    trained = sum(p.numel() for p in theirs.parameters() if p.requires_grad)
    assert trained == sum(3 * sum(shape) for shape in shapes)


def test_an_encoder_and_a_decoder_have_ends_of_their_own() -> None:
    names = [f"encoder.block.{at}.layer.0.SelfAttention.q" for at in range(12)]
    names += [f"decoder.block.{at}.layer.0.SelfAttention.q" for at in range(6)]
    found = LayRA().plan({}, dict.fromkeys([*names, "pooler.dense"], 8))
    kept = {name for name, rank in found.items() if rank}
    wanted = {names[at] for at in ends(12, 4, 1)} | {names[12 + at] for at in ends(6, 2, 1)}
    assert kept == wanted | {"pooler.dense"}


def test_a_rank_by_name_is_kept_in_the_layers_that_have_one() -> None:
    found = planned(bert(6), rank=4, ranks={"query": 2})
    assert {name.rpartition(".")[2]: rank for name, rank in found.items()} == {
        "query": 2,
        "dense": 4,
    }
    # Of chosen layers, the ends among those.
    some = planned(bert(6), layers=[1, 2, 3, 4], targets=["query"])
    assert [name.split(".")[2] for name in some] == ["1", "4"]


def test_no_layer_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="first 0 and last 0 leave no layer to adapt; raise one"):
        planned(bert(2), first=0, last=0)


def test_a_plan_reads_no_weight() -> None:
    with torch.device("meta"):
        trunk = bert(6)
    assert planned(trunk).keys() == planned(bert(6)).keys()
