"""VB-LoRA's three rates: bank, logits and head, each trained number in one group."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from weft.base.loading import Base, load_base
from weft.config import RecipeSettings, load_run
from weft.methods.optimizers.vb_lora import VectorBankRates
from weft.methods.recipes import Recipe, resolve
from weft.model.expert import Expert, build
from weft.training.assembly import Session, assemble
from weft.training.settings import completed


@pytest.fixture
def bert(tiny_folder: Callable[[str], Path]) -> Base:
    return load_base(str(tiny_folder("bert")), dtype=torch.float64)


def made(base: Base, name: str = "vb_lora", **settings: object) -> tuple[Expert, Recipe]:
    recipe = resolve(RecipeSettings.model_validate({"name": name, **settings}))
    return build("x", base, recipe, None, seed=0), recipe


def test_the_bank_has_the_rate_and_logits_ten_times_it(bert: Base) -> None:
    expert, recipe = made(bert)
    groups = recipe.optimizer.param_groups(expert.adapters, 1e-3)
    names = {id(value): name for name, value in expert.trained().items()}
    found = [sorted(names[id(value)] for value in group["params"]) for group in groups]
    assert [group["lr"] for group in groups] == [1e-3, 1e-2]
    # The bank is in one group once, however many adapters refer to it.
    assert found[0] == ["shared.vectors"]
    assert found[1] == sorted(set(names.values()) - {"shared.vectors"})
    assert len(found[1]) == 2 * len(expert.adapters) == 8


def test_one_step_moves_logits_by_their_own_rate(bert: Base) -> None:
    expert, recipe = made(bert, logits_ratio=4.0)
    groups = recipe.optimizer.param_groups(expert.adapters, 0.5)
    optimizer = torch.optim.SGD(groups, lr=0.0)
    before = {name: value.detach().clone() for name, value in expert.trained().items()}
    for name, adapter in expert.adapters.items():
        weight = bert.trunk.get_submodule(name).get_parameter("weight")
        (1e4 * adapter.delta(weight).square().sum()).backward()
    optimizer.step()
    for name, value in expert.trained().items():
        assert value.grad is not None
        assert value.grad.any()
        rate = 0.5 if name == "shared.vectors" else 2.0
        torch.testing.assert_close(value, before[name] - rate * value.grad, rtol=0, atol=1e-12)


def test_adapters_without_logits_are_refused_with_the_module(bert: Base) -> None:
    for name in ("lora", "uni_lora"):
        expert, _ = made(bert, name)
        with pytest.raises(
            ValueError, match=r"optimizer vb_lora: the \w+ on \S+query has no logits over a shared"
        ):
            VectorBankRates().param_groups(expert.adapters, 1e-3)


def test_a_ratio_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"recipe vb_lora: logits_ratio: .*greater than 0, got 0"):
        resolve(RecipeSettings.model_validate({"name": "vb_lora", "logits_ratio": 0}))


def session(base: Base, folder: Path, **training: float) -> Session:
    """A run on four rows of a user's own task, ready for its first step."""
    rows = "text,label\nthe cat,animal\nthe house,thing\na dog,animal\na book,thing\n"
    for split in ("train", "validation"):
        (folder / f"{split}.csv").write_text(rows)
    task = folder / "topic.yaml"
    task.write_text("kind: sequence_classification\nformat: csv\nlabels: [animal, thing]\n")
    run = {
        "base": base.source,
        "task": {"name": str(task)},
        "recipe": "vb_lora",
        "training": {"max_steps": 2, "batch_size": 2, "weight_decay": 0.0, **training},
    }
    return assemble(completed(load_run(run)), torch.device("cpu"))


def test_training_has_three_rates_and_every_number_in_one_group(bert: Base, tmp_path: Path) -> None:
    learner = session(bert, tmp_path, head_learning_rate=0.02).learners[0]
    names = {id(value): name for name, value in learner.parameters.items()}
    rates: dict[str, float] = {}
    for group, peak in zip(learner.optimizer.param_groups, learner.peaks, strict=True):
        for value in group["params"]:
            assert names[id(value)] not in rates
            rates[names[id(value)]] = peak
    assert rates.keys() == learner.parameters.keys()
    own = learner.training.rate
    assert own is not None
    for name, rate in rates.items():
        part = name.partition("/")[2]
        wanted = {"shared": own, "_adapters": 10 * own, "head": 0.02}[part.partition(".")[0]]
        assert rate == pytest.approx(wanted)
    assert len(set(rates.values())) == 3
