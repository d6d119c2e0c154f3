"""Which module a pattern of a PEFT config means, and what scale it gives: as PEFT has it on a model of its own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear
from torch import nn

from weft.lowrank.peft.reading import read_peft


def net() -> nn.Module:
    """Maps whose names begin, end and hold one another's."""

    def block() -> nn.Module:
        maps = {name: nn.Linear(6, 5) for name in ("query", "myquery", "query2")}
        return nn.ModuleDict({**maps, "self": nn.ModuleDict({"query": nn.Linear(5, 6)})})

    return nn.ModuleDict({"layer": nn.ModuleList([block(), block()]), "query": nn.Linear(4, 6)})


# A key that means nothing is PEFT's to warn of; both sides must agree that it means nothing.
@pytest.mark.filterwarnings("ignore:The following .*_pattern keys did not match")
@pytest.mark.parametrize("is_stabilised", [False, True])
@pytest.mark.parametrize(
    "pattern",
    [
        {"query": 3},
        {"uery": 3},
        {"quer": 3},
        {"self.query": 3},
        {"selfXquery": 3},
        {r"layer\.1\..*": 3, "query": 5},
        {"layer.1.query": 3, "query2": 5},
        {"^query": 3},
        {"^layer.0.myquery": 3, "^self.query": 5},
        {"query|myquery": 3},
        {r"layer\.\d": 3, r"0\.query": 5},
        {r"query$": 3},
    ],
)
def test_ranks_and_alphas_by_pattern_are_those_of_peft(
    tmp_path: Path, pattern: dict[str, int], is_stabilised: bool
) -> None:
    model, plain = net(), net()
    shapes = {
        name: (module.out_features, module.in_features)
        for name, module in plain.named_modules()
        if isinstance(module, nn.Linear)
    }
    settings: dict[str, Any] = {
        "rank_pattern": pattern,
        "alpha_pattern": {key: 10.0 + value for key, value in pattern.items()},
    }
    config = LoraConfig(
        r=2,
        lora_alpha=7,
        target_modules=["query", "myquery", "query2"],
        use_rslora=is_stabilised,
        init_lora_weights=False,
        **settings,
    )
    peft = get_peft_model(model, config)  # type: ignore[arg-type]
    peft.save_pretrained(str(tmp_path))
    found = read_peft(tmp_path, shapes)
    theirs = {
        name.removeprefix("base_model.model."): module
        for name, module in peft.named_modules()
        if isinstance(module, Linear)
    }
    assert found.factors.keys() == theirs.keys() == shapes.keys()
    for name, (A, B) in found.factors.items():
        ours = found.alphas[name] / A.shape[0] * (B @ A)
        # The scale is computed in double precision on both sides and rounded once or twice.
        torch.testing.assert_close(ours, theirs[name].get_delta_weight("default"))
