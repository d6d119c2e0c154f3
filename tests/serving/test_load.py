"""Many clients: fair, bounded, on time, and whole when the engine ends."""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.serving.runs import INPUTS, Answered, close, write_mixture, write_run
from weft.answering.automatic import predict_auto
from weft.answering.prediction import predict
from weft.base.loading import Base, load_base
from weft.serving import Answers, Engine, Limits, Room, Shelf
from weft.serving.errors import BadInput, DeadlinePassed, Draining, Failed, Overloaded, ServingError
from weft.storage.loading import load_mixture_model

KIND = "sequence_classification"
NAMES = [f"e{at}" for at in range(8)]
TEXTS = INPUTS[KIND]


@pytest.fixture(scope="module")
def bert(tiny_folder: Callable[[str], Path]) -> Base:
    return load_base(str(tiny_folder("bert")))


@pytest.fixture(scope="module")
def runs(bert: Base, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("experts")
    for at, name in enumerate(NAMES):
        write_run(folder / name, bert, KIND, at)
    return folder


def engine_of(runs: Path, limits: Limits | None = None, room: Room | None = None) -> Engine:
    return Engine(Shelf(folders=[runs], device="cpu", room=room), limits)


async def waiting(engine: Engine, rows: int) -> None:
    """Until so many rows stand in the queue of an engine that does not compute yet."""
    while sum(engine.load().waiting.values()) < rows * 3:
        await asyncio.sleep(0)


def test_a_flood_for_one_expert_does_not_hold_up_another(runs: Path) -> None:
    served: list[str] = []

    async def one(engine: Engine, name: str) -> None:
        await engine.predict(name, ["one"])
        served.append(name)

    async def ask() -> None:
        # Three tokens a row; ten rows a batch.
        engine = engine_of(runs, Limits(batch_tokens=30, quantum=3))
        flood = [asyncio.create_task(one(engine, "e0")) for _ in range(200)]
        await waiting(engine, 200)
        calm = [asyncio.create_task(one(engine, name)) for name in NAMES[1:]]
        await waiting(engine, 207)
        async with engine:
            await asyncio.gather(*flood, *calm)

    asyncio.run(ask())
    # All seven that came last are in the first batch, which holds ten; answers of the next few may overtake them on
    # their way back, the twenty-one batches of the flood do not.
    assert {*served[:50]} == {*NAMES}


def test_rows_of_unlike_length_do_not_pad_each_other_and_none_starves(runs: Path) -> None:
    long = "the good dog of london said so " * 8

    async def ask() -> None:
        # 256 padded tokens are few enough for any company; here are far more.
        engine = engine_of(runs, Limits(batch_tokens=2000))
        short = [asyncio.create_task(engine.predict("e0", ["one"] * 50)) for _ in range(4)]
        wide = [asyncio.create_task(engine.predict("e1", [long])) for _ in range(4)]
        tokens = 4 * 50 * 3 + 4 * (7 * 8 + 2)
        while sum(engine.load().waiting.values()) < tokens:
            await asyncio.sleep(0)
        async with engine:
            await asyncio.gather(*short, *wide)
            assert engine.load().batches == 2

    asyncio.run(ask())


def test_rows_of_clients_who_leave_are_never_computed(runs: Path) -> None:
    async def ask() -> None:
        engine = engine_of(runs)
        gone = [asyncio.create_task(engine.predict("e0", ["one"])) for _ in range(50)]
        stays = asyncio.create_task(engine.predict("e1", ["one"]))
        await waiting(engine, 51)
        for task in gone:
            task.cancel()
        await asyncio.wait(gone)
        assert engine.load().waiting == {"e1": 3}
        assert engine.load().rows == 1
        async with engine:
            await stays
            assert engine.load().tokens == 3
            assert all(one.users == 0 for one in engine.shelf.residents)

    asyncio.run(ask())


def test_a_request_is_given_up_at_its_deadline_and_leaves_the_queue(runs: Path) -> None:
    async def ask() -> None:
        engine = engine_of(runs)
        late = asyncio.create_task(engine.predict("e0", ["one"], deadline=0.05))
        with pytest.raises(DeadlinePassed, match=r"no answer in the 0\.05 s"):
            await late
        assert engine.load().waiting == {}
        async with engine:
            assert (await engine.predict("e0", ["one"])).predictions
            with pytest.raises(DeadlinePassed):
                await engine.predict("e0", ["one"], deadline=0.0)

    asyncio.run(ask())


@pytest.mark.parametrize("deadline", [-1.0, float("nan"), float("inf")])
def test_a_deadline_that_is_none_is_refused(runs: Path, deadline: float) -> None:
    async def ask() -> None:
        engine = engine_of(runs)
        with pytest.raises(BadInput, match="number of seconds from now"):
            await engine.predict("e0", ["one"], deadline=deadline)
        engine.shelf.close()

    asyncio.run(ask())


def test_overload_is_refused_with_a_time_to_come_back_and_what_was_let_in_is_answered(
    runs: Path,
) -> None:
    async def ask() -> list[Answers | BaseException]:
        engine = engine_of(runs, Limits(waiting_tokens=60, batch_tokens=30))
        tasks = [asyncio.create_task(engine.predict("e0", ["one"])) for _ in range(100)]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        assert done
        while sum(engine.load().waiting.values()) < 60 or engine.load().rows > 20:
            await asyncio.sleep(0)
        async with engine:
            return await asyncio.gather(*tasks, return_exceptions=True)

    found = asyncio.run(ask())
    kinds = Counter(type(one) for one in found)
    assert kinds == {Answers: 20, Overloaded: 80}
    for one in found:
        assert not isinstance(one, Overloaded) or (one.retry_after > 0 and one.status == 429)


def test_no_more_waits_than_is_done_in_the_time_that_it_may_wait(runs: Path) -> None:
    async def ask(seconds: float) -> list[object]:
        async with engine_of(runs, Limits(waiting_seconds=seconds)) as engine:
            # Before the first there is no telling how fast it is.
            await engine.predict("e0", ["one"])
            many = (engine.predict("e0", TEXTS) for _ in range(20))
            return await asyncio.gather(*many, return_exceptions=True)

    found = asyncio.run(ask(1e-9))
    refused = [own for own in found if isinstance(own, Overloaded)]
    answered = [own for own in found if isinstance(own, Answers)]
    assert refused
    assert answered
    assert len(refused) + len(answered) == 20
    assert all(isinstance(own, Answers) for own in asyncio.run(ask(60)))


def test_the_door_shuts_for_the_expert_that_floods_it_alone(runs: Path) -> None:
    async def ask() -> None:
        engine = engine_of(runs, Limits(waiting_rows=20))
        flood = [asyncio.create_task(engine.predict("e0", ["one"])) for _ in range(20)]
        await waiting(engine, 20)
        with pytest.raises(Overloaded):
            await engine.predict("e0", ["one"])
        calm = asyncio.create_task(engine.predict("e1", ["one"] * 5))
        await waiting(engine, 25)
        async with engine:
            await asyncio.gather(calm, *flood)

    asyncio.run(ask())


def test_draining_answers_what_is_under_way_and_takes_nothing_new(runs: Path) -> None:
    async def ask() -> None:
        engine = engine_of(runs)
        under_way = [asyncio.create_task(engine.predict(name, TEXTS)) for name in NAMES]
        while engine.load().rows < len(NAMES) * len(TEXTS):
            await asyncio.sleep(0)
        async with engine:
            drained = asyncio.create_task(engine.drain(60))
            await asyncio.sleep(0)
            with pytest.raises(Draining):
                await engine.predict("e0", ["one"])
            await drained
            assert all(task.done() for task in under_way)
            assert all(task.result().predictions for task in under_way)

    asyncio.run(ask())


def test_what_is_not_done_when_draining_ends_is_refused_not_lost(runs: Path) -> None:
    async def ask() -> None:
        engine = engine_of(runs)
        # It does not compute: it was never entered.
        tasks = [asyncio.create_task(engine.predict(name, ["one"])) for name in NAMES]
        await waiting(engine, len(NAMES))
        await engine.drain(0.01)
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(one) for one in found} == {Draining}
        assert engine.load().rows == 0
        engine.shelf.close()

    asyncio.run(ask())


def test_a_forward_that_fails_refuses_its_batch_alone(runs: Path) -> None:
    async def ask() -> None:
        async with engine_of(runs) as engine, engine.shelf.leased(["e0"]) as [resident]:
            # A fault of ours: an expert that left its model while somebody had it.
            resident.leave()
            with pytest.raises(Failed, match="the forward pass failed: KeyError"):
                await engine.predict("e0", ["one"])
            assert (await engine.predict("e1", ["one"])).predictions
            assert engine.load().rows == 0

    asyncio.run(ask())


@pytest.mark.parametrize(
    ("clients", "each"), [(24, 4), pytest.param(64, 313, marks=pytest.mark.slow)]
)
def test_every_answer_is_that_of_the_version_it_names_while_experts_come_and_go(
    runs: Path, bert: Base, tmp_path: Path, clients: int, each: int
) -> None:
    """Each name means one of two folders, put in turn until all clients are content; three experts fit at a time."""
    folders = {name: [runs / name, tmp_path / name] for name in NAMES[:5]}
    for at, name in enumerate(folders):
        write_run(tmp_path / name, bert, KIND, 50 + at)
    offline = {
        (name, which): predict(folder, TEXTS, device="cpu")
        for name, both in folders.items()
        for which, folder in enumerate(both)
    }
    write_mixture(tmp_path / "mixed", bert, [KIND, "span_extraction"])
    mixture = load_mixture_model(tmp_path / "mixed", device="cpu")
    mixed = {
        "mixed": predict_auto(mixture, TEXTS),
        f"mixed/{KIND}": predict(mixture.runs[KIND], TEXTS),
    }
    versions: dict[str, tuple[str, int]] = {}
    answered: Counter[str] = Counter()

    async def client(engine: Engine, seed: int) -> None:
        draw = random.Random(seed)
        for _ in range(each):
            name, at = draw.choice([*folders, *mixed]), draw.randrange(len(TEXTS))
            found = await engine.predict(name, [TEXTS[at]])
            if name in mixed:
                expected: Answered = mixed[name]
            else:
                assert versions[found.version][0] == name
                expected = offline[versions[found.version]]
            assert close(found.predictions, [{**expected[at], "id": "0"}], 1e-4)
            answered[found.version] += 1

    async def changes(engine: Engine) -> None:
        for turn in itertools.count():
            for name in folders:
                await engine.put(name, folders[name][turn % 2])

    async def ask() -> None:
        shelf = Shelf(folders=[tmp_path], roots=[runs], room=Room(experts=3), device="cpu")
        async with Engine(shelf) as engine:
            for name, both in folders.items():
                for which, folder in enumerate(both):
                    entry = await engine.put(name, folder)
                    versions[str(entry.version)] = name, which
            changing = asyncio.create_task(changes(engine))
            await asyncio.gather(*(client(engine, seed) for seed in range(clients)))
            changing.cancel()
            await asyncio.wait([changing])
            assert changing.cancelled()
            assert len(engine.shelf.residents) <= 3
            assert engine.load().rows == 0

    asyncio.run(ask())
    assert sum(answered.values()) == clients * each
    assert len(answered) > len(folders) + 1, "some name was answered by both of its versions"


def test_errors_have_codes_and_statuses_of_their_own() -> None:
    known = {kind.code: kind.status for kind in ServingError.__subclasses__()}
    assert len(known) == len(ServingError.__subclasses__())
    assert all(400 <= status < 600 for status in known.values())
