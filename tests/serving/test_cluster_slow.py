"""Replicas on Ray Serve, two on this machine: the same answers, also while one is killed; what is put reaches both."""

import asyncio
import json
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.serving.conftest import READERS
from tests.serving.refused import REFUSED, TOPIC
from tests.serving.runs import INPUTS, close
from tests.serving.served import error_of, listening
from weft.answering.prediction import predict
from weft.serving.app import create_app
from weft.serving.cluster.scale import Scale
from weft.serving.cluster.starting import replicas_on_ray
from weft.serving.engine import Engine
from weft.serving.errors import UnknownExpert
from weft.serving.http.settings import ServerSettings
from weft.serving.load import Meter
from weft.serving.places import Places
from weft.serving.settings import Limits
from weft.serving.shelf import Shelf
from weft.serving.streaming import Delta

if TYPE_CHECKING:
    from weft.serving.cluster.replica import State
    from weft.serving.cluster.replicas import Replicas

pytestmark = [pytest.mark.slow]

LIMITS = Limits(patience=60.0)
CLIENTS = 12
PAIR = INPUTS["embedding"][0]
Started = tuple["Replicas", str]


def engine_of(folders: list[Path], roots: list[Path]) -> Engine:
    return Engine(Shelf(folders=folders, roots=roots, device="cpu"), LIMITS)


@pytest.fixture(scope="module")
def home(page_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Experts of every kind in `experts`, and one that is not among them in `more`."""
    folder = tmp_path_factory.mktemp("cluster")
    shutil.copytree(page_folder, folder / "experts")
    shutil.copytree(page_folder / "sequence_classification", folder / "more" / "spare")
    return folder


@pytest.fixture(scope="module")
def start(cluster: Any, home: Path) -> Callable[..., Any]:
    experts, roots = [home / "experts"], [home / "more"]
    return partial(
        replicas_on_ray,
        partial(engine_of, experts, roots),
        Places({}, experts, roots),
        LIMITS,
        device="cpu",
    )


@pytest.fixture(scope="module")
def two(start: Callable[..., Any]) -> Iterator[Started]:
    """Two replicas and the address of the server before them."""
    with (
        start(Scale(least=2, most=2), name="two") as replicas,
        listening(create_app(replicas)) as url,
    ):
        yield replicas, url


def offline(home: Path, name: str) -> list[Any]:
    return predict(home / "experts" / name, INPUTS[name], device="cpu")


def everyone(replicas: "Replicas", verb: str, *args: Any) -> list[Any]:
    """What each replica's engine answers at the newest change, whatever Ray would route; a refusal as it is."""

    async def ask() -> list[Any]:
        return await replicas.each("ask", verb, *args)

    return asyncio.run(ask())


def pids(replicas: "Replicas") -> set[int]:
    return {state.pid for state in replicas.states}


def wait_for(what: Callable[[], bool], seconds: float = 300.0) -> float:
    """Seconds until something was so."""
    began = time.monotonic()
    while not what():
        assert time.monotonic() - began < seconds, f"not within {seconds} s"
        time.sleep(0.05)
    return time.monotonic() - began


def test_each_replica_answers_the_bits_of_offline(two: Started, home: Path) -> None:
    replicas, url = two
    assert len(pids(replicas)) == 2
    with httpx.Client(base_url=url, timeout=60) as http:
        for name in READERS:
            wanted = offline(home, name)
            answers = everyone(replicas, "predict", name, INPUTS[name])
            assert [one.predictions for one in answers] == [wanted, wanted]
            said = http.post("/v1/predict", json={"expert": name, "inputs": INPUTS[name]})
            assert said.json()["predictions"] == wanted


def test_the_door_is_that_of_one_process(two: Started, page_server: str) -> None:
    _, url = two
    with httpx.Client(base_url=url, timeout=60) as http:
        assert http.get("/openapi.json").json() == httpx.get(f"{page_server}/openapi.json").json()
        for method, path, given, status, code, said in REFUSED:
            assert said in error_of(http.request(method, path, **given), status, code)
        assert http.get("/readyz").json() == {"status": "ready"}
        listed = {one["name"]: one for one in http.get("/v1/experts").json()["experts"]}
        assert listed.keys() == {*READERS, "blend"}
        gates = http.post("/v1/gates", json={"expert": "blend", "input": "a good film"}).json()
        assert gates["expert"] == "blend"
        vectors = http.post("/v1/embeddings", json={"model": "base", "input": ["a dog"]}).json()
        assert len(vectors["data"]) == 1
        told = http.post("/v1/predict", json={"expert": {"embedding": 1.0}, "inputs": [PAIR]})
        assert told.status_code == 200, told.text
        assert "weft_engine_replicas 2.0" in http.get("/metrics").text
        assert "blend" in http.get("/").text


def test_requests_go_to_the_replica_that_holds_the_expert(two: Started, home: Path) -> None:
    replicas, url = two
    with httpx.Client(base_url=url, timeout=60) as http:
        assert http.put("/v1/experts/routed", json={"folder": "spare"}).status_code == 200
        # Ray Serve tells who holds what ten times a second.
        time.sleep(1)
        for _ in range(20):
            body = {"expert": "routed", "inputs": INPUTS[TOPIC]}
            assert http.post("/v1/predict", json=body).status_code == 200
    shelves = everyone(replicas, "experts")
    holding = [one.resident for shelf in shelves for one in shelf if one.name == "routed"]
    # By chance alone both would hold it but once in half a million.
    assert sorted(holding) == [False, True]


def test_what_was_put_and_removed_is_so_for_whatever_is_asked_afterwards(
    two: Started, home: Path
) -> None:
    replicas, url = two
    tagger = "token_classification"
    with httpx.Client(base_url=url, timeout=60) as http, ThreadPoolExecutor(8) as pool:

        def ask(_: int) -> httpx.Response:
            return http.post("/v1/predict", json={"expert": "new", "inputs": INPUTS[TOPIC]})

        for folder in ("spare", str(home / "experts" / tagger), "spare"):
            put = http.put("/v1/experts/new", json={"folder": folder})
            assert put.status_code == 200, put.text
            version = put.json()["version"]
            told = list(pool.map(ask, range(16)))
            assert {one.json()["version"] for one in told} == {version}
            each = everyone(replicas, "predict", "new", INPUTS[TOPIC])
            assert [one.version for one in each] == [version, version]
        damaged = home / "more" / "damaged"
        shutil.copytree(home / "more" / "spare", damaged)
        (damaged / "expert" / "weft.json").write_text("{")
        said = error_of(
            http.put("/v1/experts/new", json={"folder": "damaged"}), 422, "expert_refused"
        )
        assert str(home) not in said
        assert ask(0).json()["version"] == version
        assert "named 'nowhere'" in error_of(
            http.delete("/v1/experts/nowhere"), 404, "unknown_expert"
        )
        assert error_of(http.delete(f"/v1/experts/new/{TOPIC}"), 400, "name_refused")
        assert http.delete("/v1/experts/new").status_code == 204
        for one in pool.map(ask, range(16)):
            error_of(one, 404, "unknown_expert")
        with pytest.raises(UnknownExpert):
            everyone(replicas, "predict", "new", INPUTS[TOPIC])


def test_a_replica_killed_under_load_costs_no_answer(
    two: Started, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    replicas, url = two
    asked = {name: [bare(one) for one in INPUTS[name]] * 8 for name in READERS}
    wanted = {name: predict(home / "experts" / name, asked[name], device="cpu") for name in READERS}
    found: Counter[str] = Counter()
    over = threading.Event()

    def client(at: int) -> None:
        with httpx.Client(base_url=url, timeout=60) as http:
            for turn in count(at):
                if over.is_set():
                    return
                name = READERS[turn % len(READERS)]
                said = http.post("/v1/predict", json={"expert": name, "inputs": asked[name]})
                if said.status_code != 200:
                    found[said.json()["error"]["code"]] += 1
                else:
                    # In company a row's numbers move by rounding.
                    right = close(said.json()["predictions"], wanted[name])
                    found["right" if right else "wrong"] += 1

    assert httpx.put(f"{url}/v1/experts/kept", json={"folder": "spare"}).status_code == 200
    before, retried = pids(replicas), replicas.retries
    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(client, at) for at in range(CLIENTS)]
        try:
            wait_for(lambda: found["right"] >= 50)
            killed, rows = busiest(replicas)
            os.kill(killed, signal.SIGKILL)
            answered = found["right"]
            wait_for(lambda: found["right"] >= answered + 100)
            seconds = wait_for(lambda: len(pids(replicas) - {killed}) == 2)
        finally:
            over.set()
        for one in clients:
            one.result(timeout=60)
    retries = replicas.retries - retried
    with capsys.disabled():
        print(
            f"\n{CLIENTS} clients; the killed replica had {rows} inputs under way; {retries} requests asked "
            f"again; answers {dict(found)}; another replica after {seconds:.1f} s"
        )
    assert found["right"] > 150
    assert set(found) == {"right"}, found
    assert 1 <= retries <= CLIENTS
    assert len(pids(replicas) & before) == 1
    for name in READERS:
        each = everyone(replicas, "predict", name, asked[name])
        assert [one.predictions for one in each] == [wanted[name]] * 2
    # The new one was told of what had been put before it came.
    assert len(everyone(replicas, "predict", "kept", INPUTS[TOPIC])) == 2


def bare(value: Any) -> Any:
    """An input without an id of its own, which may be asked several times at once."""
    return (
        {key: own for key, own in value.items() if key != "id"}
        if isinstance(value, dict)
        else value
    )


def busiest(replicas: "Replicas") -> tuple[int, int]:
    """The process of a replica that has inputs under way, and how many."""
    found: list[State] = []

    def look() -> bool:
        found[:] = sorted(asyncio.run(replicas.each("state")), key=lambda one: one.load.rows)
        return found[-1].load.rows > 0

    wait_for(look)
    return found[-1].pid, found[-1].load.rows


class Deadly:
    """A replica that dies of every request."""

    def __init__(self) -> None:
        self._engine = None

    async def ask(self, *_: Any, **__: Any) -> None:
        # Ray itself gives a request to another replica as long as none has said that it took it.
        await asyncio.sleep(1)
        os.kill(os.getpid(), signal.SIGKILL)

    async def stream(self, *_: Any, **__: Any) -> AsyncGenerator[Delta]:
        yield Delta("begun", 1, None, 3, "writer", "0")
        await asyncio.sleep(1)
        os.kill(os.getpid(), signal.SIGKILL)

    async def state(self, *_: Any) -> "State":
        from weft.serving.cluster.replica import State

        return State(
            "deadly",
            os.getpid(),
            Meter().load(waiting={}, rows=0, residents=0, bytes=0, draining=False),
        )


def test_a_request_whose_second_replica_dies_too_is_refused(cluster: Any, home: Path) -> None:
    from ray import serve

    from weft.serving.cluster.replicas import Replicas

    deadly = serve.deployment(Deadly).options(health_check_period_s=1, num_replicas=1)
    deploy = partial(serve.run, deadly.bind(), name="deadly", route_prefix=None)
    replicas = Replicas(Places({}, [home / "experts"]), deploy, LIMITS)
    with listening(create_app(replicas, ServerSettings(deadline_s=300))) as url:
        body = {"expert": TOPIC, "inputs": ["a"]}
        said = httpx.post(f"{url}/v1/predict", json=body, timeout=300)
        assert "the process that was to answer died" in error_of(said, 503, "replica_lost")
        assert said.headers["Retry-After"] == "1"
        assert replicas.retries == 1
        assert "weft_engine_retries_total 1.0" in httpx.get(f"{url}/metrics").text
        # What was begun to be told is not begun anew.
        writing = {"model": TOPIC, "prompt": "a", "stream": True}
        told = httpx.post(f"{url}/v1/completions", json=writing, timeout=300).text
        first, last = (json.loads(one.removeprefix("data: ")) for one in told.split("\n\n") if one)
        assert first["choices"][0]["text"] == "begun"
        assert last["error"]["code"] == "replica_lost"
        assert replicas.retries == 1
    serve.delete("deadly")
