"""Rows that come with what is known of whom they are for, and a mixture whose gates read it."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

import weft
from weft.answering.inference import units_of
from weft.model.batching import Item, collate
from weft.runs import RunFolder
from weft.serving import Engine, Shelf
from weft.serving.errors import BadInput
from weft.storage.loading import load_run_model
from weft.training.loop import train

Settings = Callable[..., dict[str, Any]]
STATES = {"ann": [1.0, -1.0, 0.5], "bob": [-1.0, 2.0, 0.0]}


def rows_of(count: int) -> list[dict[str, Any]]:
    return [
        {
            "id": f"{who}{at}",
            "text": f"a film of number {at % 3}",
            "label": str(int(who == "ann")),
            "known": state,
        }
        for at in range(count)
        for who, state in STATES.items()
    ]


DATA = {"train": rows_of(16), "validation": rows_of(4)}


@pytest.fixture
def settings(tiny_folder: Callable[[str], Path]) -> Settings:
    def made(columns: dict[str, str] | None = None, **mixture: Any) -> dict[str, Any]:
        spec = {
            "kind": "sequence_classification",
            "labels": ["0", "1"],
            "max_length": 32,
            "columns": {"state": "known"} if columns is None else columns,
        }
        return {
            "base": str(tiny_folder("bert")),
            "task": {"name": "films", "spec": spec},
            "mixture": {"name": "reclora", "num_experts": 3, "rank": 2, "state_size": 3, **mixture},
            "training": {"epochs": 6, "batch_size": 8, "learning_rate": 3e-2, "precision": "fp64"},
            "device": "cpu",
        }

    return made


def trained(settings: dict[str, Any], folder: Path) -> RunFolder:
    """The mixture as its only task asks it."""
    return RunFolder.open(train(settings, out=folder / "run", data=DATA).path / "films")


def test_whom_a_row_is_for_decides_what_it_is_answered(settings: Settings, tmp_path: Path) -> None:
    folder = trained(settings(), tmp_path)
    # The text says nothing of the label; the state says all of it.
    found = next(row for row in folder.metrics if row["name"] == "f1_macro")
    assert found["value"] == 1.0
    asked = [{"text": "a film of number 1", "state": STATES[who]} for who in ("ann", "bob")]
    answers = weft.predict(folder.path, asked, device="cpu")
    assert [answer["label"] for answer in answers] == ["1", "0"]
    named = [{"text": row["text"], "known": row["state"]} for row in asked]
    assert weft.predict(folder.path, named, device="cpu") == answers
    table = [{**row, "known": json.dumps(row["known"])} for row in named]
    assert weft.predict(folder.path, table, device="cpu") == answers
    loaded = weft.load(folder.path)
    logits = loaded.logits(asked).values
    assert logits[0].argmax() != logits[1].argmax()


def test_a_kept_mixture_is_the_one_that_was_trained(settings: Settings, tmp_path: Path) -> None:
    folder = trained(settings(), tmp_path)
    again = weft.evaluate(folder.path, data=DATA, device="cpu", save=False)
    assert not isinstance(again, list)
    written = {row["name"]: row["value"] for row in folder.metrics}
    assert all(written[name] == score.value for name, score in again.scores.items())


@pytest.mark.parametrize(
    ("columns", "mixture", "said"),
    [
        ({}, {}, r"state_size 3, and row ann0 of train has no state.*columns: \{state: THE_COLUMN"),
        (None, {"state_size": 2}, "row ann0 of train has a state of 3 .*set mixture.state_size=3"),
        (None, {"state_size": 0}, "row ann0 of train has a state of 3 .*set mixture.state_size=3"),
    ],
)
def test_rows_without_what_the_gates_read_are_refused_before_training(
    settings: Settings, tmp_path: Path, columns: Any, mixture: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        train(settings(columns, **mixture), out=tmp_path / "run", data=DATA)


def test_kinds_whose_answers_are_written_are_refused_before_training(
    settings: Settings, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    spec = {"kind": "causal_lm", "max_length": 32, "columns": {"state": "known"}}
    run = settings() | {"base": str(tiny_folder("llama")), "task": {"name": "films", "spec": spec}}
    with pytest.raises(ValueError, match=r"task films writes its answers.*mixture.state_size=0"):
        train(run, out=tmp_path / "run", data=DATA)


@pytest.mark.parametrize("value", ["nothing", [], [1.0, "x"], 3.0, [float("nan")], True])
def test_a_state_is_a_list_of_numbers(settings: Settings, tmp_path: Path, value: Any) -> None:
    rows = [{**row, "known": value} for row in rows_of(2)]
    with pytest.raises(ValueError, match="known"):
        train(settings(), out=tmp_path / "run", data={"train": rows, "validation": rows})


def test_a_row_that_is_asked_without_its_state_is_refused(
    settings: Settings, tmp_path: Path
) -> None:
    folder = trained(settings(), tmp_path)
    for row in ("a film", {"text": "a film"}, {"text": "a film", "state": [1.0]}):
        with pytest.raises(ValueError, match="this mixture's gates read 3 of whom it is for"):
            weft.predict(folder.path, [row], device="cpu")


def test_a_server_answers_by_state_and_refuses_the_row_that_has_none(
    settings: Settings, tmp_path: Path
) -> None:
    folder = trained(settings(), tmp_path)
    asked = [{"text": "a film of number 1", "state": STATES[who]} for who in ("ann", "bob")]

    async def ask() -> None:
        async with Engine(Shelf(folders=[tmp_path], device="cpu")) as engine:
            said = await asyncio.gather(*(engine.predict("run/films", [row]) for row in asked))
            wanted = weft.predict(folder.path, asked, device="cpu")
            assert [one.predictions[0]["label"] for one in said] == [row["label"] for row in wanted]
            for row in ({"text": "a film"}, {"text": "a film", "state": [1.0]}):
                with pytest.raises(BadInput, match="gates read 3 of whom it is for"):
                    await engine.predict("run/films", [row])
            with pytest.raises(BadInput, match="gates read 3 of whom it is for"):
                await engine.embed(["a film"], "run/films")

    asyncio.run(ask())


def test_rows_of_others_need_no_state_in_a_shared_batch(settings: Settings, tmp_path: Path) -> None:
    loaded = load_run_model(trained(settings(), tmp_path).path, device="cpu")
    ids = [5, 6, 7, 8]
    told = {"id": "a", "input_ids": [ids], "token_type_ids": [[0] * 4], "state": STATES["bob"]}
    silent = {name: own for name, own in told.items() if name != "state"}
    kind = loaded.task.spec.kind
    items = [
        Item(loaded.name, kind, (), silent),
        Item(loaded.name, kind, loaded.members, told),
        Item(loaded.name, kind, loaded.members, {**told, "state": STATES["ann"]}),
    ]
    with torch.inference_mode():
        together = loaded.model.snapshot(collate(items, 0))[loaded.name]
        for at, item in enumerate(items):
            alone = loaded.model.snapshot(collate([item], 0))[loaded.name]
            assert_close(together[at], alone[0])
        with pytest.raises(ValueError, match="gates read 3 of whom it is for"):
            loaded.model.snapshot(collate([Item(loaded.name, kind, loaded.members, silent)], 0))
    assert not torch.allclose(together[1], together[2])


def test_each_window_of_a_row_keeps_its_state() -> None:
    record = {"id": "a", "input_ids": [[1, 2], [3, 4]], "state": STATES["ann"]}
    own = units_of(Item("where", "span_extraction", ("where",), record))
    assert [unit.record["state"] for unit in own] == [STATES["ann"]] * 2
