"""Which units a base has, and how many of its heads its config can do without."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoTokenizer

from tests.pruning.places import heads
from tests.pruning.runs import ids
from weft.base.loading import load_base
from weft.pruning.prune import prune
from weft.pruning.record import read_pruning
from weft.pruning.units import counts_kept, notes_on
from weft.storage.tensors import linear_shapes

Folder = Callable[[str], Path]


def test_heads_go_where_a_config_can_say_so_and_stay_where_not(half: Folder) -> None:
    llama = load_base(str(half("llama")))
    config = llama.config
    sizes = (config.num_attention_heads, config.num_key_value_heads, config.head_dim)
    assert sizes == (2, 1, 8)
    assert linear_shapes(llama.trunk)["layers.0.self_attn.q_proj"] == (16, 32)
    assert read_pruning(half("llama")).notes == []
    bert = load_base(str(half("bert")))
    assert bert.config.num_attention_heads == 4
    (note,) = read_pruning(half("bert")).notes
    assert note.startswith("all attention heads are kept: a bert config takes hidden size / heads")


def test_a_llama_keeps_as_many_heads_as_its_config_allows() -> None:
    config = transformers.LlamaConfig(hidden_size=32, num_attention_heads=8, num_key_value_heads=8)
    units = {"neurons": 64, "heads": 8}
    # 8 - 3 = 5 heads do not divide 32, nor do 6 or 7.
    assert counts_kept(config, units, 0.4) == {"neurons": 38, "heads": 8}
    (note,) = notes_on(config, units, 0.4)
    assert note.startswith("8 of 8 groups of attention heads are kept, not 5")
    assert counts_kept(config, units, 0.75) == {"neurons": 16, "heads": 2}
    assert counts_kept(config, units, 0.99) == {"neurons": 1, "heads": 1}
    mistral = transformers.MistralConfig(
        hidden_size=32, num_attention_heads=8, num_key_value_heads=8
    )
    assert counts_kept(mistral, units, 0.4) == {"neurons": 38, "heads": 5}


@pytest.mark.parametrize("model_type", ["mistral", "qwen2", "qwen3"])
def test_the_llama_family_loses_heads_with_their_norms_and_biases(
    model_type: str, tiny_folder: Folder, tmp_path: Path
) -> None:
    config = transformers.AutoConfig.for_model(
        model_type,
        vocab_size=400,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        head_dim=8,
    )
    transformers.AutoModel.from_config(config).save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(tiny_folder("llama")).save_pretrained(tmp_path / "base")
    prune(str(tmp_path / "base"), tmp_path / "p", kind="structured", ratio=0.5)
    full, small = (load_base(str(tmp_path / one)).trunk.state_dict() for one in ("base", "p"))
    (unit,) = read_pruning(tmp_path / "p").kept["heads"][0]
    for module, (rows, columns) in heads(0, [unit]).items():
        assert torch.equal(small[f"{module}.weight"], full[f"{module}.weight"][rows][:, columns])
        if f"{module}.bias" in full:
            assert torch.equal(small[f"{module}.bias"], full[f"{module}.bias"][rows])
    assert load_base(str(tmp_path / "p")).trunk(ids()).last_hidden_state.shape == (4, 7, 32)
