"""A mixture on a trunk obeys the laws of its equations, in double precision, whatever else is in the batch."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.training.mixed import (
    NAMES,
    batch_of,
    by_row,
    exact,
    gradients,
    ingredients,
    is_new,
    mixed,
    model_of,
    of_experts,
    rows,
    takes_experts,
    task_loss,
    tiny,
    with_factors,
)
from weft.base.loading import Base
from weft.config import load_run
from weft.lowrank.route import Route
from weft.methods.gates.trace import GateTrace, traced
from weft.methods.merges.cat import Cat
from weft.methods.mixtures import mixtures
from weft.model.batching import Batch, Item
from weft.model.expert import factors_of
from weft.model.mixed import layers_of
from weft.model.mixing import MIX
from weft.training.preparation.starting import prepare_model

OF_EXPERTS = [name for name in NAMES if takes_experts(name)]
READERS = [("single_pass", {"reader": reader}) for reader in ("embedding", "layer", "local")]
DEEP = {"layerwise": True, "depth": 2, "width": 8}
FROZEN = [("xlora", {}), ("xlora", DEEP | {"top_k": 2, "scaling_value": 0.2}), *READERS]
FROZEN += [("early_pass", {}), ("meteora", {}), ("lora_mixer", {})]
ALL = [(name, of_experts(name)) for name in OF_EXPERTS] + READERS[1:]
TASKS = ("topic", "tags", "endings")


def name_of(value: Any) -> str:
    return value if isinstance(value, str) else "-".join(map(str, value.values()))


def case(cases: list[tuple[str, dict[str, Any]]]) -> Any:
    return pytest.mark.parametrize(("name", "settings"), cases, ids=name_of)


@pytest.fixture
def base(tiny_folder: Callable[[str], Path]) -> Base:
    return exact(tiny_folder("bert"))


def all_rows(*members: str) -> list[Any]:
    return [item for name in TASKS for item in rows(name, 3, *members)]


@case([one for one in ALL if one[0] != "smora"])
def test_one_expert_is_that_expert(name: str, settings: dict[str, Any], base: Base) -> None:
    alone = ingredients(base, ["tags"])
    settings = settings | ({"top_k": 1} if "top_k" in settings else {})
    # A mixture that trains the experts on is at its start: later they are not what they were.
    mix = mixed(base, alone, name, moved=not is_new(name), **settings)
    model = model_of(base, alone, mix)
    with torch.inference_mode():
        found, wanted = (model(batch_of(rows("tags", 4, who)))["tags"] for who in (MIX, "tags"))
        bare = model(batch_of(rows("tags", 4)))["tags"]
    assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    assert (bare - wanted).abs().max() > 1e-2


@case([("xlora", {}), ("xlora", DEEP), *READERS])
def test_a_zero_gate_is_the_merge_of_equal_shares(
    name: str, settings: dict[str, Any], base: Base
) -> None:
    owners = ingredients(base)
    mix = mixed(base, owners, name, **settings)
    for value in (value for value in mix.parameters() if value.requires_grad):
        torch.nn.init.zeros_(value)
    factors = [factors_of(own.expert, base.trunk) for own in owners.values()]
    merged = Cat().merge(factors, [1 / 3] * 3)
    assert merged.error < 1e-7
    model = model_of(base, owners, mix)
    model.add(with_factors("merged", merged.factors, owners["tags"].expert.head))
    with torch.inference_mode():
        found, wanted = (model(batch_of(all_rows(who))) for who in (MIX, "merged"))
    assert_close(found, wanted, rtol=1e-10, atol=1e-10)


def test_switching_answers_a_batch_of_several_tasks_as_each_expert_does(base: Base) -> None:
    owners = ingredients(base)
    model = model_of(base, owners, mixed(base, owners, "switch"))
    together = batch_of(all_rows(MIX))
    with torch.inference_mode():
        found = by_row(model(together), together)
        for name in TASKS:
            for at, item in enumerate(rows(name, 3, name)):
                alone = batch_of([item])
                wanted = by_row(model(alone), alone)[name][0]
                assert_close(found[name][at], wanted, rtol=1e-5, atol=1e-6)


@case([("xlora", DEEP), ("meteora", {}), READERS[2]])
def test_the_order_of_experts_does_not_matter(
    name: str, settings: dict[str, Any], base: Base
) -> None:
    owners, order = ingredients(base), [2, 0, 1]
    mix = mixed(base, owners, name, **settings)
    turned = mixed(base, {TASKS[at]: owners[TASKS[at]] for at in order}, name, **settings)
    state = mix.mixture.state_dict()
    for key, value in turned.mixture.state_dict().items():
        if key.startswith("head.maps.1."):
            value.copy_(state[key].unflatten(0, (-1, 3))[:, order].flatten(0, 1))
        elif key.startswith("routers."):
            value.copy_(state[key][order])
        elif key.startswith("head."):
            value.copy_(state[key])
    answers, gates = [], []
    for one in (mix, turned):
        model, trace = model_of(base, owners, one), GateTrace()
        with torch.inference_mode(), traced(trace):
            answers.append(model(batch_of(all_rows(MIX))))
        gates.append({module: own.gates for module, own in trace.gates.items()})
        for expert in list(model.experts):
            model.remove(expert)
    assert_close(answers[1], answers[0], rtol=1e-10, atol=1e-10)
    assert_close(gates[1], {module: own[..., order] for module, own in gates[0].items()})


@case([one for one in ALL if one[0] != "early_pass"])
def test_choices_are_answered_as_if_each_came_alone(
    name: str, settings: dict[str, Any], base: Base
) -> None:
    owners = ingredients(base)
    model = model_of(base, owners, mixed(base, owners, name, **settings))
    [item] = rows("endings", 1, MIX)
    head, route = owners["endings"].expert.head, Route.everywhere(MIX).owned(["endings"])
    assert head is not None
    with torch.inference_mode():
        found = model(batch_of([item]))["endings"]
        first = []
        for ids in item.record["input_ids"]:
            mask = torch.ones(1, len(ids), dtype=torch.long)
            inputs = {"input_ids": torch.tensor([ids]), "attention_mask": mask}
            # The head of choices reads each one's first token.
            first.append(model.states(inputs, route)[:, :1])
        wanted = head(torch.cat(first), torch.ones(3, 1, dtype=torch.long), (3,))
    assert found.shape == (1, 3)
    assert_close(found, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("top_k", [1, None])
def test_choices_of_a_row_share_early_gates_whatever_stands_beside(
    top_k: int | None, base: Base
) -> None:
    owners = ingredients(base)
    model = model_of(base, owners, mixed(base, owners, "early_pass", top_k=top_k))

    def said(items: list[Item]) -> tuple[list[Tensor], Tensor, Batch]:
        batch, trace = batch_of(items), GateTrace()
        with torch.no_grad(), traced(trace):
            answers = by_row(model(batch), batch)["endings"]
        (logits, *_), mask = trace.logits.values(), batch.inputs["attention_mask"].bool()
        assert mask[:, 0].all()
        return answers, logits[:, 0], batch

    own = rows("endings", 3, MIX)
    answers, logits, batch = said([*own, *rows("topic", 3, MIX)])
    [choices] = [part for part in batch.parts if part.head == "endings"]
    each = logits[choices.start : choices.stop].view(3, 3, -1)
    assert_close(each, each[:, :1].expand_as(each))
    assert not torch.allclose(each[0], each[1])
    for at, row in enumerate(own):
        answer, alone, _ = said([row])
        assert_close(answer[0], answers[at])
        assert_close(alone, each[at])
    # Every choice counts alike: the gate's logits are the mean of what each would be given alone.
    single = []
    for ids in own[0].record["input_ids"]:
        record = {"id": "alone", "input_ids": [ids], "labels": 0}
        single.append(said([Item("endings", "multiple_choice", (MIX,), record)])[1][0])
    assert_close(each[0, 0], torch.stack(single).mean(0))


@case([*FROZEN[:6], ("early_pass", {"layerwise": True, "top_k": None})])
def test_nobody_watching_changes_no_answer(name: str, settings: dict[str, Any], base: Base) -> None:
    for equal in (True, False):
        owners = ingredients(base, **({"rank": 2} if equal else {}))
        model = model_of(base, owners, mixed(base, owners, name, **settings))
        batch = batch_of(all_rows(MIX))
        with torch.inference_mode():
            alone = model(batch)
            with traced(GateTrace()):
                watched = model(batch)
        assert_close(alone, watched, rtol=1e-12, atol=1e-12)
        for own in list(model.experts):
            model.remove(own)


def test_one_trace_of_several_calls_forgets_which_sequences_were_together(base: Base) -> None:
    owners = ingredients(base)
    model = model_of(base, owners, mixed(base, owners, "early_pass", top_k=None))
    choices, other = batch_of(rows("endings", 1, MIX)), batch_of(rows("topic", 3, MIX))
    trace = GateTrace()
    with torch.inference_mode():
        wanted = by_row(model(other), other)
        with traced(trace):
            model(choices)
            found = by_row(model(other), other)
    assert_close(found, wanted)


@pytest.mark.parametrize("name", NAMES)
def test_padding_further_changes_no_answer_and_no_loss(name: str, base: Base) -> None:
    settings = of_experts(name) if takes_experts(name) else tiny(name)
    owners = ingredients(base)
    model = model_of(base, owners, mixed(base, owners, name, **settings))
    found = []
    for multiple in (1, 32):
        batch = batch_of(all_rows(MIX), multiple)
        with torch.no_grad():
            found.append((task_loss(model, batch), by_row(model(batch), batch)))
    assert batch.inputs["input_ids"].shape[1] == 32
    assert_close(found[1], found[0], rtol=1e-6, atol=1e-6)


@case(FROZEN)
def test_only_gates_get_gradients(name: str, settings: dict[str, Any], base: Base) -> None:
    owners = ingredients(base)
    mix = mixed(base, owners, name, **settings)
    model = model_of(base, owners, mix).train()
    task_loss(model, batch_of(all_rows(MIX))).backward()
    found = gradients(model)
    key = next(own for own, module in model.named_children() if module is mix)
    gates = {n for n, p in model.get_submodule(key).named_parameters() if "stacks." not in n}
    assert gates
    assert {n.removeprefix(f"{key}.") for n in found} == gates
    assert all(value.abs().max() > 0 for value in found.values())


def test_below_its_layer_the_gates_start_uniform(base: Base) -> None:
    owners = ingredients(base)
    mix = mixed(base, owners, "single_pass", moved=False, reader="layer", layer=1)
    model, trace = model_of(base, owners, mix), GateTrace()
    with torch.inference_mode(), traced(trace):
        model(batch_of(all_rows(MIX)))
    below, above = (
        [own.gates for name, own in trace.gates.items() if f"layer.{layer}." in name]
        for layer in (0, 1)
    )
    assert len(below) == len(above) == 2
    assert_close(torch.stack(below), torch.full_like(torch.stack(below), 1 / 3))
    assert (torch.stack(above) - 1 / 3).abs().max() > 1e-3


@case([*FROZEN, ("uniform", {}), ("switch", {})])
def test_a_call_runs_the_trunk_as_often_as_it_says(
    name: str, settings: dict[str, Any], base: Base
) -> None:
    owners = ingredients(base)
    model = model_of(base, owners, mixed(base, owners, name, **settings))
    calls: list[int] = []
    for at, layer in enumerate(layers_of(model.trunk)):
        layer.register_forward_hook(lambda *_, at=at: calls.append(at))
    once = [*range(len(layers_of(model.trunk)))]
    before = {"xlora": once, "early_pass": [0]}.get(name, [])
    for training in (True, False):
        model.train(training)
        calls.clear()
        model(batch_of(all_rows(MIX)))
        assert calls == [*before, *once]


@case(
    [
        ("xlora", {"top_k": 1, "train_experts": True}),
        ("meteora", {"top_k": 1, "train_experts": True}),
        ("mola", {"top_k": 2, "start": "experts"}),
        ("adamole", {"start": "experts"}),
    ]
)
def test_the_grouped_path_is_the_dense_one(name: str, settings: dict[str, Any], base: Base) -> None:
    owners = ingredients(base)
    mix = mixed(base, owners, name, **settings)
    model = model_of(base, owners, mix)
    found = []
    for path in ("dense", "grouped"):
        mix.mixture.path = path
        loss = task_loss(model, batch_of(all_rows(MIX)))
        loss.backward()
        found.append((loss.detach(), gradients(model)))
    assert any("stacks" in key for key in found[0][1])
    assert_close(found[1], found[0], rtol=1e-9, atol=1e-9)


@case(ALL)
def test_rows_of_a_mixture_share_a_batch_with_experts_and_the_bare_base(
    name: str, settings: dict[str, Any], base: Base
) -> None:
    owners = ingredients(base)
    model = model_of(base, owners, mixed(base, owners, name, **settings))
    speaking = [(MIX,), ("tags",), (), (MIX,), ("topic",)]
    items = [item for kind in TASKS for item in rows(kind, 5)]
    items = [
        type(item)(item.head, item.kind, speaking[at % 5], item.record)
        for at, item in enumerate(items)
    ]
    together = batch_of(items)
    with torch.inference_mode():
        found = by_row(model(together), together)
        for kind in TASKS:
            own = [item for item in items if item.head == kind]
            for item, got in zip(own, found[kind], strict=True):
                alone = batch_of([item])
                wanted = by_row(model(alone), alone)[kind][0]
                assert_close(got, wanted, rtol=1e-5, atol=1e-6)


def test_threads_with_other_routes_do_not_disturb_each_other(base: Base) -> None:
    owners = ingredients(base)
    model = model_of(base, owners, mixed(base, owners, "xlora"))
    routes = [(MIX,), ("tags",), (), (MIX,)]
    batches = [batch_of(rows("tags", 2 + at, *who)) for at, who in enumerate(routes)]

    def answer(number: int) -> Tensor:
        with torch.inference_mode():
            return model(batches[number])["tags"]

    expected = [answer(number) for number in range(4)]

    def differing(number: int) -> int:
        return sum(not torch.equal(answer(number), expected[number]) for _ in range(20))

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(differing, range(4))) == [0] * 4


@case([(name, own | {"dropout": 0.0}) for name, own in [*ALL, ("mixlora", tiny("mixlora"))]])
def test_recomputed_layers_give_the_same_gradients(
    name: str, settings: dict[str, Any], base: Base
) -> None:
    owners = ingredients(base)
    if "head_dropout" in mixtures.load(name).settings_type.model_fields:
        settings = settings | {"head_dropout": 0.0}
    model = model_of(base, owners, mixed(base, owners, name, **settings)).train()
    for value in model.expert("tags").parameters():
        value.requires_grad_(True)
    found = []
    for again in (False, True):
        training = {"gradient_checkpointing": again, "base_dropout": 0.0}
        prepare_model(model, load_run({"task": "topic", "training": training}))
        loss = task_loss(model, batch_of(all_rows(MIX)))
        loss.backward()
        found.append((loss.detach(), gradients(model)))
    assert found[0][1]
    assert_close(found[1], found[0], rtol=1e-10, atol=1e-10)
