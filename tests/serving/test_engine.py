"""The engine answers as `weft predict` does, whoever asks beside."""

import asyncio
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import weft
from tests.serving.runs import INPUTS, Answered, close, write_mixture, write_run
from weft.answering.automatic import predict_auto
from weft.answering.gate_maps import gate_maps
from weft.answering.prediction import checked_input, predict
from weft.base.loading import Base, load_base
from weft.lowrank.attach import frozen_linear
from weft.serving import Engine, Limits, Options, Shelf
from weft.serving.errors import BadInput, NameRefused, TooLarge, UnknownExpert
from weft.storage.loading import LoadedMixture, load_mixture_model, load_run_model

KINDS = [kind for kind in INPUTS if kind != "causal_lm"]
TASKS = ["sequence_classification", "token_classification", "span_extraction"]
METHODS = ["xlora", "single_pass", "lora_mixer"]
"""Gates that read the experts' own pass, the bare base's, and each map's input by task."""


@pytest.fixture(scope="module")
def bert(tiny_folder: Callable[[str], Path]) -> Base:
    return load_base(str(tiny_folder("bert")))


@pytest.fixture(scope="module")
def runs(bert: Base, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An expert of every kind by its name, and mixtures; never to be changed."""
    folder = tmp_path_factory.mktemp("experts")
    for at, kind in enumerate(KINDS):
        write_run(folder / kind, bert, kind, at)
    write_run(folder / "dora", bert, "masked_lm", 8, name="dora")
    for method in METHODS:
        write_mixture(folder / method, bert, TASKS, method)
    return folder


@pytest.fixture(scope="module")
def mixtures(runs: Path) -> dict[str, LoadedMixture]:
    return {method: load_mixture_model(runs / method, device="cpu") for method in METHODS}


@pytest.fixture(scope="module")
def offline(runs: Path) -> dict[str, Answered]:
    return {kind: predict(runs / kind, INPUTS[kind], device="cpu") for kind in KINDS}


def test_an_expert_asked_alone_answers_bit_for_bit_as_offline(
    runs: Path, offline: dict[str, Answered]
) -> None:
    async def ask() -> dict[str, Answered]:
        async with Engine(Shelf(folders=[runs], device="cpu")) as engine:
            found = {}
            for kind in KINDS:
                found[kind] = (await engine.predict(kind, INPUTS[kind])).predictions
            return found

    assert asyncio.run(ask()) == offline


def test_rows_of_more_than_one_batch_are_cut_as_offline(runs: Path) -> None:
    kind = "span_extraction"
    inputs = [{"question": "who", "context": "the old dog " * (9 * at + 3)} for at in range(6)]
    expected = predict(runs / kind, inputs, device="cpu", tokens_per_batch=128)

    async def ask() -> Answered:
        limits = Limits(batch_tokens=128, quantum=7)
        async with Engine(Shelf(folders=[runs], device="cpu"), limits) as engine:
            found = await engine.predict(kind, inputs)
            assert engine.load().batches > 3
            return found.predictions

    assert asyncio.run(ask()) == expected


@pytest.mark.parametrize("batch_tokens", [4096, 64])
def test_many_clients_share_batches_and_get_what_offline_says(
    runs: Path, offline: dict[str, Answered], batch_tokens: int
) -> None:
    async def ask() -> tuple[list[tuple[str, Answered]], int]:
        engine = Engine(Shelf(folders=[runs], device="cpu"), Limits(batch_tokens=batch_tokens))

        async def one(kind: str) -> tuple[str, Answered]:
            return kind, (await engine.predict(kind, INPUTS[kind])).predictions

        async with engine:
            found = await asyncio.gather(*(one(kind) for kind in KINDS * 8))
            return found, engine.load().batches

    found, batches = asyncio.run(ask())
    for kind, answers in found:
        assert close(answers, offline[kind]), kind
    if batch_tokens == 4096:
        assert batches < len(found)


def test_a_name_nobody_knows_is_refused_and_leaves_the_rest(runs: Path) -> None:
    async def ask() -> None:
        async with Engine(Shelf(folders=[runs], device="cpu")) as engine:
            with pytest.raises(UnknownExpert, match="Did you mean 'span_extraction'"):
                await engine.predict("spans_extraction", ["x"])
            assert (await engine.predict("masked_lm", INPUTS["masked_lm"])).predictions

    asyncio.run(ask())


@pytest.mark.parametrize("method", METHODS)
def test_a_mixture_answers_by_task_and_by_itself_as_offline(
    runs: Path, mixtures: dict[str, LoadedMixture], method: str
) -> None:
    own = mixtures[method]
    mixed = [*(INPUTS[kind][0] for kind in TASKS), "a film", {"id": "x", "text": "the dog"}]

    async def ask() -> None:
        async with Engine(Shelf(folders=[runs], device="cpu")) as engine:
            for kind in TASKS:
                expected = predict(own.runs[kind], INPUTS[kind])
                one = await engine.predict(f"{method}/{kind}", INPUTS[kind])
                other = await engine.predict(method, INPUTS[kind], options=Options(task=kind))
                assert one.predictions == other.predictions == expected
            expected = predict_auto(own, mixed)
            assert len({row["task"] for row in expected}) > 1
            for name in (method, f"{method}/auto"):
                assert (await engine.predict(name, mixed)).predictions == expected

    asyncio.run(ask())


def test_mixtures_experts_and_auto_share_batches(
    runs: Path, mixtures: dict[str, LoadedMixture], offline: dict[str, Answered]
) -> None:
    expected: dict[str, Answered] = dict(offline)
    for method, own in mixtures.items():
        expected |= {f"{method}/{k}": predict(own.runs[k], INPUTS[k]) for k in TASKS}
        expected[f"{method}/auto"] = predict_auto(own, INPUTS["sequence_classification"])

    async def ask() -> None:
        engine = Engine(Shelf(folders=[runs], device="cpu"))

        async def one(name: str) -> None:
            kind = name.rpartition("/")[2].replace("auto", "sequence_classification")
            found = await engine.predict(name, INPUTS[kind])
            # A hundred products deeper than an expert alone, the gates' own among them.
            assert close(found.predictions, expected[name], 1e-4), name

        async with engine:
            await asyncio.gather(*(one(name) for name in [*expected] * 3))
            assert engine.load().batches < 3 * len(expected)

    asyncio.run(ask())


def test_auto_alone_means_the_only_mixture_there_is(runs: Path, bert: Base, tmp_path: Path) -> None:
    write_mixture(tmp_path / "only", bert, TASKS)

    async def ask() -> None:
        async with Engine(Shelf(folders=[tmp_path], device="cpu")) as engine:
            text = INPUTS["token_classification"]
            assert await _said(engine, "auto", text) == await _said(engine, "only", text)
            await engine.remove("only")
            with pytest.raises(UnknownExpert, match="none or more than one"):
                await engine.predict("auto", text)
        async with Engine(Shelf(folders=[runs], device="cpu")) as engine:
            with pytest.raises(UnknownExpert, match="none or more than one"):
                await engine.predict("auto", text)

    asyncio.run(ask())


async def _said(engine: Engine, expert: Any, inputs: Any, **options: Any) -> Answered:
    return (await engine.predict(expert, inputs, options=Options(**options))).predictions


def test_weighed_experts_answer_as_a_trunk_with_their_weighed_changes(runs: Path) -> None:
    weights = {"sequence_classification": 0.6, "token_classification": -0.4, "dora": 0.25}
    loaded = {name: load_run_model(runs / name, device="cpu") for name in weights}
    one = loaded["sequence_classification"]
    trunk = copy.deepcopy(one.model.base.trunk).double()
    with torch.no_grad():
        for name, weight in weights.items():
            own = loaded[name]
            for module, adapter in own.model.expert(own.name).adapters.items():
                frozen = frozen_linear(one.model.base.trunk, module).weight
                frozen_linear(trunk, module).weight += weight * adapter.delta(frozen).double()
    text = "the good dog"
    record = one.task.encode({"id": "0", "text": text}, one.model.base.tokenizer)
    inputs = {key: torch.tensor(record[key]) for key in ("input_ids", "token_type_ids")}
    mask = torch.ones_like(inputs["input_ids"])
    with torch.no_grad():
        states = trunk(**inputs, attention_mask=mask).last_hidden_state
        head = copy.deepcopy(one.model.snapshot.head(one.name)).double()
        said = head(states, mask, [1], inputs["input_ids"])[0].softmax(-1)

    async def ask() -> None:
        async with Engine(Shelf(folders=[runs], device="cpu")) as engine:
            found = await engine.predict(weights, [text])
            shares = found.predictions[0]["probabilities"]
            # Single precision through two layers against double.
            assert list(shares.values()) == pytest.approx(said.tolist(), abs=2e-6)
            parts = [entry.version for entry in await engine.experts() if entry.name in weights]
            assert sorted(found.version.split("+")) == sorted(str(part) for part in parts)
            tags = await _said(engine, weights, [text], task="token_classification")
            assert len(tags[0]["tags"]) == 3

    asyncio.run(ask())


def test_an_expert_with_its_own_copy_of_a_module_is_not_weighed(bert: Base, tmp_path: Path) -> None:
    write_run(tmp_path / "copies", bert, "masked_lm", 1, train_also=["norms"])

    async def ask() -> None:
        async with Engine(Shelf(folders=[tmp_path], device="cpu")) as engine:
            with pytest.raises(BadInput, match="cannot be weighed: it has its own copy of"):
                await engine.predict({"copies": 0.5}, INPUTS["masked_lm"])

    asyncio.run(ask())


def test_one_expert_of_weight_one_is_that_expert(runs: Path, offline: dict[str, Answered]) -> None:
    async def ask() -> None:
        async with Engine(Shelf(folders=[runs], device="cpu")) as engine:
            for kind in ("sequence_classification", "span_extraction"):
                assert await _said(engine, {kind: 1.0}, INPUTS[kind]) == offline[kind]
                half = await _said(engine, {kind: 0.5}, INPUTS[kind])
                assert not close(half, offline[kind])
                beside = {kind: 1.0, "masked_lm": 0.0}
                assert await _said(engine, beside, INPUTS[kind]) == offline[kind]

    asyncio.run(ask())


@pytest.mark.parametrize(
    ("expert", "options", "error", "said"),
    [
        ({}, {}, BadInput, "weights of 0 experts"),
        ({"masked_lm": float("nan")}, {}, BadInput, "must be a number"),
        ({"masked_lm": True}, {}, BadInput, "must be a number"),
        ({"masked_lm": 0.0}, {}, BadInput, "every weight is 0"),
        ({"xlora": 0.5, "masked_lm": 0.5}, {}, BadInput, "weigh experts"),
        ({"masked_lm": 1.0}, {"task": "masked"}, BadInput, "Did you mean 'masked_lm'"),
        ({"../x": 1.0}, {}, NameRefused, "no expert can be called"),
        ("masked_lm", {"task": "topic"}, BadInput, "no task named 'topic'"),
        ("xlora/topic", {}, BadInput, "no task named 'topic'"),
        ("xlora/span_extraction", {"task": "topic"}, BadInput, "name one"),
        ("masked_lm", {"generation": {}}, BadInput, "generation settings are for causal"),
    ],
)
def test_what_nobody_can_answer_is_refused_with_the_reason(
    runs: Path, expert: Any, options: dict[str, Any], error: type[Exception], said: str
) -> None:
    async def ask() -> None:
        async with Engine(Shelf(folders=[runs], device="cpu")) as engine:
            with pytest.raises(error, match=said):
                await engine.predict(expert, ["the [MASK]"], options=Options(**options))

    asyncio.run(ask())


def test_inputs_that_the_task_does_not_take_are_refused_by_number(runs: Path) -> None:
    async def ask() -> None:
        limits = Limits(rows=3, row_tokens=20)
        async with Engine(Shelf(folders=[runs], device="cpu"), limits) as engine:
            with pytest.raises(BadInput, match="input 1: 'text' is empty"):
                await engine.predict("sequence_classification", ["x", " "])
            with pytest.raises(BadInput, match="fits none of the tasks"):
                await engine.predict("xlora", [{"premise": "x"}])
            with pytest.raises(TooLarge, match="4 inputs in one request"):
                await engine.predict("sequence_classification", ["x"] * 4)
            with pytest.raises(TooLarge, match=r"input 1 has .* tokens, over the 20"):
                await engine.predict("sequence_classification", ["x", "a dog " * 12])
            assert (await engine.predict("sequence_classification", [])).predictions == []
            assert (await engine.predict("xlora", [])).predictions == []

    asyncio.run(ask())


@pytest.mark.parametrize("expert", [None, "masked_lm", "xlora"])
def test_embeddings_are_means_of_last_states(runs: Path, bert: Base, expert: str | None) -> None:
    texts = ["the good dog", "one", "she said that he went to the city by the river"]
    if expert is None:
        states = []
        for text in texts:
            given = bert.tokenizer(text, return_tensors="pt")
            with torch.no_grad():
                states.append(bert.trunk(**given).last_hidden_state[0].mean(0))
        expected = torch.stack(states)
    else:
        task = "sequence_classification" if expert == "xlora" else None
        rows = [{"text": text} for text in texts]
        loaded = weft.load(runs / expert, task=task, device="cpu")
        expected = loaded.hidden(rows, pool="mean").values

    async def ask() -> None:
        async with Engine(Shelf(folders=[runs], device="cpu")) as engine:
            found = await engine.embed(texts, expert, normalize=False)
            # In one padded batch here, alone there.
            torch.testing.assert_close(torch.tensor(found.vectors), expected, rtol=1e-5, atol=1e-5)
            assert found.tokens == sum(len(bert.tokenizer(text).input_ids) for text in texts)
            unit = torch.tensor((await engine.embed(texts, expert)).vectors)
            torch.testing.assert_close(unit.norm(dim=1), torch.ones(3))
            with pytest.raises(BadInput, match="max_length 128"):
                await engine.embed(["dog " * 200], expert)

    asyncio.run(ask())


@pytest.mark.parametrize("method", ["xlora", "lora_mixer"])
def test_gates_of_an_input_are_those_that_the_maps_average(
    runs: Path, mixtures: dict[str, LoadedMixture], method: str
) -> None:
    run = mixtures[method].runs["token_classification"]
    text = "the good dog said so"
    record = run.task.encode(checked_input(run.task, text, 0), run.model.base.tokenizer)
    means = gate_maps(run, [record])

    async def ask() -> None:
        async with Engine(Shelf(folders=[runs], device="cpu")) as engine:
            found = await engine.gates(f"{method}/token_classification", text)
            assert found.experts == tuple(means["experts"])
            [sequence] = found.sequences
            assert len(sequence.tokens) == means["tokens"]
            assert sequence.gates.keys() == means["gates"].keys() == found.layers.keys()
            for module, gates in sequence.gates.items():
                mean = torch.tensor(gates, dtype=torch.float64).mean(0)
                assert mean.tolist() == pytest.approx(means["gates"][module], abs=1e-6)
            assert set(found.layers.values()) == {0, 1}
            assert (await engine.gates(method, text)).task in TASKS
            with pytest.raises(BadInput, match="no gates"):
                await engine.gates("masked_lm", text)

    asyncio.run(ask())
