"""Rows in one block: each is read as if it were alone."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weft.base.loading import Base, load_base
from weft.base.packing import check_packing
from weft.config import RecipeSettings
from weft.methods.recipes import resolve
from weft.model.batching import Item, collate
from weft.model.expert import build
from weft.model.head import Head
from weft.model.heads import kind_of
from weft.model.model import Model
from weft.tasks.contract import TaskSpec
from weft.tasks.kinds import kinds
from weft.tasks.packing import packed

TEXTS = [
    "the good dog",
    "he",
    "she said that he went to the city by the river and made a house",
    "one new day in paris",
    "a small cat and a big green dog",
]


def writer(base: Base) -> Model:
    recipe = resolve(RecipeSettings(name="lora", rank=4, targets="all-linear"))
    expert = build("writer", base, recipe, Head("causal_lm", base, 0, 1), 1)
    with torch.no_grad():
        for number, adapter in enumerate(expert.adapters.values()):
            adapter.B.normal_(0.0, 0.3, generator=torch.Generator().manual_seed(number))
    model = Model(base)
    model.add(expert)
    return model


def items_of(records: list[dict]) -> list[Item]:
    return [Item("writer", "causal_lm", ("writer",), record) for record in records]


@pytest.mark.parametrize("attention", ["sdpa", "weft", "eager"])
@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_logits_of_a_block_are_those_of_each_text_alone(
    model_type: str, attention: str, tiny_folder: Callable[[str], Path]
) -> None:
    base = load_base(str(tiny_folder(model_type)), dtype=torch.float64, attention=attention)
    check_packing(base)
    model = writer(base)
    spec = TaskSpec.model_validate(
        {"name": "t", "kind": "causal_lm", "max_length": 28, "options": {"pack": True}}
    )
    task = kinds.load("causal_lm")(spec)
    records = [
        task.encode(task.check({"id": str(at), "text": text}, "r"), base.tokenizer)
        for at, text in enumerate(TEXTS)
    ]
    blocks = task.packed(records)
    assert 1 < len(blocks) < len(records)
    alone = {
        tuple(record["input_ids"][0]): model(collate(items_of([record]), 0))["writer"][0]
        for record in records
    }
    batch = collate(items_of(blocks), 0, multiple=8)
    found = model(batch)["writer"]
    seen = 0
    # Eager attention takes its softmax in single precision in these architectures.
    tolerance = 1e-5 if attention == "eager" else 1e-12
    for row, block in enumerate(blocks):
        ids, places = block["input_ids"][0], block["position_ids"][0]
        starts = [at for at, place in enumerate(places) if place == 0]
        for start, stop in zip(starts, [*starts[1:], len(ids)], strict=True):
            expected = alone.pop(tuple(ids[start:stop]))
            torch.testing.assert_close(found[row, start:stop], expected, rtol=0, atol=tolerance)
            seen += 1
    assert seen == len(TEXTS)
    kind = kind_of("causal_lm")
    (part,) = batch.parts
    assert part.labels is not None
    together = kind.loss(found, part.labels, 0.0)
    apart = torch.zeros((), dtype=torch.float64)
    for record in records:
        one = collate(items_of([record]), 0)
        own = one.parts[0].labels
        assert own is not None
        apart += kind.loss(model(one)["writer"], own, 0.0)
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-4 if tolerance > 1e-9 else 1e-9)
    assert part.count == sum(len(record["input_ids"][0]) - 1 for record in records)


def test_a_trunk_that_mixes_texts_is_refused(tiny_folder: Callable[[str], Path]) -> None:
    base = load_base(str(tiny_folder("bert")))
    with pytest.raises(ValueError, match="cannot be packed; set the task's option pack: false"):
        check_packing(base)


@given(sizes=st.lists(st.integers(1, 20), min_size=1, max_size=40))
def test_every_row_is_in_one_block_whole(sizes: list[int]) -> None:
    first, records = 0, []
    for size in sizes:
        ids = list(range(first, first + size))
        records.append({"id": str(first), "input_ids": [ids], "labels": [ids], "num_bytes": [size]})
        first += size
    blocks = packed(records, 20)
    assert all(len(block["input_ids"][0]) <= 20 for block in blocks)
    found = []
    for block in blocks:
        for token, place, label in zip(
            block["input_ids"][0], block["position_ids"][0], block["labels"][0], strict=True
        ):
            if place == 0:
                found.append([])
            found[-1].append(token)
            assert label == (token if place else -100)
    assert sorted(found) == [record["input_ids"][0] for record in records]
    # No two blocks could be one.
    free = sorted(20 - len(block["input_ids"][0]) for block in blocks)
    assert all(left < 20 - other for left, other in zip(free[1:], free[:-1], strict=True))


def test_rows_with_weights_are_not_packed() -> None:
    record = {"id": "a", "input_ids": [[1, 2]], "labels": [[-100, 2]], "num_bytes": [1]}
    with pytest.raises(ValueError, match="set pack: false"):
        packed([{**record, "weight": 2.0}], 8)
