"""Continuations: the cache changes time, never text."""

import copy
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from weft.answering.generation import Generation, generate, prompt_ids
from weft.base.loading import load_base
from weft.config import RecipeSettings
from weft.lowrank.route import Route
from weft.methods.recipes import resolve
from weft.model.expert import build
from weft.model.head import Head
from weft.model.model import Model

PROMPTS = ["the good dog", "a", "she said that he went to the city by the river and", "one new"]


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def model(request: pytest.FixtureRequest, tiny_folder: Callable[[str], Path]) -> Model:
    """Two LoRA writers on one tiny base: `writer` changes it, `other` changes it in another way."""
    base = load_base(str(tiny_folder(request.param)))
    recipe = resolve(RecipeSettings(name="lora", rank=4, targets="all-linear"))
    model = Model(base)
    for seed, name in enumerate(("writer", "other")):
        expert = build(name, base, recipe, Head("causal_lm", base, 0, seed), seed)
        with torch.no_grad():
            for number, adapter in enumerate(expert.adapters.values()):
                noise = torch.Generator().manual_seed(100 * seed + number)
                adapter.B.normal_(0.0, 0.3, generator=noise)
        model.add(expert)
    return model


def argmax_by_hand(model: Model, name: str, prompt: str, count: int) -> list[int]:
    """One token at a time, the whole text anew each time, no padding, no cache."""
    ids = prompt_ids(model.base, prompt, Generation(max_new_tokens=count), "prompt")
    head, start = model.expert(name).head, len(ids)
    with torch.no_grad():
        for _ in range(count):
            row = torch.tensor([ids])
            mask = torch.ones_like(row)
            hidden = model.states(
                {"input_ids": row, "attention_mask": mask}, Route.everywhere(name)
            )
            ids.append(int(head(hidden, mask, [1])[0, -1].argmax()))
            if ids[-1] == model.base.tokenizer.eos_token_id:
                break
    return ids[start:]


def tokens(model: Model, name: str, **settings: object) -> list[list[int]]:
    written = generate(model, name, PROMPTS, Generation.model_validate(settings), device="cpu")
    return [list(one.tokens) for one in written]


@pytest.mark.parametrize("cache", [True, False])
def test_a_padded_batch_writes_what_argmax_writes_one_token_at_a_time(
    model: Model, cache: bool
) -> None:
    expected = [argmax_by_hand(model, "writer", prompt, 12) for prompt in PROMPTS]
    assert tokens(model, "writer", max_new_tokens=12, cache=cache, batch_size=3) == expected


def test_each_expert_writes_its_own_text_and_the_base_another(model: Model) -> None:
    mine, other = (tokens(model, name, max_new_tokens=8) for name in ("writer", "other"))
    assert mine != other
    assert other == [argmax_by_hand(model, "other", prompt, 8) for prompt in PROMPTS]
    held = model.snapshot
    ids = torch.tensor([prompt_ids(model.base, PROMPTS[0], Generation(), "prompt")])
    with torch.no_grad(), held.routed(None):
        bare = held.head("writer").assembled(held.trunk)(ids).logits[0, -1]
    with torch.no_grad(), held.routed(Route.everywhere("writer")):
        woven = held.head("writer").assembled(held.trunk)(ids).logits[0, -1]
    assert not torch.allclose(bare, woven)


def test_text_is_what_the_tokens_say_behind_the_prompt(model: Model) -> None:
    [one] = generate(model, "writer", ["the good dog"], Generation(max_new_tokens=9), device="cpu")
    tokenizer = model.base.tokenizer
    ids = prompt_ids(model.base, "the good dog", Generation(), "prompt")
    whole = tokenizer.decode([*ids, *one.tokens], skip_special_tokens=True)
    assert whole == "the good dog" + one.text
    assert len(one.tokens) == 9


def test_a_stop_text_ends_a_continuation_and_is_cut_off(model: Model) -> None:
    settings = Generation(max_new_tokens=20)
    free = generate(model, "writer", PROMPTS, settings, device="cpu")
    stop = free[0].text[4:7]
    stopped = generate(
        model, "writer", PROMPTS, settings.model_copy(update={"stop": [stop]}), device="cpu"
    )
    assert [one.text for one in stopped] == [one.text.partition(stop)[0] for one in free]
    assert len(stopped[0].tokens) < len(free[0].tokens)


def test_stop_texts_of_any_place_and_length_give_the_free_text_up_to_them(model: Model) -> None:
    settings = Generation(max_new_tokens=16, sample=True, temperature=3.0, seed=5)
    free = generate(model, "writer", PROMPTS, settings, device="cpu")
    draw = random.Random(0)
    for _ in range(24):
        text = draw.choice(free).text
        start = draw.randrange(len(text))
        stops = [text[start : start + draw.randint(1, 6)], "never written"]
        if "\N{REPLACEMENT CHARACTER}" in stops[0]:
            continue  # half a character, which the next token may complete
        stopped = generate(
            model, "writer", PROMPTS, settings.model_copy(update={"stop": stops}), device="cpu"
        )
        assert [one.text for one in stopped] == [one.text.partition(stops[0])[0] for one in free]


def test_a_stop_text_that_begins_in_the_prompt_stops_nothing(model: Model) -> None:
    settings = Generation(max_new_tokens=8)
    [free] = generate(model, "writer", PROMPTS[:1], settings, device="cpu")
    stop = PROMPTS[0][-2:] + free.text[:1]
    assert stop not in free.text
    settings = settings.model_copy(update={"stop": [stop]})
    assert generate(model, "writer", PROMPTS[:1], settings, device="cpu") == [free]


def test_sampling_repeats_for_a_seed_and_leaves_torch_s_random_state_alone(model: Model) -> None:
    settings = {"max_new_tokens": 10, "sample": True, "temperature": 2.0}
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = tokens(model, "writer", **settings, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(8)
    assert tokens(model, "writer", **settings, seed=1) == first
    assert tokens(model, "writer", **settings, seed=2) != first


def test_what_another_thread_loads_does_not_change_what_is_sampled(model: Model) -> None:
    settings = {"max_new_tokens": 12, "sample": True, "temperature": 2.0, "seed": 1}
    wanted, done = tokens(model, "writer", **settings), threading.Event()

    def load() -> None:
        while not done.is_set():
            Head("causal_lm", model.base, 0, seed=5)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        assert [tokens(model, "writer", **settings) for _ in range(4)] == [wanted] * 4
    finally:
        done.set()
        thread.join()


def test_a_text_is_written_to_its_end_by_what_began_it(model: Model) -> None:
    wanted = tokens(model, "writer", max_new_tokens=12)
    first, turns, started = model.expert("writer"), [0], threading.Event()
    other = copy.deepcopy(model.expert("other"))
    other.name = "writer"

    def swap() -> None:
        started.wait()
        while not stop.is_set():
            turns[0] += 1
            model.replace((other, first)[turns[0] % 2])

    stop, kept = threading.Event(), model.snapshot
    thread = threading.Thread(target=swap)
    thread.start()
    try:
        started.set()
        for _ in range(4):
            found = generate(kept, "writer", PROMPTS, Generation(max_new_tokens=12), device="cpu")
            assert [list(one.tokens) for one in found] == wanted
        others = tokens(model, "other", max_new_tokens=12)
        either = [tokens(model, "writer", max_new_tokens=12) for _ in range(6)]
        assert all(one in (wanted, others) for one in either)
    finally:
        stop.set()
        thread.join()
        model.replace(first)
    assert turns[0] > 4


def test_sampling_from_one_token_is_argmax(model: Model) -> None:
    greedy = tokens(model, "writer", max_new_tokens=10)
    assert tokens(model, "writer", max_new_tokens=10, sample=True, top_k=1) == greedy


def test_a_prompt_that_leaves_no_room_is_refused(model: Model) -> None:
    with pytest.raises(
        ValueError, match=r"prompt 0 has \d+ tokens, which leaves \d+ of the 128 positions"
    ):
        generate(model, "writer", ["the good dog"], Generation(max_new_tokens=127), device="cpu")


def test_modules_stay_in_the_mode_they_were_in(model: Model) -> None:
    model.train()
    model.expert("other").eval()
    modes = [module.training for module in model.modules()]
    tokens(model, "writer", max_new_tokens=2)
    assert [module.training for module in model.modules()] == modes
    model.eval()


def test_an_expert_that_does_not_write_is_refused(tiny_folder: Callable[[str], Path]) -> None:
    base = load_base(str(tiny_folder("bert")))
    model = Model(base)
    recipe = resolve(RecipeSettings(name="head"))
    model.add(build("tagger", base, recipe, Head("token_classification", base, 3, 0), 0))
    with pytest.raises(
        ValueError, match="'tagger' has a head for token_classification, so it writes"
    ):
        generate(model, "tagger", ["the"], Generation(), device="cpu")


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValidationError, match="temperature"):
        Generation(temperature=0.0)
