"""LoRA and rsLoRA are PEFT's, given the same tensors: states and every gradient, in float64."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModel

from tests.methods.adapters.oracle import LORA, parameters_of, twins_of
from weft.base.loading import load_base
from weft.config import RecipeSettings
from weft.lowrank.route import Route
from weft.methods.recipes import resolve
from weft.model.expert import Expert, build
from weft.model.model import Model

# PEFT itself asks for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

CASES = {
    "lora": {"rank": 3, "alpha": 12.0},
    "rslora": {"rank": 3, "alpha": 5.0},
    "lora by role": {"rank": 2, "alpha": 6.0, "ranks": {"query": 4, "ffn_in": 1}},
    "rslora by role": {"rank": 2, "alpha": 6.0, "ranks": {"query": 4, "ffn_in": 1}},
}
ROLES = {
    "query": "attention.self.query",
    "value": "attention.self.value",
    "ffn_in": "intermediate.dense",
}
NEAR = {"rtol": 1e-10, "atol": 1e-10}


def ours(folder: Path, case: str) -> tuple[Model, Expert]:
    base = load_base(str(folder), dtype=torch.float64)
    settings = RecipeSettings(
        name=case.removesuffix(" by role"), targets=list(ROLES), **CASES[case]
    )
    expert = build("x", base, resolve(settings), None, seed=3)
    with torch.no_grad():
        for value in expert.trained().values():
            value.add_(0.2 * torch.randn_like(value))
    model = Model(base)
    model.add(expert, trainable=True)
    return model.eval(), expert


def theirs(folder: Path, case: str, expert: Expert) -> PeftModel:
    settings = CASES[case]
    trunk = AutoModel.from_pretrained(folder, dtype=torch.float64, attn_implementation="sdpa")
    config = LoraConfig(
        r=settings["rank"],
        lora_alpha=settings["alpha"],
        target_modules=list(ROLES.values()),
        rank_pattern={ROLES[role]: rank for role, rank in settings.get("ranks", {}).items()},
        use_rslora=case.startswith("rslora"),
    )
    model = get_peft_model(trunk, config).eval()
    twins_of(model, expert.adapters, LORA)
    return model


def gradients(states: Tensor, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    weights = torch.linspace(-1, 1, states.numel(), dtype=torch.float64).view_as(states)
    found = torch.autograd.grad((states * weights).sum(), list(values.values()))
    return dict(zip(values, found, strict=True))


@pytest.fixture
def inputs() -> dict[str, Tensor]:
    mask = torch.ones(3, 8, dtype=torch.long)
    mask[1, 5:] = 0
    return {"input_ids": torch.arange(10, 34).view(3, 8), "attention_mask": mask}


@pytest.mark.parametrize("case", CASES)
def test_states_and_gradients_equal_pefts(
    case: str, tiny_folder: Callable[[str], Path], inputs: dict[str, Tensor]
) -> None:
    torch.manual_seed(0)
    folder = tiny_folder("bert")
    model, expert = ours(folder, case)
    peft = theirs(folder, case, expert)
    own, twins = parameters_of(expert.adapters), twins_of(peft, expert.adapters, LORA)
    got = model.states(inputs, Route.everywhere("x"))
    expected = peft(**inputs).last_hidden_state
    torch.testing.assert_close(got, expected, **NEAR)
    found, wanted = gradients(got, own), gradients(expected, twins)
    assert len(found) == 2 * 3 * 2
    torch.testing.assert_close(found, wanted, **NEAR)
    # The adapters matter here: the bare base is far away.
    assert (got - model.states(inputs, None)).abs().max() > 0.1


@pytest.mark.parametrize("case", CASES)
def test_merged_weights_equal_pefts(case: str, tiny_folder: Callable[[str], Path]) -> None:
    torch.manual_seed(0)
    folder = tiny_folder("bert")
    model, expert = ours(folder, case)
    wanted = theirs(folder, case, expert).merge_and_unload().state_dict()
    for name, value in model.merged("x").state_dict().items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-12, atol=1e-12)


def test_a_mixed_batch_equals_pefts_rows(
    tiny_folder: Callable[[str], Path], inputs: dict[str, Tensor]
) -> None:
    torch.manual_seed(0)
    folder = tiny_folder("bert")
    model, first = ours(folder, "lora by role")
    settings = RecipeSettings(name="rslora", targets=list(ROLES), **CASES["rslora"])
    second = build("y", model.base, resolve(settings), None, seed=4)
    with torch.no_grad():
        for value in second.trained().values():
            value.add_(0.2 * torch.randn_like(value))
    model.add(second)
    wanted = [
        theirs(folder, "lora by role", first)(**inputs).last_hidden_state[0],
        theirs(folder, "rslora", second)(**inputs).last_hidden_state[1],
        AutoModel.from_pretrained(folder, dtype=torch.float64)(**inputs).last_hidden_state[2],
    ]
    got = model.states(inputs, Route.by_sequence(["x", "y", None]))
    torch.testing.assert_close(got, torch.stack(wanted), **NEAR)


@pytest.mark.parametrize("case", CASES)
def test_alpha_is_divided_by_each_maps_own_rank(
    case: str, tiny_folder: Callable[[str], Path]
) -> None:
    _, expert = ours(tiny_folder("bert"), case)
    settings = CASES[case]
    for name, adapter in expert.adapters.items():
        role = next(role for role, end in ROLES.items() if name.endswith(end))
        rank = settings.get("ranks", {}).get(role, settings["rank"])
        values = dict(adapter.named_parameters())
        assert values["A"].shape[0] == adapter.rank == rank
        by = math.sqrt(rank) if case.startswith("rslora") else rank
        change = settings["alpha"] / by * values["B"] @ values["A"]
        weight = torch.empty(values["B"].shape[0], values["A"].shape[1])
        torch.testing.assert_close(adapter.delta(weight), change, rtol=1e-12, atol=1e-12)
