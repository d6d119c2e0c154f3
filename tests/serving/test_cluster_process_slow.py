"""`weft serve --ray` whole: texts that are streamed, keys and limits, more replicas with load, a process that ends."""

import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

import weft
from tests.serving.refused import TOPIC
from tests.serving.runs import INPUTS
from tests.serving.served import KEYS, MANAGE, PREDICT, bearer, error_of, listening
from tests.serving.test_cluster_slow import LIMITS, engine_of, everyone, pids, wait_for
from tests.serving.test_server import ended, process
from weft.answering.generation import Generation
from weft.answering.prediction import predict
from weft.serving.app import create_app
from weft.serving.cluster.scale import Scale
from weft.serving.cluster.starting import replicas_on_ray
from weft.serving.http.security import Key, hashed
from weft.serving.http.settings import ServerSettings
from weft.serving.places import Places

pytestmark = pytest.mark.slow

LIMITED = Key(
    name="limited",
    sha256=hashed("weft-limited-0123456789abcdef"),
    rights=["predict"],
    requests_per_minute=3,
)


def replicas_over(folder: Path, scale: Scale, name: str) -> Any:
    make = partial(engine_of, [folder], [])
    return replicas_on_ray(make, Places({}, [folder]), LIMITS, scale, device="cpu", name=name)


def pieces_of(response: httpx.Response) -> list[dict[str, Any]]:
    """What a stream of events says, without its end."""
    lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def test_texts_are_streamed_and_keys_and_limits_hold(cluster: Any, writers_folder: Path) -> None:
    text = "the good dog"
    [wanted] = predict(
        writers_folder / "writer", [text], generation=Generation(max_new_tokens=12), device="cpu"
    )
    settings = ServerSettings(max_inputs=5)
    scale = Scale(least=2, most=2)
    with (
        replicas_over(writers_folder, scale, "writers") as replicas,
        listening(create_app(replicas, settings, (*KEYS, LIMITED))) as url,
        httpx.Client(base_url=url, timeout=60, headers=bearer(PREDICT)) as http,
    ):
        body = {"model": "writer", "prompt": text, "max_tokens": 12}
        whole = http.post("/v1/completions", json=body).json()["choices"][0]["text"]
        with http.stream("POST", "/v1/completions", json={**body, "stream": True}) as response:
            pieces = pieces_of(response)
        assert "".join(one["choices"][0]["text"] for one in pieces) == whole
        assert wanted["continuation"] == whole
        assert len(pieces) > 2

        error_of(httpx.post(f"{url}/v1/completions", json=body), 401, "unauthorized")
        put = {"folder": "other"}
        error_of(http.put("/v1/experts/more", json=put), 403, "forbidden")
        assert http.put("/v1/experts/more", json=put, headers=bearer(MANAGE)).status_code == 200
        many = {"model": "base", "input": ["a"] * 6}
        error_of(http.post("/v1/embeddings", json=many), 413, "too_large")
        # Counted once, whoever of the two answers.
        limited = bearer("weft-limited-0123456789abcdef")
        told = [http.get("/v1/models", headers=limited) for _ in range(4)]
        assert [one.status_code for one in told] == [200, 200, 200, 429]


def test_more_load_brings_another_replica_which_has_what_was_put(
    cluster: Any, page_folder: Path, tmp_path: Path
) -> None:
    scale = Scale(least=1, most=2, requests=1, most_requests=2, up_s=0, over_s=11)
    over = threading.Event()
    with (
        replicas_over(page_folder, scale, "growing") as replicas,
        listening(create_app(replicas)) as url,
    ):
        put = httpx.put(f"{url}/v1/experts/mine", json={"folder": TOPIC}, timeout=60)
        assert put.status_code == 200
        assert len(pids(replicas)) == 1
        body = {"expert": "mine", "inputs": INPUTS[TOPIC] * 20}

        def client() -> None:
            with httpx.Client(base_url=url, timeout=60) as http:
                while not over.is_set():
                    assert http.post("/v1/predict", json=body).status_code == 200

        with ThreadPoolExecutor(8) as pool:
            clients = [pool.submit(client) for _ in range(8)]
            try:
                wait_for(lambda: len(pids(replicas)) == 2)
            finally:
                over.set()
            for one in clients:
                one.result(timeout=60)
        each = everyone(replicas, "predict", "mine", INPUTS[TOPIC])
        wanted = predict(page_folder / TOPIC, INPUTS[TOPIC], device="cpu")
        assert [one.predictions for one in each] == [wanted, wanted]


def test_a_process_answers_lets_nobody_else_in_and_ends(shelf_folder: Path) -> None:
    environment = {"OMP_NUM_THREADS": "1"}
    options = (f"mine={shelf_folder / TOPIC}", "--device", "cpu", "--ray", "--replicas", "1")
    with process(*options, **environment) as (running, url):
        with weft.Client(url) as client:
            found = client.predict(INPUTS[TOPIC], expert="mine")
        assert found == predict(shelf_folder / TOPIC, INPUTS[TOPIC], device="cpu")
        outsider = "import ray; ray.init('auto', logging_level='fatal')"
        stranger = {
            name: value for name, value in os.environ.items() if not name.startswith("RAY_")
        }
        done = subprocess.run(
            [sys.executable, "-c", outsider],
            env={**stranger, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode != 0
        assert "Unauthenticated" in done.stderr
        running.send_signal(signal.SIGTERM)
        code, rest = ended(running)
    assert code == 0, rest
    # Whoever reads the log reads every line of it.
    events = [json.loads(line)["event"] for line in rest.splitlines()]
    assert events[-1] == "ended" or "ended" in events
