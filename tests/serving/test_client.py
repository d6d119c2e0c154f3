"""`weft.Client` and `weft predict --server` answer as `weft.predict` does, and say what the server says."""

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

import weft
from tests.serving.conftest import READERS
from tests.serving.runs import INPUTS, close
from tests.serving.served import KEYS, MANAGE, PREDICT, app_of, listening
from weft.answering.generation import Generation
from weft.answering.prediction import predict
from weft.cli import app
from weft.client.wire import address, settings_of
from weft.serving.http.settings import ServerSettings

TOPIC = "sequence_classification"
TEXTS = ["a good film", "the bad old dog of london said so", "one"]


def json_of(value: object) -> object:
    return json.loads(json.dumps(value))


@pytest.fixture
def client(server: str) -> Iterator[weft.Client]:
    with weft.Client(server) as client:
        yield client


@pytest.mark.parametrize("kind", READERS)
def test_both_clients_answer_as_offline(
    kind: str, client: weft.Client, server: str, shelf_folder: Path
) -> None:
    offline = json_of(predict(shelf_folder / kind, INPUTS[kind], device="cpu"))
    assert close(client.predict(INPUTS[kind], expert=kind), offline)

    async def ask() -> list[object]:
        async with weft.AsyncClient(server) as other:
            return await other.predict(INPUTS[kind], expert=kind)

    assert close(asyncio.run(ask()), offline)


def test_rows_are_numbered_over_all_requests_and_read_as_they_are_needed(
    client: weft.Client, shelf_folder: Path
) -> None:
    read = count()

    def endless() -> Iterator[str]:
        for at in read:
            yield TEXTS[at % len(TEXTS)]

    found = client.predict_iter(endless(), expert=TOPIC, chunk=2)
    first = [next(found) for _ in range(5)]
    assert next(read) == 6
    assert [row["id"] for row in first] == list("01234")
    offline = predict(shelf_folder / TOPIC, [TEXTS[at % 3] for at in range(5)], device="cpu")
    assert close(first, json_of(offline))
    assert client.predict([], expert=TOPIC) == []
    mine = client.predict([{"text": "a", "id": "mine"}], expert=TOPIC)
    assert mine[0]["id"] == "mine"


def test_what_is_no_list_of_inputs_is_refused_here(client: weft.Client) -> None:
    with pytest.raises(TypeError, match="expected several inputs, got 'one text'"):
        client.predict("one text", expert=TOPIC)
    with pytest.raises(ValueError, match="input 1: expected a text or a mapping, got 7"):
        client.predict(["a", 7], expert=TOPIC)  # type: ignore[list-item]


def test_the_servers_words_are_said(client: weft.Client) -> None:
    with pytest.raises(weft.ServerError, match="no expert named 'topic'") as refused:
        client.predict(TEXTS, expert="topic")
    assert (refused.value.code, refused.value.status) == ("unknown_expert", 404)
    assert refused.value.request_id
    with pytest.raises(weft.ServerError, match="input 0: text is missing"):
        client.predict([{"txt": "a"}], expert=TOPIC)
    with pytest.raises(weft.ServerError, match="generation settings are for"):
        client.predict(TEXTS, expert=TOPIC, generation=Generation(max_new_tokens=3))


def test_experts_are_listed_and_managed(shelf_folder: Path) -> None:
    guarded = app_of(shelf_folder, keys=KEYS, settings=ServerSettings(hosts=()))
    with listening(guarded) as url:
        with weft.Client(url, key=PREDICT) as reader:
            assert [one["name"] for one in reader.experts()] == sorted(READERS)
            assert reader.expert(TOPIC)["tasks"][0]["kind"] == TOPIC
            with pytest.raises(weft.ServerError, match="no right to manage"):
                reader.put("mine", TOPIC)
        with weft.Client(url, key=MANAGE) as keeper:
            assert keeper.put("mine", TOPIC)["name"] == "mine"
            assert keeper.predict(TEXTS, expert="mine") == keeper.predict(TEXTS, expert=TOPIC)
            keeper.remove("mine")
            with pytest.raises(weft.ServerError, match="no expert named 'mine'"):
                keeper.expert("mine")
        with weft.Client(url) as nobody, pytest.raises(weft.ServerError, match="asks for a key"):
            nobody.experts()

        async def manage() -> None:
            async with weft.AsyncClient(url, key=MANAGE) as keeper:
                await keeper.put("mine", TOPIC)
                assert (await keeper.expert("mine"))["state"] == "resident"
                await keeper.remove("mine")
                assert "mine" not in [one["name"] for one in await keeper.experts()]

        asyncio.run(manage())


def test_the_key_comes_from_the_environment(
    shelf_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guarded = app_of(shelf_folder, keys=KEYS, settings=ServerSettings(hosts=()))
    monkeypatch.setenv("WEFT_KEY", PREDICT)
    with listening(guarded) as url, weft.Client(url) as client:
        assert client.experts()


def test_a_busy_server_is_asked_again_when_it_says_so(shelf_folder: Path) -> None:
    own = KEYS[0].model_copy(update={"requests_per_minute": 120.0})
    guarded = app_of(shelf_folder, keys=(own,), settings=ServerSettings(hosts=()))
    with listening(guarded) as url:
        with weft.Client(url, key=PREDICT, retries=0) as client:
            ask = (client.experts() for _ in range(1000))
            with pytest.raises(weft.ServerError, match="has used up its requests") as full:
                list(ask)
            assert full.value.retry_after == 1
        with weft.Client(url, key=PREDICT, retries=1) as patient:
            assert patient.experts()


def test_a_server_that_is_not_there_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with (
            weft.Client(url) as client,
            pytest.raises(ConnectionError, match="does `weft serve` run"),
        ):
            client.experts()
        said = CliRunner().invoke(app, ["predict", TOPIC, "a", "--server", url])
        assert said.exit_code == 2
        assert "does `weft serve` run there?" in said.stderr


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("http://a:1/", "http://a:1"),
        ("localhost:8000", "http://localhost:8000"),
        ("https://a/weft", "https://a/weft"),
    ],
)
def test_addresses_are_made_whole(given: str, found: str) -> None:
    assert address(given) == found


@pytest.mark.parametrize("url", ["", "ftp://a", "http://", "file:///etc"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"is no server's address; give one like"):
        weft.Client(url)


def test_another_kind_of_server_is_recognised(server: str) -> None:
    with (
        weft.Client(f"{server}/elsewhere") as client,
        pytest.raises(weft.ServerError, match="is no path of this server"),
    ):
        client.experts()
    found = httpx.get(f"{server}/docs")
    from weft.client.wire import answer_of

    with pytest.raises(weft.ServerError, match="which is no answer of weft"):
        answer_of(found)


def test_settings_are_sent_by_their_names() -> None:
    assert settings_of({"seed": 3, "top_p": None, "stop": ("a",)}) == {"seed": 3, "stop": ["a"]}
    assert settings_of(Generation(max_new_tokens=3))["max_new_tokens"] == 3
    assert "cache" not in settings_of(Generation())
    with pytest.raises(ValueError, match="no setting named 'max_tokens'"):
        settings_of({"max_tokens": 3})


def test_the_command_prints_what_it_prints_offline(server: str, shelf_folder: Path) -> None:
    def said(*arguments: str, text: str | None = None) -> str:
        done = CliRunner().invoke(app, ["predict", *arguments], text)
        assert done.exit_code == 0, done.stderr
        return done.stdout

    run = str(shelf_folder / TOPIC)
    assert said(TOPIC, *TEXTS, "--server", server) == said(run, *TEXTS)
    lines = "\n".join(map(json.dumps, [{"id": "x", "text": TEXTS[0]}, TEXTS[1]]))
    there, here = said(TOPIC, "--server", server, text=lines), said(run, text=lines)
    for one, other in zip(there.splitlines(), here.splitlines(), strict=True):
        assert close(json.loads(one), json.loads(other))
    refused = CliRunner().invoke(app, ["predict", "topic", "a", "--server", server])
    assert refused.exit_code == 2
    assert "weft: no expert named 'topic'" in refused.stderr


@pytest.mark.parametrize(
    ("missing", "typed"),
    [("httpx", ["predict", "a", "b", "--server", "http://a"]), ("uvicorn", ["serve", "a"])],
)
def test_what_is_not_installed_is_named(missing: str, typed: list[str]) -> None:
    # What stands there as None is found nowhere, as where it is not installed.
    code = f"import sys; sys.modules[{missing!r}] = None; from weft.cli import app; app({typed})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "weft: " in done.stderr
    assert f"needs {missing}: pip install 'weft[serve]'" in done.stderr


@pytest.mark.parametrize("sampled", [False, True])
def test_texts_are_continued_as_offline(
    sampled: bool, writing_server: str, writers_folder: Path
) -> None:
    settings = {"max_new_tokens": 6}
    if sampled:
        settings |= {"sample": True, "temperature": 1.5, "top_k": 9, "seed": 3}
    offline = predict(
        writers_folder / "writer", ["the good dog"], generation=Generation(**settings), device="cpu"
    )
    with weft.Client(writing_server) as client:
        assert client.predict(["the good dog"], expert="writer", generation=settings) == offline
        pieces = list(client.stream("the good dog", expert="writer", generation=settings))
    assert "".join(pieces) == offline[0]["continuation"]

    async def ask() -> str:
        async with weft.AsyncClient(writing_server) as client:
            found = client.stream("the good dog", expert="writer", generation=settings)
            return "".join([piece async for piece in found])

    assert asyncio.run(ask()) == offline[0]["continuation"]


def test_a_refused_stream_says_why(writing_server: str) -> None:
    with weft.Client(writing_server) as client:
        with pytest.raises(weft.ServerError, match="no expert named"):
            list(client.stream("the dog", expert="nobody"))
        with pytest.raises(weft.ServerError, match="positions"):
            list(client.stream("the dog", expert="writer", generation={"max_new_tokens": 1000}))
