"""`weft serve` as a process: it starts, answers, drains and ends; what it should not do it refuses at the start."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

import weft
from tests.serving.served import bearer
from weft.cli import app
from weft.serving.starting import named

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
            if '"ready"' in line:
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


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_server_answers_what_is_under_way_and_ends(sig: signal.Signals, shelf_folder: Path) -> None:
    offline = weft.predict(shelf_folder / TOPIC, TEXTS * 100, device="cpu")
    answers: list[object] = []
    with process(f"mine={shelf_folder / TOPIC}", "--device", "cpu") as (running, url):
        with weft.Client(url) as client:
            assert [one["name"] for one in client.experts()] == ["mine"]

        def ask() -> None:
            with weft.Client(url, retries=0) as client:
                body = client.predict_iter(TEXTS * 100, expert="mine", chunk=200)
                answers.extend(body)

        asking = threading.Thread(target=ask)
        asking.start()
        while "weft_requests_under_way 2.0" not in httpx.get(f"{url}/metrics").text and not answers:
            pass
        running.send_signal(sig)
        asking.join()
        code, rest = ended(running)
    assert code == 0, rest
    assert [row["label"] for row in answers] == [row["label"] for row in offline]
    events = [json.loads(line) for line in rest.splitlines()]
    assert any(one["event"] == "draining" for one in events)
    assert "Traceback" not in rest


def test_keys_of_a_file_let_a_network_in(shelf_folder: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys.yaml"
    made = CliRunner().invoke(app, ["key", "alice", "--file", str(keys), "--manage"])
    assert made.exit_code == 0, made.stderr
    key = made.stdout.strip()
    assert key not in keys.read_text()
    options = ("--experts", shelf_folder, "--host", "0.0.0.0", "--keys", keys, "--device", "cpu")
    with process(*options) as (running, url):
        port = url.rpartition(":")[2]
        here = f"http://127.0.0.1:{port}"
        assert httpx.get(f"{here}/v1/experts").status_code == 401
        own = httpx.get(f"{here}/v1/experts", headers=bearer(key) | {"Host": "any.name"})
        assert len(own.json()["experts"]) > 1
        running.terminate()
        code, rest = ended(running)
    assert code == 0
    assert key not in rest


def test_what_would_be_open_or_empty_or_taken_is_refused(shelf_folder: Path, tmp_path: Path) -> None:
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
    assert "is reached from the network" in refused(run, "--host", "::", "--keys", tmp_path / "keys.yaml")
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


def test_a_server_is_told_apart_while_it_drains(shelf_folder: Path) -> None:
    with process(shelf_folder / TOPIC, "--device", "cpu") as (running, url):
        with httpx.Client(base_url=url) as http:
            assert http.get("/readyz").status_code == 200
        running.terminate()
        started = time.monotonic()
        code, _ = ended(running)
        assert code == 0
        assert time.monotonic() - started < 20
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/readyz")
