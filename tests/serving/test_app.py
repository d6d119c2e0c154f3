"""What every path answers, and how it refuses."""

import concurrent.futures
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serving.conftest import READERS
from tests.serving.refused import REFUSED, TOPIC
from tests.serving.runs import INPUTS, close, write_run
from tests.serving.served import app_of, error_of, listening
from weft.answering.prediction import predict
from weft.base.loading import load_base
from weft.serving.http.settings import ServerSettings


@pytest.mark.parametrize("kind", READERS)
def test_predictions_are_those_of_offline(
    kind: str, http: httpx.Client, shelf_folder: Path
) -> None:
    said = http.post("/v1/predict", json={"expert": kind, "inputs": INPUTS[kind]}).json()
    offline = predict(shelf_folder / kind, INPUTS[kind], device="cpu")
    assert close(said["predictions"], json.loads(json.dumps(offline)))
    assert said["expert"] == kind
    assert re.fullmatch("[0-9a-f]+", said["version"])
    assert said["tokens"] > 0
    assert said["seconds"] > 0


def test_no_input_has_no_answers(http: httpx.Client) -> None:
    said = http.post("/v1/predict", json={"expert": TOPIC, "inputs": []}).json()
    assert said["predictions"] == []


def test_requests_keep_their_name_or_get_one(http: httpx.Client) -> None:
    kept = http.get("/healthz", headers={"X-Request-ID": "a1.b-c_d:2"})
    assert kept.headers["X-Request-ID"] == "a1.b-c_d:2"
    for unfit in ("a b", "x" * 129, "-", "é", ""):
        made = http.get("/healthz", headers={"X-Request-ID": unfit.encode()})
        assert re.fullmatch("[0-9a-f]{32}", made.headers["X-Request-ID"])


def test_experts_are_listed_and_shown(http: httpx.Client) -> None:
    listed = http.get("/v1/experts").json()["experts"]
    assert [one["name"] for one in listed] == sorted(READERS)
    one = http.get(f"/v1/experts/{TOPIC}").json()
    assert one["kind"] == "expert"
    assert one["tasks"][0]["labels"] == ["bad", "good"]
    assert one["tasks"][0]["columns"] == ["text"]
    error_of(http.get("/v1/experts/topik"), 404, "unknown_expert")


def test_state_and_numbers(http: httpx.Client) -> None:
    assert http.get("/healthz").json() == {"status": "ok"}
    assert http.get("/readyz").json() == {"status": "ready"}
    before = _number(http, "weft_answered_inputs_total")
    http.post("/v1/predict", json={"expert": TOPIC, "inputs": ["a", "the"]})
    assert _number(http, "weft_answered_inputs_total") == before + 2
    assert _number(http, 'weft_requests_total{route="/v1/predict",status="200"}') >= 1
    assert _number(http, "weft_engine_residents") >= 1
    http.get("/a/stranger's/path")
    series = _series(http)
    assert any('route="other",status="404"' in one for one in series)
    assert not any("stranger" in one for one in series)
    for name in ("invented", "invented/task", "another"):
        http.post("/v1/predict", json={"expert": name, "inputs": ["a"]})
        http.get(f"/v1/experts/{name}")
        http.get(f"/v1/{name}")
    # Names that somebody makes up are no series: what grew is the routes and statuses that there are.
    assert not any("invented" in one or "another" in one for one in _series(http))


def _series(http: httpx.Client) -> set[str]:
    return {line.rpartition(" ")[0] for line in http.get("/metrics").text.splitlines()}


def _number(http: httpx.Client, name: str) -> float:
    lines = http.get("/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith(f"{name} ")).split()[-1])


@pytest.mark.parametrize(("method", "path", "sent", "status", "code", "says"), REFUSED)
def test_what_is_wrong_is_said_in_one_shape(
    method: str,
    path: str,
    sent: dict[str, Any],
    status: int,
    code: str,
    says: str,
    http: httpx.Client,
) -> None:
    assert says in error_of(http.request(method, path, **sent), status, code)


@pytest.fixture
def changing(shelf_folder: Path, tmp_path: Path) -> Iterator[tuple[httpx.Client, Path]]:
    """A server over a folder of one's own, and the folder."""
    (tmp_path / TOPIC).symlink_to(shelf_folder / TOPIC)
    (tmp_path / "link").symlink_to(shelf_folder / TOPIC)
    base = load_base(
        str(json.loads((shelf_folder / TOPIC / "expert" / "weft.json").read_text())["base"])
    )
    write_run(tmp_path / "first", base, TOPIC, 11)
    write_run(tmp_path / "second", base, TOPIC, 12)
    with listening(app_of(tmp_path)) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client, tmp_path


def test_an_expert_comes_is_replaced_and_goes(changing: tuple[httpx.Client, Path]) -> None:
    http, folder = changing
    question = {"expert": "mine", "inputs": INPUTS[TOPIC]}
    error_of(http.post("/v1/predict", json=question), 404, "unknown_expert")
    versions = []
    for name in ("first", "second"):
        put = http.put("/v1/experts/mine", json={"folder": name}).json()
        assert (put["name"], put["state"]) == ("mine", "resident")
        said = http.post("/v1/predict", json=question).json()
        offline = predict(folder / name, INPUTS[TOPIC], device="cpu")
        assert close(said["predictions"], json.loads(json.dumps(offline)))
        assert said["version"] == put["version"]
        versions.append(said["version"])
    assert versions[0] != versions[1]
    gone = http.delete("/v1/experts/mine")
    assert (gone.status_code, gone.content) == (204, b"")
    error_of(http.post("/v1/predict", json=question), 404, "unknown_expert")
    error_of(http.delete("/v1/experts/mine"), 404, "unknown_expert")
    assert (folder / "second" / "expert").is_dir()


def test_clients_are_told_an_experts_name_not_where_it_lies(
    changing: tuple[httpx.Client, Path], caplog: pytest.LogCaptureFixture
) -> None:
    http, folder = changing
    (folder / "first" / "expert" / "adapter_model.safetensors").write_bytes(b"cut")
    (folder / "second" / "expert" / "weft.json").write_text("{")
    (folder / "half").mkdir()
    (folder / "half" / "run.yaml").write_text("")
    question = {"inputs": ["a"]}
    for name in ("first", "second", "half"):
        put = error_of(http.put("/v1/experts/mine", json={"folder": name}), 422, "expert_refused")
        asked = error_of(
            http.post("/v1/predict", json={**question, "expert": name}), 422, "expert_refused"
        )
        listed = next(
            one for one in http.get("/v1/experts").json()["experts"] if one["name"] == name
        )
        for said in (put, asked, listed["reason"]):
            assert str(folder) not in said
        assert name in asked
    # Whoever runs the server finds out where.
    reasons = [getattr(one, "fields", {}).get("reason", "") for one in caplog.records]
    assert any(str(folder / "first" / "expert") in one for one in reasons)


def test_links_and_names_do_not_lead_out(changing: tuple[httpx.Client, Path]) -> None:
    http, folder = changing
    assert {one["name"] for one in http.get("/v1/experts").json()["experts"]} == {"first", "second"}
    for name in (
        "..",
        "../x",
        "%2e%2e%2fx",
        "a%00b",
        "a%0ab",
        ".hidden",
        "a/b/c",
        "x" * 200,
        "a%5cb",
        "é",
    ):
        for method in ("GET", "PUT", "DELETE"):
            sent = {"json": {"folder": "first"}} if method == "PUT" else {}
            refused = http.request(method, f"/v1/experts/{name}", **sent)
            assert refused.status_code in (400, 404, 405, 422), (method, name, refused.text)
    for where in (
        "link",
        "..",
        ".",
        "../first",
        str(folder.parent),
        "/",
        "first/../../x",
        "first\\..",
        "nobody",
    ):
        error_of(http.put("/v1/experts/mine", json={"folder": where}), 422, "expert_refused")
    assert {one["name"] for one in http.get("/v1/experts").json()["experts"]} == {"first", "second"}


def test_more_at_a_time_than_the_server_takes_is_told_to_come_back(shelf_folder: Path) -> None:
    settings = ServerSettings(max_requests=1)
    question = {"expert": TOPIC, "inputs": ["the good dog"] * 200}
    with (
        listening(app_of(shelf_folder, settings=settings)) as url,
        concurrent.futures.ThreadPoolExecutor(8) as pool,
    ):
        sent = [
            pool.submit(httpx.post, f"{url}/v1/predict", json=question, timeout=60)
            for _ in range(8)
        ]
        found = [one.result() for one in sent]
        assert httpx.get(f"{url}/healthz").status_code == 200
    refused = [one for one in found if one.status_code != 200]
    assert len(refused) < len(found)
    for one in refused:
        error_of(one, 429, "overloaded")
        assert int(one.headers["Retry-After"]) >= 1
    assert refused


def test_bodies_of_all_requests_have_room_together(shelf_folder: Path) -> None:
    settings = ServerSettings(max_held_bytes=200)
    question = {"expert": TOPIC, "inputs": ["a"]}
    with listening(app_of(shelf_folder, settings=settings)) as url, httpx.Client() as http:
        large = http.post(f"{url}/v1/predict", json={**question, "inputs": ["a" * 200]}, timeout=60)
        assert "all may hold 200" in error_of(large, 429, "overloaded")
        # What is answered makes room again.
        for _ in range(5):
            assert http.post(f"{url}/v1/predict", json=question, timeout=60).status_code == 200


def test_pages_may_load_nothing(http: httpx.Client) -> None:
    page = http.get("/docs")
    assert page.headers["Content-Security-Policy"].startswith(
        "default-src 'none'; style-src 'sha256-"
    )
    assert not re.search(r"(src|href)=\"(https?:)?//", page.text)
    assert "<script" not in page.text
    for path in http.get("/openapi.json").json()["paths"]:
        assert path.replace("{", "{") in page.text
    for path in ("/healthz", "/v1/experts", "/nowhere"):
        assert "default-src 'none'" in http.get(path).headers["Content-Security-Policy"]
        assert "access-control-allow-origin" not in http.get(path).headers
