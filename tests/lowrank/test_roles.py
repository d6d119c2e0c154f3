"""Targets mean the maps that DESIGN names, on every architecture."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from tests.architectures import tiny_config
from weft.base.loading import load_base, skeleton
from weft.lowrank.attach import attach, frozen_linear
from weft.lowrank.pool import Factors
from weft.lowrank.roles import ROLES, adapter_parameters, layer_index, resolve, role_of, roles_of
from weft.lowrank.woven import Woven

EXPECTED = {
    "bert": {
        "query": ["encoder.layer.{}.attention.self.query"],
        "key": ["encoder.layer.{}.attention.self.key"],
        "value": ["encoder.layer.{}.attention.self.value"],
        "output": ["encoder.layer.{}.attention.output.dense"],
        "ffn_in": ["encoder.layer.{}.intermediate.dense"],
        "ffn_out": ["encoder.layer.{}.output.dense"],
    },
    "distilbert": {
        "query": ["transformer.layer.{}.attention.q_lin"],
        "key": ["transformer.layer.{}.attention.k_lin"],
        "value": ["transformer.layer.{}.attention.v_lin"],
        "output": ["transformer.layer.{}.attention.out_lin"],
        "ffn_in": ["transformer.layer.{}.ffn.lin1"],
        "ffn_out": ["transformer.layer.{}.ffn.lin2"],
    },
    "modernbert": {
        "query": ["layers.{}.attn.Wqkv"],
        "key": ["layers.{}.attn.Wqkv"],
        "value": ["layers.{}.attn.Wqkv"],
        "output": ["layers.{}.attn.Wo"],
        "ffn_in": ["layers.{}.mlp.Wi"],
        "ffn_out": ["layers.{}.mlp.Wo"],
    },
    "gpt2": {
        "query": ["h.{}.attn.c_attn"],
        "key": ["h.{}.attn.c_attn"],
        "value": ["h.{}.attn.c_attn"],
        "output": ["h.{}.attn.c_proj"],
        "ffn_in": ["h.{}.mlp.c_fc"],
        "ffn_out": ["h.{}.mlp.c_proj"],
    },
    "llama": {
        "query": ["layers.{}.self_attn.q_proj"],
        "key": ["layers.{}.self_attn.k_proj"],
        "value": ["layers.{}.self_attn.v_proj"],
        "output": ["layers.{}.self_attn.o_proj"],
        "ffn_in": ["layers.{}.mlp.gate_proj", "layers.{}.mlp.up_proj"],
        "ffn_out": ["layers.{}.mlp.down_proj"],
    },
}
for twin in ("roberta", "xlm-roberta", "camembert", "electra"):
    EXPECTED[twin] = EXPECTED["bert"]
for twin in ("mistral", "qwen2", "qwen3"):
    EXPECTED[twin] = EXPECTED["llama"]

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


def on_meta(model_type: str) -> PreTrainedModel:
    with torch.device("meta"):
        return AutoModel.from_config(AutoConfig.for_model(model_type, **SIZES))


@pytest.fixture(scope="module")
def bert() -> PreTrainedModel:
    return skeleton("minilm")


@pytest.fixture
def trunk(model_type: str, tiny_folder: Callable[[str], Path]) -> PreTrainedModel:
    return skeleton(str(tiny_folder(model_type)))


@pytest.mark.parametrize("role", ROLES)
def test_role_means_its_maps_in_every_layer(trunk: PreTrainedModel, role: str) -> None:
    patterns = EXPECTED[trunk.config.model_type][role]
    expected = [pattern.format(layer) for layer in range(2) for pattern in patterns]
    assert resolve(trunk, role) == expected


@pytest.mark.parametrize(
    "name", ["xlm-roberta", "camembert", "electra", "mistral", "qwen2", "qwen3"]
)
def test_architectures_with_the_same_names_have_the_same_roles(name: str) -> None:
    trunk = on_meta(name)
    for role, patterns in EXPECTED[name].items():
        expected = [pattern.format(layer) for layer in range(2) for pattern in patterns]
        assert resolve(trunk, role) == expected


def test_roles_together_are_all_linear_maps_of_the_layers(trunk: PreTrainedModel) -> None:
    inside = [
        name
        for name, module in trunk.named_modules()
        if isinstance(module, nn.Linear) and layer_index(name) is not None
    ]
    assert resolve(trunk, "all-linear") == inside
    assert resolve(trunk, ROLES) == inside


def test_role_of_is_the_inverse_of_resolve(trunk: PreTrainedModel) -> None:
    roles = roles_of(trunk)
    for role in ROLES:
        for name in resolve(trunk, role):
            first = next(other for other in ROLES if roles[other] == roles[role])
            assert role_of(roles, name) == first
    assert role_of(roles, "pooler.dense") is None
    assert role_of({}, "layers.0.attn.Wqkv") is None


def test_all_linear_leaves_pooler_and_outer_maps_out() -> None:
    bert = on_meta("bert")
    assert bert.pooler is not None
    assert len(resolve(bert, "all-linear")) == 12
    config = AutoConfig.for_model("electra", embedding_size=16, **SIZES)
    with torch.device("meta"):
        electra = AutoModel.from_config(config)
    assert isinstance(electra.get_submodule("embeddings_project"), nn.Linear)
    assert len(resolve(electra, "all-linear")) == 12
    assert resolve(electra, "embeddings_project") == ["embeddings_project"]


def test_targets_come_once_and_in_the_order_of_the_modules(bert: PreTrainedModel) -> None:
    expected = [
        f"encoder.layer.{layer}.attention.self.{role}"
        for layer in range(6)
        for role in ("query", "value")
    ]
    assert resolve(bert, ["value", "query", "attention.self.value", expected[0]]) == expected


def test_names_and_their_ends_match_whole_parts(bert: PreTrainedModel) -> None:
    assert resolve(bert, "encoder.layer.3.output.dense") == ["encoder.layer.3.output.dense"]
    assert resolve(bert, "3.attention.self.key") == ["encoder.layer.3.attention.self.key"]
    # As with PEFT's target_modules, an end may mean maps of several roles.
    assert len(resolve(bert, "output.dense")) == 12
    with pytest.raises(ValueError, match=r"no target named 'utput\.dense'"):
        resolve(bert, "utput.dense")


def test_expressions_match_whole_names(bert: PreTrainedModel) -> None:
    assert resolve(bert, r"re:.*\.[05]\.attention\.self\.(query|key)") == [
        f"encoder.layer.{layer}.attention.self.{role}"
        for layer in (0, 5)
        for role in ("query", "key")
    ]
    for part in ("query", "encoder"):
        with pytest.raises(ValueError, match=f"no target named 're:{part}'"):
            resolve(bert, f"re:{part}")
    with pytest.raises(ValueError, match="no regular expression"):
        resolve(bert, "re:(")


def test_layers_keep_what_is_in_them(bert: PreTrainedModel) -> None:
    assert resolve(bert, "value", layers=[4, 1]) == [
        "encoder.layer.1.attention.self.value",
        "encoder.layer.4.attention.self.value",
    ]
    for layers in ([6], [-1], []):
        with pytest.raises(ValueError, match="expected some of the layers 0 to 5"):
            resolve(bert, "value", layers=layers)
    with pytest.raises(ValueError, match=r"matches nothing in layers \[2\]"):
        resolve(bert, "encoder.layer.3.output.dense", layers=[2])


def test_a_target_without_a_match_is_refused_with_the_nearest(bert: PreTrainedModel) -> None:
    with pytest.raises(ValueError, match=r"Did you mean 'query'\?") as caught:
        resolve(bert, ["value", "qeury"])
    for known in ("all-linear", "ffn_in", "attention.self.value", "intermediate.dense"):
        assert known in str(caught.value)
    with pytest.raises(ValueError, match="no targets given"):
        resolve(bert, [])


_LATENT = ("self_attn.kv_a_proj_with_mqa", "self_attn.kv_b_proj")
FAMILIES: dict[str, tuple[str | tuple[str, ...] | None, ...]] = {
    "deberta": (
        *("attention.self.in_proj",) * 3,
        *("attention.output.dense", "intermediate.dense", "output.dense"),
    ),
    "deberta-v2": (
        *(f"attention.self.{role}_proj" for role in ("query", "key", "value")),
        *("attention.output.dense", "intermediate.dense", "output.dense"),
    ),
    "mpnet": (
        *(f"attention.attn.{letter}" for letter in "qkvo"),
        *("intermediate.dense", "output.dense"),
    ),
    "albert": (
        *(f"albert_layers.0.attention.{role}" for role in ("query", "key", "value", "dense")),
        *("albert_layers.0.ffn", "albert_layers.0.ffn_output"),
    ),
    "xlm": ("q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"),
    "opt": (*(f"self_attn.{one}_proj" for one in ("q", "k", "v", "out")), "fc1", "fc2"),
    "phi": (
        *(f"self_attn.{map_}" for map_ in ("q_proj", "k_proj", "v_proj", "dense")),
        *("mlp.fc1", "mlp.fc2"),
    ),
    "phi3": (*("self_attn.qkv_proj",) * 3, "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"),
    "gpt_neox": (
        *("attention.query_key_value",) * 3,
        *("attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    ),
    # Its feed-forward experts are one tensor for all, no linear maps.
    "mixtral": (*(f"self_attn.{one}_proj" for one in "qkvo"), None, None),
    "deepseek_v3": (
        *(("self_attn.q_a_proj", "self_attn.q_b_proj"), _LATENT, _LATENT, "self_attn.o_proj"),
        *(
            (
                "mlp.gate_proj",
                "mlp.up_proj",
                "mlp.shared_experts.gate_proj",
                "mlp.shared_experts.up_proj",
            ),
            ("mlp.down_proj", "mlp.shared_experts.down_proj"),
        ),
    ),
    # Its attention is tensors without maps, and its feed-forward maps have names that say nothing: found by shape.
    "xlnet": (None, None, None, None, "ff.layer_1", "ff.layer_2"),
    # A gated feed-forward block with both halves in one map, found by shape.
    "granitemoeshared": (
        *(f"self_attn.{one}_proj" for one in "qkvo"),
        *("shared_mlp.input_linear", "shared_mlp.output_linear"),
    ),
    "mamba": (None,) * 6,
}
_AS_LLAMA = (
    "gemma",
    "gemma2",
    "gemma3_text",
    "eurobert",
    "nomic_bert",
    "gte",
    "stablelm",
    "cohere",
)
_AS_BERT = (
    "roberta-prelayernorm",
    "megatron-bert",
    "big_bird",
    "roformer",
    "longformer",
    "rembert",
)


@pytest.mark.parametrize("name", FAMILIES)
def test_roles_are_found_in_every_family(name: str) -> None:
    expected = {
        role: (maps,) if isinstance(maps, str) else maps
        for role, maps in zip(ROLES, FAMILIES[name], strict=True)
        if maps is not None
    }
    with torch.device("meta"):
        assert roles_of(AutoModel.from_config(tiny_config(name))) == expected


@pytest.mark.parametrize(
    ("name", "twin"), [(a, "llama") for a in _AS_LLAMA] + [(a, "bert") for a in _AS_BERT]
)
def test_families_with_the_same_names_have_the_same_roles(name: str, twin: str) -> None:
    with torch.device("meta"):
        found, other = (roles_of(AutoModel.from_config(tiny_config(one))) for one in (name, twin))
    assert found == other


class Unheard(PreTrainedModel):
    """A trunk whose names nobody has seen."""

    config_class = PreTrainedConfig

    def __init__(self) -> None:
        super().__init__(PreTrainedConfig())
        block = {"widen": nn.Linear(8, 24), "narrow": nn.Linear(24, 8)}
        attention = {"everything": nn.Linear(8, 24), "back": nn.Linear(8, 8)}
        parts = {"attention": nn.ModuleDict(attention), "block": nn.ModuleDict(block)}
        self.stages = nn.ModuleList([nn.ModuleDict(parts)])


def test_maps_with_unheard_names_are_known_by_shape_and_place() -> None:
    trunk = Unheard()
    assert resolve(trunk, ["query", "ffn_out"]) == [
        "stages.0.attention.everything",
        "stages.0.block.narrow",
    ]
    assert resolve(trunk, ROLES) == resolve(trunk, "all-linear")


def test_a_role_that_no_map_plays_is_refused_with_the_maps_there_are() -> None:
    with torch.device("meta"):
        trunk = AutoModel.from_config(tiny_config("mixtral"))
    with pytest.raises(
        ValueError, match="no linear map of a mixtral layer plays the role 'ffn_in'"
    ) as told:
        resolve(trunk, ["query", "ffn_in"])
    assert "those it has: query, key, value, output" in str(told.value)
    assert "self_attn.q_proj, self_attn.k_proj" in str(told.value)


def test_a_trunk_without_linear_maps_is_refused() -> None:
    with torch.device("meta"):
        trunk = AutoModel.from_config(tiny_config("squeezebert"))
    with pytest.raises(ValueError, match="has no linear maps"):
        resolve(trunk, "all-linear")


@pytest.mark.parametrize(
    ("name", "left_out"),
    [
        ("phimoe", "mlp.router"),
        ("qwen2_moe", "mlp.shared_expert_gate"),
        ("deepseek_v32", "self_attn.indexer.wk"),
        ("mamba", "mixer.dt_proj"),
        ("luke", "attention.self.w2e_query"),
    ],
)
def test_all_linear_leaves_out_maps_that_an_adapter_would_be_lost_on(
    name: str, left_out: str
) -> None:
    with torch.device("meta"):
        trunk = AutoModel.from_config(tiny_config(name))
    assert any(place.endswith(left_out) for place, _ in trunk.named_modules())
    assert not any(place.endswith(left_out) for place in resolve(trunk, "all-linear"))


def test_wrapped_maps_keep_their_names(model_type: str, tiny_folder: Callable[[str], Path]) -> None:
    trunk = load_base(str(tiny_folder(model_type))).trunk
    plain = {target: resolve(trunk, target) for target in (*ROLES, "all-linear")}
    wrapped = copy.deepcopy(trunk)
    for name in plain["all-linear"][::2]:
        linear = frozen_linear(trunk, name)
        factors = Factors(torch.zeros(2, linear.in_features), torch.zeros(linear.out_features, 2))
        attach(wrapped, Woven({name: factors}))
    assert {target: resolve(wrapped, target) for target in plain} == plain
    assert role_of(roles_of(wrapped), f"{plain['query'][1]}.base") == "query"


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("encoder.layer.11.attention.self.query", 11),
        ("h.0", 0),
        ("0.weight", 0),
        ("embeddings.word_embeddings", None),
        ("layer2.dense", None),
    ],
)
def test_layer_index_is_the_number_in_the_name(name: str, layer: int | None) -> None:
    assert layer_index(name) == layer


@pytest.mark.parametrize(
    ("alias", "count"),
    [
        ("minilm", 73_728),
        ("distilbert", 147_456),
        ("bert-base", 294_912),
        ("roberta", 294_912),
        ("bert-large", 786_432),
    ],
)
def test_lora_on_query_and_value_has_the_published_size(alias: str, count: int) -> None:
    assert adapter_parameters(skeleton(alias), ["query", "value"], rank=8) == count


def test_adapter_parameters_count_non_square_maps(bert: PreTrainedModel) -> None:
    assert adapter_parameters(bert, "ffn_in", 4, layers=[0, 2]) == 2 * 4 * (384 + 1536)
