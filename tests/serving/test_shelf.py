"""The shelf by itself: what is in memory, who pins it, what is refused, and that names stay where they belong."""

import asyncio
import gc
import json
import os
import shutil
import time
import weakref
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.serving.runs import INPUTS, said, write_run
from weft.answering.prediction import predict
from weft.base.loading import Base, load_base
from weft.config import Run
from weft.runs import RunFolder
from weft.serving import Engine, Room, Shelf
from weft.serving.entries import place_of
from weft.serving.errors import (
    BadInput,
    ExpertInUse,
    ExpertRefused,
    NameRefused,
    TooLarge,
    UnknownExpert,
)
from weft.serving.resident import Wanted, load
from weft.storage.loading import ground_of

KIND = "sequence_classification"
COUNT = 6


@pytest.fixture(scope="module")
def bert(tiny_folder: Callable[[str], Path]) -> Base:
    return load_base(str(tiny_folder("bert")))


@pytest.fixture(scope="module")
def made(bert: Base, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Experts `e0` to `e5`; never to be changed."""
    folder = tmp_path_factory.mktemp("experts")
    for at in range(COUNT):
        write_run(folder / f"e{at}", bert, KIND, at)
    return folder


@pytest.fixture
def own(made: Path, tmp_path: Path) -> Path:
    """A copy of them, to be changed."""
    shutil.copytree(made, tmp_path / "experts")
    return tmp_path / "experts"


def opened(shelf: Shelf, use: Callable[[Shelf], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        await shelf.open()
        try:
            await use(shelf)
        finally:
            shelf.close()

    asyncio.run(run())


async def size_of(shelf: Shelf, name: str) -> int:
    async with shelf.leased([name]) as [resident]:
        return resident.bytes


def test_the_longest_unasked_leaves_when_its_room_is_needed(made: Path) -> None:
    async def use(shelf: Shelf) -> None:
        for name in ("e0", "e1", "e2", "e0", "e3"):
            async with shelf.leased([name]):
                pass
        assert [one.name for one in shelf.residents] == ["e2", "e0", "e3"]
        held = shelf.ground.model.snapshot.residents
        assert len(held) == 3 + 1  # and the mean, which is no expert

    opened(Shelf(folders=[made], room=Room(experts=3), device="cpu"), use)


def test_bytes_bound_what_is_in_memory(made: Path) -> None:
    async def use(shelf: Shelf) -> None:
        size = await size_of(shelf, "e0")
        shelf.memory.room = Room(bytes=size * 3)
        for at in range(COUNT):
            await size_of(shelf, f"e{at}")
            assert shelf.bytes <= shelf.room.bytes
        assert (
            len(shelf.residents) == 2
        )  # loading the third takes room for its file and its factors

    opened(Shelf(folders=[made], device="cpu"), use)


def test_what_is_in_use_stays_and_the_next_waits_for_its_room(made: Path) -> None:
    async def use(shelf: Shelf) -> None:
        waiting, entered = asyncio.Event(), asyncio.Event()

        async def second() -> None:
            waiting.set()
            async with shelf.leased(["e1"]):
                entered.set()

        async with shelf.leased(["e0"]) as [first]:
            task = asyncio.create_task(second())
            await waiting.wait()
            # The load asks for room before it reads: let it come to that.
            for _ in range(50):
                await asyncio.sleep(0)
            assert not entered.is_set()
            assert shelf.residents == (first,)
        await task
        assert [one.name for one in shelf.residents] == ["e1"]

    opened(Shelf(folders=[made], room=Room(experts=1), device="cpu"), use)


def test_experts_that_do_not_fit_together_are_refused_at_once(made: Path) -> None:
    async def use(shelf: Shelf) -> None:
        with pytest.raises(TooLarge, match="do not fit"):
            async with shelf.leased(["e0", "e1"]):
                pass
        async with shelf.leased(["e1"]):
            pass

    opened(Shelf(folders=[made], room=Room(experts=1), device="cpu"), use)


def test_many_who_ask_for_one_expert_load_it_once(made: Path) -> None:
    async def use(shelf: Shelf) -> None:
        async def ask() -> int:
            async with shelf.leased(["e0"]) as [resident]:
                return id(resident)

        assert len(set(await asyncio.gather(*(ask() for _ in range(20))))) == 1
        names = [name for name in shelf.ground.model.experts if name.startswith("e0")]
        assert len(names) == 1

    opened(Shelf(folders=[made], device="cpu"), use)


def test_a_client_who_leaves_while_its_expert_loads_leaves_the_shelf_whole(made: Path) -> None:
    async def use(shelf: Shelf) -> None:
        task = asyncio.create_task(size_of(shelf, "e0"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with shelf.leased(["e0"]) as [resident]:
            assert resident.users == 1
        assert [name.partition("#")[0] for name in shelf.ground.model.experts] == [".mean", "e0"]

    opened(Shelf(folders=[made], device="cpu"), use)


def test_a_replaced_expert_answers_those_who_began_with_it(own: Path, bert: Base) -> None:
    write_run(own.parent / "new", bert, KIND, 77)

    async def use(shelf: Shelf) -> None:
        async with shelf.leased(["e0"]) as [old]:
            entry = await shelf.put("e0", own.parent / "new")
            async with shelf.leased(["e0"]) as [new]:
                assert new.version == entry.version != old.version
                assert {*old.names, *new.names} <= set(shelf.ground.model.experts)
        assert not set(old.names) & set(shelf.ground.model.experts)
        assert shelf.bytes == new.bytes

    opened(Shelf(folders=[own], roots=[own.parent], device="cpu"), use)


def test_what_is_put_twice_at_a_time_is_refused_and_the_first_stands(own: Path) -> None:
    async def use(shelf: Shelf) -> None:
        first = asyncio.create_task(shelf.put("e0", own / "e1"))
        await asyncio.sleep(0)
        with pytest.raises(ExpertInUse):
            await shelf.put("e0", own / "e2")
        with pytest.raises(ExpertInUse):
            await shelf.remove("e0")
        await first
        async with shelf.leased(["e0"]) as [resident]:
            assert resident.place.folder == own / "e1"

    opened(Shelf(folders=[own], device="cpu"), use)


def test_a_removed_expert_is_unknown_and_its_files_stay(own: Path) -> None:
    async def use(shelf: Shelf) -> None:
        async with shelf.leased(["e0"]) as [resident]:
            await shelf.remove("e0")
            with pytest.raises(UnknownExpert):
                async with shelf.leased(["e0"]):
                    pass
            assert resident.names[0] in shelf.ground.model.experts
        assert resident.names[0] not in shelf.ground.model.experts
        assert "e0" not in [entry.name for entry in await shelf.entries()]
        with pytest.raises(UnknownExpert):
            await shelf.remove("e0")
        await shelf.put("e0", own / "e0")
        assert (await shelf.entry("e0")).resident

    opened(Shelf(folders=[own], device="cpu"), use)


def test_a_task_is_not_removed_alone(own: Path) -> None:
    async def use(shelf: Shelf) -> None:
        with pytest.raises(NameRefused, match="an expert goes with all its tasks"):
            await shelf.remove("e0/task")
        assert (await shelf.entry("e0")).name == "e0"

    opened(Shelf(folders=[own], device="cpu"), use)


def test_an_expert_that_is_removed_while_it_loads_does_not_come_back(own: Path) -> None:
    async def use(shelf: Shelf) -> None:
        asked = asyncio.create_task(size_of(shelf, "e0"))
        while not shelf.bytes:
            # Nothing is counted before the load reserves its room.
            await asyncio.sleep(0)
        await shelf.remove("e0")
        with pytest.raises(UnknownExpert):
            await asked
        assert [name for name in shelf.ground.model.experts if name.startswith("e0")] == []
        assert shelf.bytes == 0

    opened(Shelf(folders=[own], device="cpu"), use)


def test_an_expert_whose_files_change_while_they_are_read_is_refused(made: Path) -> None:
    versions = iter(["one", "other"])

    class Changing(Wanted):
        @property
        def version(self) -> str:
            return next(versions)

    ground = ground_of(made / "e0", device="cpu")
    place = place_of(made / "e0")
    assert place is not None
    with pytest.raises(ExpertRefused, match="was changed while it was read"):
        load(Changing("e0", "e0#1", place, None), ground)
    assert not ground.model.experts


def _cut_short(folder: Path) -> None:
    path = folder / "expert" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-40])


def _nan(folder: Path) -> None:
    path = folder / "expert" / "adapter_model.safetensors"
    tensors = load_file(path)
    next(iter(tensors.values()))[0, 0] = float("nan")
    save_file(tensors, path)


def _no_card(folder: Path) -> None:
    (folder / "expert" / "weft.json").write_text("{")


def _other_base(folder: Path) -> None:
    path = folder / "expert" / "weft.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"digest": "0" * 64}))


def _pickle(folder: Path) -> None:
    path = folder / "expert" / "adapter_model.safetensors"
    torch.save(load_file(path), path.with_suffix(".bin"))
    path.unlink()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_cut_short, "cut short|damaged|bytes"),
        (_nan, "NaN or infinite"),
        (_no_card, "not JSON"),
        (_other_base, "trained on .* this server answers on"),
        (_pickle, "safetensors alone"),
    ],
)
def test_a_corrupt_expert_is_refused_and_leaves_the_others(
    own: Path, spoil: Callable[[Path], None], said: str
) -> None:
    spoil(own / "e3")
    before = predict(own / "e1", INPUTS[KIND], device="cpu")

    async def use() -> None:
        async with Engine(Shelf(folders=[own], device="cpu")) as engine:
            for _ in range(2):
                with pytest.raises(ExpertRefused, match=said):
                    await engine.predict("e3", INPUTS[KIND])
            with pytest.raises(ExpertRefused, match=said):
                await engine.put("e1", own / "e3")
            assert (await engine.predict("e1", INPUTS[KIND])).predictions == before
            names = {name.partition("#")[0] for name in engine.shelf.ground.model.experts}
            assert names == {".mean", "e1"}
            assert engine.shelf.bytes == engine.shelf.residents[0].bytes

    asyncio.run(use())


@pytest.mark.parametrize(
    ("room", "said"),
    [
        (Room(rank=2), "has rank 3, over the 2"),
        (Room(tensors=3), "tensors, over the 3"),
        (Room(expert_bytes=1000), "bytes, over the 1,000"),
        (Room(bytes=4000), "bytes in memory"),
    ],
)
def test_what_is_over_the_limits_is_refused_from_its_header(
    made: Path, room: Room, said: str
) -> None:
    async def use(shelf: Shelf) -> None:
        with pytest.raises(ExpertRefused, match=said):
            async with shelf.leased(["e0"]):
                pass
        assert shelf.bytes == 0

    opened(Shelf(folders=[made], room=room, device="cpu"), use)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../e0",
        "e0/..",
        "e0/../e1",
        "/etc",
        "e0/",
        "e0/x/y",
        "a b",
        "e\x00",
        "é",
        "x" * 129,
    ],
)
def test_names_cannot_leave_their_folder(made: Path, name: str) -> None:
    async def use(shelf: Shelf) -> None:
        with pytest.raises(NameRefused):
            async with shelf.leased([name]):
                pass
        with pytest.raises(NameRefused):
            await shelf.put(name, made / "e0")

    opened(Shelf(folders=[made], device="cpu"), use)


def test_folders_outside_the_roots_are_refused_also_by_a_link(own: Path, made: Path) -> None:
    (own / "link").symlink_to(made / "e1")

    async def use(shelf: Shelf) -> None:
        for folder in (made / "e0", "../../e0", "/", str(own / ".."), own, own / "link", "gone"):
            with pytest.raises(ExpertRefused):
                await shelf.put("new", folder)
        with pytest.raises(UnknownExpert):
            async with shelf.leased(["link"]):
                pass
        assert (await shelf.put("new", "e1")).state == "resident"

    opened(Shelf(folders=[own], device="cpu"), use)


def test_a_task_of_a_single_expert_is_refused(made: Path) -> None:
    async def use(shelf: Shelf) -> None:
        with pytest.raises(UnknownExpert, match="no tasks to choose from"):
            async with shelf.leased(["e0/topic"]):
                pass

    opened(Shelf(folders=[made], device="cpu"), use)


def test_experts_trained_together_are_asked_by_their_tasks(bert: Base, tmp_path: Path) -> None:
    both = tmp_path / "experts" / "both"
    kinds = (KIND, "token_classification")
    for at, kind in enumerate(kinds):
        write_run(both / kind, bert, kind, at)
    tasks = [said(kind) for kind in kinds]
    RunFolder(both).write_config(Run.model_validate({"base": bert.name, "tasks": tasks}))

    async def use() -> None:
        async with Engine(Shelf(folders=[both.parent], device="cpu")) as engine:
            [entry] = await engine.experts()
            assert entry.kind == "several"
            assert [task.kind for task in entry.tasks] == [KIND, "token_classification"]
            with pytest.raises(BadInput, match=f"name one of both/{KIND}"):
                await engine.predict("both", INPUTS[KIND])
            for kind in (KIND, "token_classification"):
                found = await engine.predict(f"both/{kind}", INPUTS[kind])
                assert found.predictions == predict(both / kind, INPUTS[kind], device="cpu")

    asyncio.run(use())


def test_memory_is_bounded_and_freed_under_churn(made: Path) -> None:
    async def use() -> None:
        async with Engine(Shelf(folders=[made], room=Room(experts=2), device="cpu")) as engine:
            seen: list[weakref.ref[Any]] = []
            for turn in range(30):
                await engine.predict(f"e{turn % COUNT}", INPUTS[KIND][:1])
                model = engine.shelf.ground.model
                assert len(model.experts) <= 2 + 1
                newest = engine.shelf.residents[-1].names[0]
                seen.append(weakref.ref(model.expert(newest)))
            gc.collect()
            assert sum(ref() is not None for ref in seen) == 2

    asyncio.run(use())


def test_500_experts_are_listed_without_reading_a_tensor(
    made: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    folder = tmp_path / "many"
    for at in range(500):
        shutil.copytree(made / "e0", folder / f"n{at:03}", copy_function=os.link)

    async def use() -> None:
        shelf = Shelf({"named": made / "e1"}, folders=[folder], device="cpu")
        began = time.perf_counter()
        entries = await shelf.entries()
        record_property("seconds to list", time.perf_counter() - began)
        assert [entry.name for entry in entries] == [*(f"n{at:03}" for at in range(500)), "named"]
        assert {entry.state for entry in entries} == {"stored"}
        assert {entry.rank for entry in entries} == {3}
        assert not shelf.grounds
        shelf.close()

    asyncio.run(use())
