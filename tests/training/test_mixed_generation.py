"""A mixture writes the same text with and without its cache, and reads no token twice."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from tests.training.mixed import exact, ingredients, mixed, model_of
from weft.answering.generation import Generation, generate, prompt_ids
from weft.lowrank.route import Route
from weft.model.mixed import layers_of
from weft.model.mixing import MIX
from weft.model.model import Model

PROMPTS = ["the good dog", "a", "she said that he went to the city", "one new"]
WRITERS = [
    ("xlora", {}),
    ("xlora", {"scaling_value": 0.5, "layerwise": True, "top_k": 2}),
    ("early_pass", {"layerwise": True}),
    ("single_pass", {"reader": "embedding"}),
    ("single_pass", {"reader": "layer"}),
    ("single_pass", {"reader": "local"}),
    ("switch", {}),
]
NEW = 8


@pytest.fixture(params=["gpt2", "llama"])
def make(
    request: pytest.FixtureRequest, tiny_folder: Callable[[str], Path]
) -> Callable[..., Model]:
    """`make(name, **settings)`: a mixture with a writer on a decoder in double precision."""

    def build(name: str, **settings: Any) -> Model:
        base = exact(tiny_folder(request.param))
        owners = ingredients(base, ["topic", "go_on", "tags"], targets="all-linear")
        return model_of(base, owners, mixed(base, owners, name, **settings))

    return build


def argmax_by_hand(model: Model, *members: str) -> list[list[int]]:
    """One token at a time, the whole text anew each time, no padding, no cache."""
    head, written = model.expert("go_on").head, []
    assert head is not None
    route = Route.everywhere(*members).owned(["go_on"])
    for prompt in PROMPTS:
        ids = prompt_ids(model.base, prompt, Generation(max_new_tokens=NEW), "prompt")
        start = len(ids)
        while len(ids) < start + NEW and ids[-1] != model.base.tokenizer.eos_token_id:
            row = torch.tensor([ids])
            mask = torch.ones_like(row)
            with torch.inference_mode():
                hidden = model.states({"input_ids": row, "attention_mask": mask}, route)
                ids.append(int(head(hidden, mask, [1])[0, -1].argmax()))
        written.append(ids[start:])
    return written


def tokens(model: Model, *members: str, cache: bool) -> list[list[int]]:
    settings = Generation(max_new_tokens=NEW, cache=cache)
    found = generate(
        model, "go_on", PROMPTS, settings, members=members, device="cpu", precision="fp64"
    )
    return [list(one.tokens) for one in found]


@pytest.mark.parametrize(("name", "settings"), WRITERS)
def test_the_cache_changes_no_token(
    name: str, settings: dict[str, Any], make: Callable[..., Model]
) -> None:
    model = make(name, **settings)
    wanted = argmax_by_hand(model, MIX)
    assert tokens(model, MIX, cache=True) == wanted
    assert tokens(model, MIX, cache=False) == wanted
    alone = argmax_by_hand(model, "go_on")
    # A text that the mixture does not change would prove nothing; a switch is the expert itself.
    assert (wanted == alone) == (name == "switch")


@pytest.mark.parametrize(("name", "settings"), WRITERS)
def test_new_tokens_alone_reach_the_layers(
    name: str, settings: dict[str, Any], make: Callable[..., Model]
) -> None:
    model = make(name, **settings)
    widths: list[int] = []

    def look(module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        state = args[0] if args else kwargs["hidden_states"]
        widths.append(state.shape[1])

    layers_of(model.snapshot.trunk)[0].register_forward_pre_hook(look, with_kwargs=True)
    longest = max(
        len(prompt_ids(model.base, text, Generation(max_new_tokens=NEW), "")) for text in PROMPTS
    )
    passes = 2 if name in ("xlora", "early_pass") else 1
    written = max(map(len, tokens(model, MIX, cache=True)))
    assert widths == [longest] * passes + [1] * passes * (written - 1)
    widths.clear()
    tokens(model, MIX, cache=False)
    assert widths == [longest + at for at in range(written) for _ in range(passes)]


def test_one_generation_leaves_nothing_to_the_next(make: Callable[..., Model]) -> None:
    model = make("xlora")
    first = tokens(model, MIX, cache=True)
    assert tokens(model, "go_on", cache=True) == argmax_by_hand(model, "go_on")
    assert tokens(model, MIX, cache=True) == first


def test_keys_and_values_of_two_passes_need_a_place(make: Callable[..., Model]) -> None:
    model = make("xlora")
    held = model.snapshot
    with (
        torch.inference_mode(),
        held.routed(Route.everywhere(MIX)),
        pytest.raises(ValueError, match=r"cached outside of `caching\(\)`"),
    ):
        held.trunk(
            input_ids=torch.tensor([[5, 6]]),
            attention_mask=torch.ones(1, 2, dtype=torch.long),
            past_key_values=DynamicCache(config=held.trunk.config),
            use_cache=True,
        )
    # The call that was refused has been left as it was entered.
    assert tokens(model, MIX, cache=True) == argmax_by_hand(model, MIX)
