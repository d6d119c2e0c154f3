"""`weft serve` as a process: it starts, answers, drains and ends; what it should not do it refuses at the start."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

import weft
from tests.serving.served import bearer, error_of
from weft.cli import app
from weft.serving.http.starting import named

TOPIC = "sequence_classification"
TEXTS = ["the good dog", "a bad film"]


@contextmanager
def process(*arguments: object, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`weft serve`, once it is ready, and its address."""
    command = [sys.executable, "-m", "weft", "serve", *map(str, arguments), "--port", "0"]
    running = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    assert running.stderr is not None
    try:
        lines = []
        for line in running.stderr:
            lines.append(line)
            # Whoever reads the log reads every line of it.
            if json.loads(line)["event"] == "ready":
                break
        else:
            raise AssertionError("".join(lines))
        yield running, json.loads(line)["url"]
    finally:
        if running.poll() is None:
            running.kill()
        running.wait()
        running.stderr.close()


def ended(running: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code, and what stood on stderr."""
    assert running.stderr is not None
    rest = running.stderr.read()
    return running.wait(timeout=60), rest


def asked_while_ending(
    running: subprocess.Popen[str], url: str, key: str | None, sig: signal.Signals
) -> list[Any]:
    """The answers to a request that was under way when the server was asked to end."""
    answers: list[Any] = []

    def ask() -> None:
        with weft.Client(url, key=key, retries=0) as client:
            answers.extend(client.predict_iter(TEXTS * 100, expert="mine", chunk=200))

    asking = threading.Thread(target=ask)
    asking.start()
    headers = bearer(key) if key else {}
    # The one that asks for the metrics is under way itself.
    while "weft_requests_under_way 2.0" not in httpx.get(f"{url}/metrics", headers=headers).text:
        assert asking.is_alive()
    running.send_signal(sig)
    asking.join()
    return answers


def test_a_server_with_keys_answers_a_network_drains_and_ends(
    shelf_folder: Path, tmp_path: Path
) -> None:
    keys = tmp_path / "keys.yaml"
    made = CliRunner().invoke(app, ["key", "alice", "--file", str(keys), "--manage"])
    assert made.exit_code == 0, made.stderr
    key = made.stdout.strip()
    assert key not in keys.read_text()
    options = (f"mine={shelf_folder / TOPIC}", "--experts", shelf_folder, "--device", "cpu")
    more = ("--max-inputs", 200, "--max-requests", 50)
    with process(*options, *more, "--host", "0.0.0.0", "--keys", keys) as (running, url):
        here = f"http://127.0.0.1:{url.rpartition(':')[2]}"
        many = {"expert": "mine", "inputs": ["a"] * 201}
        said = httpx.post(f"{here}/v1/predict", json=many, headers=bearer(key))
        assert "201 inputs, a request may have 200" in error_of(said, 413, "too_large")
        assert httpx.get(f"{here}/v1/experts").status_code == 401
        own = httpx.get(f"{here}/v1/experts", headers=bearer(key) | {"Host": "any.name"})
        assert {"mine", TOPIC} <= {one["name"] for one in own.json()["experts"]}
        answers = asked_while_ending(running, here, key, signal.SIGTERM)
        code, rest = ended(running)
    assert code == 0, rest
    offline = weft.predict(shelf_folder / TOPIC, TEXTS * 100, device="cpu")
    assert [row["label"] for row in answers] == [row["label"] for row in offline]
    events = [json.loads(line) for line in rest.splitlines()]
    assert {"draining", "request"} <= {one["event"] for one in events}
    assert key not in rest
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{here}/readyz")


def test_what_would_wait_longer_than_the_option_says_is_refused(shelf_folder: Path) -> None:
    options = (f"mine={shelf_folder / TOPIC}", "--device", "cpu", "--waiting", "1e-9")
    many = {"expert": "mine", "inputs": TEXTS * 100}
    with process(*options) as (_, url), ThreadPoolExecutor(8) as pool:

        def ask(_: int) -> int:
            return httpx.post(f"{url}/v1/predict", json=many, timeout=60).status_code

        # Before the first answer there is no telling how fast it is.
        assert ask(0) == 200
        assert set(pool.map(ask, range(24))) == {200, 429}


@pytest.mark.slow
def test_ctrl_c_ends_a_server_as_politely(shelf_folder: Path) -> None:
    with process(f"mine={shelf_folder / TOPIC}", "--device", "cpu") as (running, url):
        assert len(asked_while_ending(running, url, None, signal.SIGINT)) == 200
        code, rest = ended(running)
    assert code == 0, rest
    assert "Traceback" not in rest


def test_what_would_be_open_or_empty_or_taken_is_refused(
    shelf_folder: Path, tmp_path: Path
) -> None:
    def refused(*arguments: object) -> str:
        done = CliRunner().invoke(app, ["serve", *map(str, arguments)])
        assert done.exit_code == 2, done.stderr
        return done.stderr

    run = shelf_folder / TOPIC
    for host in ("0.0.0.0", "::", "192.168.0.1"):
        said = refused(run, "--host", host)
        assert f"--host {host} is reached from the network" in said
        assert "make a key by `weft key NAME --file keys.yaml`" in said
    (tmp_path / "keys.yaml").write_text("keys: []")
    assert "is reached from the network" in refused(
        run, "--host", "::", "--keys", tmp_path / "keys.yaml"
    )
    assert "nothing to serve" in refused()
    assert "holds no expert" in refused(tmp_path)
    assert "would both be called" in refused(run, run)
    assert "no expert can be called" in refused(f"../x={run}")
    assert "no such file" in refused(run, "--keys", tmp_path / "none.yaml")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "take another --port" in refused(run, "--port", taken.getsockname()[1])


def test_runs_are_called_by_their_folders_or_as_one_says(tmp_path: Path) -> None:
    odd = tmp_path / "a=b"
    odd.mkdir()
    assert named([str(tmp_path / "x"), f"y={tmp_path}/z", str(odd)]) == {
        "x": tmp_path / "x",
        "y": tmp_path / "z",
        "a=b": odd,
    }
    with pytest.raises(ValueError, match="give one of them as NAME=FOLDER"):
        named(["a/x", "b/x"])
