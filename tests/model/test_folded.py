"""An expert folded into its base answers as it does beside it, and whatever changes is folded anew."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from weft.base.loading import load_base
from weft.config import RecipeSettings
from weft.lowrank.route import Route
from weft.methods.recipes import resolve
from weft.model.expert import Expert, build
from weft.model.folded import Folded, alone, example_inputs, is_folded
from weft.model.head import Head
from weft.model.model import Model

CASES: list[tuple[str, dict[str, Any]]] = [
    ("bert", {}),
    ("bert", {"train_also": ["norms", "query"]}),
    ("gpt2", {"name": "rslora"}),
    ("modernbert", {"name": "vera"}),
    ("llama", {"name": "pissa"}),
]


@pytest.fixture
def made(tiny_folder: Callable[[str], Path]) -> Callable[..., tuple[Model, Expert]]:
    """A function that makes a model in double precision with one expert that answers, as if trained."""

    def make(model_type: str = "bert", seed: int = 0, **recipe: Any) -> tuple[Model, Expert]:
        base = load_base(str(tiny_folder(model_type)), dtype=torch.float64)
        settings = {"name": "lora", "targets": ["all-linear"], "rank": 3} | recipe
        settings = {name: value for name, value in settings.items() if value is not None}
        head = Head("token_classification", base, 3, seed=1)
        expert = build("mine", base, resolve(RecipeSettings(**settings)), head, seed=2)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for value in expert.trained().values():
                noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
                value.add_(0.1 * noise.to(value))
        return Model(base), expert

    return make


@pytest.mark.parametrize(("model_type", "recipe"), CASES)
def test_an_expert_alone_answers_as_beside_others(
    made: Callable[..., Any], model_type: str, recipe: dict[str, Any]
) -> None:
    model, expert = made(model_type, **recipe)
    before = {name: value.clone() for name, value in model.base.trunk.state_dict().items()}
    model.add(expert)
    held, route = model.snapshot, Route.everywhere("mine")
    own = example_inputs((3, 9), 90, types=False)
    with torch.inference_mode():
        wanted = held.states(own, route)
        folded = alone(held, "mine")
        assert folded is not None
        found = folded.states(own, route)
        (logits,) = Folded(model, "mine")(**own)
        answer = held.head("mine")(wanted, own["attention_mask"], (1, 1, 1))
    mask = own["attention_mask"].unsqueeze(-1)
    # Double precision, two layers: a sum in another order moves the last digits alone.
    torch.testing.assert_close(found * mask, wanted * mask, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(logits * mask, answer * mask, rtol=1e-10, atol=1e-10)
    for name, value in model.base.trunk.state_dict().items():
        assert torch.equal(value, before[name])


def test_what_is_not_changed_is_the_bases_own(made: Callable[..., Any]) -> None:
    model, expert = made(targets=["query"])
    model.add(expert)
    folded = alone(model.snapshot, "mine")
    assert folded is not None
    shared = {value.data_ptr() for value in model.base.trunk.parameters()}
    own = [n for n, v in folded.trunk.named_parameters() if v.data_ptr() not in shared]
    assert sorted(own) == [f"encoder.layer.{at}.attention.self.query.weight" for at in (0, 1)]


def test_another_expert_of_the_name_is_folded_anew(made: Callable[..., Any]) -> None:
    model, expert = made(seed=0)
    _, other = made(seed=1)
    model.add(expert)
    first = model.snapshot
    before = alone(first, "mine")
    assert before is alone(model.snapshot, "mine")
    model.replace(other)
    assert not is_folded(model.snapshot, "mine")
    after = alone(model.snapshot, "mine")
    assert is_folded(model.snapshot, "mine")
    own = example_inputs((2, 5), 90, types=False)
    assert before is not None
    assert after is not None
    with torch.inference_mode():
        one, two = (held.states(own, Route.everywhere("mine")) for held in (after, model.snapshot))
        old = before.states(own, Route.everywhere("mine"))
    torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(one, old)


def test_what_still_learns_or_has_no_factors_is_left_as_it_is(made: Callable[..., Any]) -> None:
    model, expert = made()
    model.add(expert, trainable=True)
    assert alone(model.snapshot, "mine") is None
    for recipe in ({"name": "head", "targets": None, "rank": None}, {"name": "dora"}):
        model, expert = made(**recipe)
        model.add(expert)
        assert alone(model.snapshot, "mine") is None
