"""One trunk answers for many experts at once as for each alone, and is never written to."""

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from weft.base.loading import Base, load_base
from weft.config import RecipeSettings
from weft.lowrank.pool import along
from weft.lowrank.route import Route
from weft.methods.recipes import resolve
from weft.model.batching import Batch, Item, collate, pieces
from weft.model.expert import Expert, build
from weft.model.head import Head
from weft.model.heads import fitting, kind_of
from weft.model.model import Model

NUM_LABELS = {"sequence_classification": 4, "token_classification": 3}
WINDOWS = {"multiple_choice": 4, "span_extraction": 2, "embedding": 2}


def expert(base: Base, kind: str, number: int, name: str | None = None, **settings: Any) -> Expert:
    """An expert away from its start, of its own rank."""
    recipe = resolve(
        RecipeSettings(
            **{"name": "lora", "rank": 2 + number, "targets": ["query", "ffn_out"], **settings}
        )
    )
    head = Head(kind, base, NUM_LABELS.get(kind, 2), seed=number)
    made = build(name or kind, base, recipe, head, seed=number)
    draw = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for value in made.trained().values():
            value.add_(0.1 * torch.randn(value.shape, generator=draw))
    return made


def rows(base: Base, kind: str, count: int, members: tuple[str, ...] | None = None) -> list[Item]:
    """Rows of random tokens; every sequence has another length."""
    draw = torch.Generator().manual_seed(len(kind))
    made = []
    for at in range(count):
        lengths = [3 + (5 * at + 3 * window) % 11 for window in range(WINDOWS.get(kind, 1))]
        ids = [torch.randint(10, 90, (n,), generator=draw).tolist() for n in lengths]
        labels: Any = {
            "sequence_classification": at % 4,
            "multiple_choice": at % 4,
            "span_extraction": [[at % 3, 2] for _ in lengths],
            "embedding": [[0.0, 20.0, at / count] for _ in lengths],
        }.get(kind, [[number % 3 for number in range(n)] for n in lengths])
        record = {"id": f"{kind}{at}", "input_ids": ids, "labels": labels}
        made.append(Item(kind, kind, (kind,) if members is None else members, record))
    return made


def pad_id(base: Base) -> int:
    return 0 if base.tokenizer.pad_token_id is None else base.tokenizer.pad_token_id


def batch_of(base: Base, items: list[Item]) -> Batch:
    return collate(items, pad_id(base))


@pytest.fixture
def base(model_type: str, tiny_folder: Callable[[str], Path]) -> Base:
    return load_base(str(tiny_folder(model_type)))


@pytest.fixture
def bert(tiny_folder: Callable[[str], Path]) -> Base:
    return load_base(str(tiny_folder("bert")))


@pytest.fixture
def exact_bert(tiny_folder: Callable[[str], Path]) -> Base:
    return load_base(str(tiny_folder("bert")), dtype=torch.float64)


def by_row(base: Base, answers: dict[str, Tensor], batch: Batch) -> dict[str, list[Any]]:
    """Outputs without padding, by head, in the order of the rows."""
    return {
        part.head: [
            value
            for _, value in sorted(
                zip(
                    part.rows,
                    kind_of(part.kind).outputs(answers[part.head], part.labels, part.lengths),
                    strict=True,
                ),
                key=lambda pair: pair[0],
            )
        ]
        for part in batch.parts
    }


def assert_rows_close(got: list[Any], expected: list[Any]) -> None:
    """Whole rows, each an array or one array for each window; NaN where both have it."""
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        first, second = ([part] if not isinstance(part, list) else part for part in (one, other))
        assert len(first) == len(second)
        for a, b in zip(first, second, strict=True):
            torch.testing.assert_close(
                torch.from_numpy(a), torch.from_numpy(b), rtol=1e-5, atol=1e-5, equal_nan=True
            )


@pytest.mark.parametrize("path", [None, "dense", "grouped", "segments"])
def test_a_batch_of_all_kinds_equals_each_row_alone(base: Base, path: str | None) -> None:
    model = Model(base).eval()
    kinds = fitting(base.config)
    for number, kind in enumerate(kinds):
        model.add(expert(base, kind, number))
    by_kind = {kind: rows(base, kind, 3) for kind in kinds}
    mixed = [by_kind[kind][at] for at in range(3) for kind in kinds]
    batch = batch_of(base, mixed)
    with torch.inference_mode(), along(path):
        together = by_row(base, model(batch), batch)
        for kind in kinds:
            alone = []
            for item in by_kind[kind]:
                single = batch_of(base, [item])
                alone += by_row(base, model(single), single)[kind]
            assert_rows_close(together[kind], alone)


def test_the_identical_call_has_identical_bits_beside_other_threads(bert: Base) -> None:
    model = Model(bert).eval()
    kinds = fitting(bert.config)
    for number, kind in enumerate(kinds):
        model.add(expert(bert, kind, number))
    mixes = [kinds[:2], kinds[2:4], kinds[3:], kinds]
    batches = [
        batch_of(bert, [item for kind in mix for item in rows(bert, kind, 2)]) for mix in mixes
    ]

    def answers(number: int) -> dict[str, Tensor]:
        with torch.inference_mode():
            return model(batches[number])

    expected = [answers(number) for number in range(4)]

    def differing(number: int) -> int:
        found = 0
        for _ in range(40):
            got = answers(number)
            found += any(not torch.equal(got[k], value) for k, value in expected[number].items())
        return found

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(differing, range(4))) == [0] * 4


def test_a_resident_expert_changes_no_bit(bert: Base) -> None:
    model = Model(bert).eval()
    model.add(expert(bert, "token_classification", 0))
    model.add(expert(bert, "multiple_choice", 1, train_also=["norms"]))
    batch = batch_of(bert, rows(bert, "token_classification", 3))
    with torch.inference_mode():
        before = model(batch)["token_classification"]
        silent = expert(bert, "span_extraction", 2, train_also=["norms", "embeddings"])
        for value in silent.parameters():
            if value.requires_grad:
                value.fill_(torch.nan)
        for trainable in (True, False):
            model.add(silent, trainable=trainable)
            assert torch.equal(model(batch)["token_classification"], before)
            model.remove("span_extraction")
        model.remove("multiple_choice")
        assert torch.equal(model(batch)["token_classification"], before)


def test_without_a_route_the_base_answers(base: Base) -> None:
    inputs = batch_of(base, rows(base, "sequence_classification", 3)).inputs
    with torch.inference_mode():
        expected = base.trunk(**inputs).last_hidden_state
        model = Model(base).eval()
        model.add(expert(base, "sequence_classification", 0, train_also=["norms", "embeddings"]))
        for route in (None, Route.everywhere(), Route.by_sequence([None] * 3)):
            assert torch.equal(model.states(inputs, route), expected)
        changed = model.states(inputs, Route.everywhere("sequence_classification"))
    assert not torch.allclose(changed, expected, atol=1e-3)


def test_rows_may_borrow_several_experts(exact_bert: Base) -> None:
    base = exact_bert
    model = Model(base).eval()
    for number, name in enumerate(("one", "two", "style")):
        model.add(expert(base, "token_classification", number, name=name), trainable=True)
    (item,) = rows(base, "token_classification", 1)

    def row(*members: str) -> Item:
        return Item("one", item.kind, members, item.record)

    mixed = batch_of(
        base, [row("one"), row("one", "style"), row("style", "one"), row(), row("two")]
    )
    with torch.inference_mode():
        got = model(mixed)["one"]
        alone = [
            model(batch_of(base, [row(*members)]))["one"][0]
            for members in (("one",), ("one", "style"), ("style", "one"), (), ("two",))
        ]
    torch.testing.assert_close(got, torch.stack(alone), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(got[1], got[2], rtol=1e-12, atol=1e-12)
    assert (got[0] - got[1]).abs().max() > 1e-3


def test_losses_of_pieces_add_up_to_the_whole_batch_with_gradients(exact_bert: Base) -> None:
    base = exact_bert
    model = Model(base).eval()
    kinds = fitting(base.config)
    for number, kind in enumerate(kinds):
        model.add(expert(base, kind, number), trainable=True)
    items = [item for kind in kinds for item in rows(base, kind, 5)]

    def losses(parts: list[list[Item]]) -> tuple[dict[str, float], dict[str, Tensor]]:
        model.zero_grad()
        sums = dict.fromkeys(kinds, 0.0)
        for part in parts:
            batch = batch_of(base, part)
            logits = model(batch)
            total = torch.zeros((), dtype=torch.float64)
            for own in batch.parts:
                assert own.labels is not None
                loss = kind_of(own.kind).loss(logits[own.head], own.labels, 0.1)
                sums[own.head] += loss.item()
                total = total + loss
            total.backward()
        return sums, {
            name: value.grad.clone()
            for name, value in model.named_parameters()
            if value.grad is not None
        }

    whole, whole_gradients = losses([items])
    for accumulation in (1, 4):
        parts = pieces(items, accumulation)
        assert len(parts) >= accumulation
        sums, gradients = losses(parts)
        assert sums == pytest.approx(whole, rel=1e-10)
        torch.testing.assert_close(gradients, whole_gradients, rtol=1e-9, atol=1e-9)


def test_training_leaves_the_base_bit_identical(bert: Base) -> None:
    before = copy.deepcopy(bert.trunk.state_dict())
    pooler = copy.deepcopy(bert.pooler.state_dict())
    model = Model(bert).train()
    kinds = fitting(bert.config)
    for number, kind in enumerate(kinds):
        model.add(
            expert(bert, kind, number, train_also=["norms"], dropout=0.1 * number), trainable=True
        )
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    start = {name: value.detach().clone() for name, value in trained.items()}
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2)
    batch = batch_of(bert, [item for kind in kinds for item in rows(bert, kind, 2)])
    for _ in range(3):
        logits = model(batch)
        for part in batch.parts:
            kind_of(part.kind).loss(logits[part.head], part.labels, 0.0).backward(retain_graph=True)
        optimizer.step()
        optimizer.zero_grad()
    assert [name for name, value in trained.items() if torch.equal(value, start[name])] == []
    assert all(not value.requires_grad for value in bert.trunk.parameters())
    for kind in kinds:
        model.remove(kind)
    after = {name.replace(".base.", "."): value for name, value in bert.trunk.state_dict().items()}
    assert set(after) == set(before)
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    assert all(torch.equal(value, pooler[name]) for name, value in bert.pooler.state_dict().items())


@pytest.mark.parametrize("also", [[], ["norms"], ["output.dense", "embeddings"]])
@pytest.mark.parametrize("trainable", [True, False])
def test_merged_weights_equal_the_live_model(
    exact_bert: Base, also: list[str], trainable: bool
) -> None:
    base = exact_bert
    before = copy.deepcopy(base.trunk.state_dict())
    model = Model(base).eval()
    model.add(expert(base, "token_classification", 0, train_also=also), trainable=trainable)
    model.add(expert(base, "span_extraction", 1, train_also=["norms"]))
    inputs = batch_of(base, rows(base, "token_classification", 3)).inputs
    with torch.inference_mode():
        live = model.states(inputs, Route.everywhere("token_classification"))
    merged = model.merged("token_classification")
    with torch.inference_mode():
        torch.testing.assert_close(merged(**inputs).last_hidden_state, live, rtol=1e-11, atol=1e-11)
    assert list(merged.state_dict()) == list(before)
    nothing = model.merged("token_classification", weight=0.0)
    assert all(torch.equal(value, before[name]) for name, value in nothing.state_dict().items())
    half = model.merged("token_classification", weight=0.5).state_dict()
    for name, value in merged.state_dict().items():
        torch.testing.assert_close(half[name], (value + before[name]) / 2, rtol=1e-12, atol=1e-12)
    held = {name.replace(".base", ""): value for name, value in base.trunk.state_dict().items()}
    assert all(torch.equal(value, before[name]) for name, value in held.items())


def test_merging_fits_every_architecture(base: Base) -> None:
    model = Model(base).eval()
    model.add(expert(base, "token_classification", 0, targets="all-linear"))
    batch = batch_of(base, rows(base, "token_classification", 3))
    with torch.inference_mode():
        live = model.states(batch.inputs, batch.route)
        merged = model.merged("token_classification")(**batch.inputs).last_hidden_state
    real = batch.inputs["attention_mask"].bool()
    torch.testing.assert_close(merged[real], live[real], rtol=1e-5, atol=1e-5)


def test_exact_factors_answer_as_the_trained_form(exact_bert: Base) -> None:
    base = exact_bert
    model = Model(base).eval()
    own = expert(base, "token_classification", 0)
    batch = batch_of(base, rows(base, "token_classification", 3))
    model.add(own, trainable=True)
    assert all(value.requires_grad for value in own.trained().values())
    assert own.trained()
    with torch.inference_mode():
        trained = model(batch)["token_classification"]
        assert model.remove("token_classification") is own
        model.add(own)
        assert own.trained() == {}
        torch.testing.assert_close(
            model(batch)["token_classification"], trained, rtol=1e-12, atol=1e-12
        )


def test_experts_come_and_go_by_name(bert: Base) -> None:
    model = Model(bert)
    first, second = expert(bert, "token_classification", 0), expert(bert, "span_extraction", 1)
    model.add(first)
    model.add(second)
    assert list(model.experts) == ["token_classification", "span_extraction"]
    with pytest.raises(
        ValueError, match="'span_extraction' is resident; remove it or choose another"
    ):
        model.add(expert(bert, "span_extraction", 2))
    assert model.expert("span_extraction") is second
    assert model.remove("token_classification") is first
    model.add(first)
    assert list(model.experts) == ["span_extraction", "token_classification"]
    for call in (model.expert, model.remove, model.merged):
        with pytest.raises(
            KeyError, match=r"no expert named 'span_extractor'\. Did you mean 'span_ext"
        ):
            call("span_extractor")
    dotted = expert(bert, "token_classification", 3, name="team/squad.v2")
    model.add(dotted)
    assert model.expert("team/squad.v2") is dotted


def test_a_route_or_a_head_that_is_not_there_is_refused(bert: Base) -> None:
    model = Model(bert)
    recipe = resolve(RecipeSettings(name="lora"))
    model.add(build("style", bert, recipe, None, seed=0))
    (item,) = rows(bert, "token_classification", 1)
    inputs = batch_of(bert, [item]).inputs
    with pytest.raises(KeyError, match=r"no expert named 'stile'\. Did you mean 'style'"):
        model.states(inputs, Route.everywhere("stile"))
    answered = Item("style", item.kind, ("style",), item.record)
    with pytest.raises(ValueError, match="'style' has no head, so it cannot answer"):
        model(batch_of(bert, [answered]))


def test_a_private_trunk_is_trained_apart_from_the_base(bert: Base) -> None:
    before = copy.deepcopy(bert.trunk.state_dict())
    model = Model(bert, private=True)
    full = build(
        "x",
        bert,
        resolve(RecipeSettings(name="full")),
        Head("token_classification", bert, 3, seed=0),
        0,
    )
    model.add(full, trainable=True)
    (item,) = rows(bert, "token_classification", 1, members=())
    batch = batch_of(bert, [Item("x", item.kind, (), item.record)])
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    kind_of(item.kind).loss(model(batch)["x"], batch.parts[0].labels, 0.0).backward()
    optimizer.step()
    private = model.trunk.state_dict()
    moved = [name for name, value in before.items() if not torch.equal(private[name], value)]
    # Not the keys' biases: softmax takes them out.
    assert {name for name, value in before.items() if value.dim() == 2} <= set(moved)
    assert all(torch.equal(v, before[name]) for name, v in bert.trunk.state_dict().items())


def test_a_new_expert_takes_the_models_mode(bert: Base) -> None:
    for training in (True, False):
        model = Model(bert).train(training)
        own = expert(bert, "token_classification", 0)
        model.add(own)
        assert {module.training for module in own.head.modules()} == {training}
        model.remove("token_classification")
