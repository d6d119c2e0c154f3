"""Who may ask what, how often, and what is kept of keys."""

import json
import logging
import time
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import httpx
import pytest
import yaml

from tests.serving.served import KEYS, MANAGE, PREDICT, app_of, bearer, error_of, listening
from weft.serving.errors import Forbidden, Unauthorized
from weft.serving.http.logs import LOG, JsonLines
from weft.serving.http.refusals import RateLimited
from weft.serving.http.security import Gate, Key, add_key, hashed, keys_of, new_key
from weft.serving.http.server import check_exposure, is_loopback
from weft.serving.http.settings import ServerSettings

TOPIC = "sequence_classification"
ASK = {"expert": TOPIC, "inputs": ["a most private text"]}


@pytest.fixture(scope="module")
def guarded(shelf_folder: Path) -> Iterator[httpx.Client]:
    """Talks to a server that asks for keys, and sends none."""
    settings = ServerSettings(hosts=())
    with (
        listening(app_of(shelf_folder, keys=KEYS, settings=settings)) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        yield client


def test_each_path_asks_for_its_right(guarded: httpx.Client) -> None:
    document = guarded.get("/openapi.json").json()
    open_paths = {"/healthz", "/readyz"}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            where = path.replace("{name}", "nobody")
            bare = guarded.request(method, where)
            if path in open_paths:
                assert bare.status_code == 200
                assert "security" not in operation
                continue
            assert "send it as" in error_of(bare, 401, "unauthorized")
            assert bare.headers["WWW-Authenticate"] == "Bearer"
            assert operation["security"] == [{"key": []}]
            wrong = guarded.request(method, where, headers=bearer(new_key()))
            assert "nobody has this key" in error_of(wrong, 401, "unauthorized")
            read = guarded.request(method, where, headers=bearer(PREDICT))
            if method in ("put", "delete"):
                assert "no right to manage" in error_of(read, 403, "forbidden")
            else:
                assert read.status_code not in (401, 403)
            assert guarded.request(method, where, headers=bearer(MANAGE)).status_code not in (
                401,
                403,
            )
    assert guarded.get("/docs").status_code == 200


def test_keys_are_read_only_where_they_belong(guarded: httpx.Client) -> None:
    for headers in (
        {"Authorization": PREDICT},
        {"Authorization": f"Basic {PREDICT}"},
        {"Authorization": "Bearer"},
        {"X-API-Key": PREDICT},
        {"Authorization": b"Bearer \xff\xfe"},
    ):
        error_of(guarded.get("/v1/experts", headers=headers), 401, "unauthorized")
    error_of(guarded.get("/v1/experts", params={"key": PREDICT}), 401, "unauthorized")
    assert guarded.get("/v1/experts", headers=bearer(PREDICT)).status_code == 200


def test_a_stranger_is_sent_away_before_the_body_is_looked_at(guarded: httpx.Client) -> None:
    huge = guarded.post("/v1/predict", content=b"[" * 100)
    error_of(huge, 401, "unauthorized")


def logged(lines: StringIO, wanted: int) -> str:
    """The log, once it has as many lines: a request's comes after the answer that its client has already."""
    until = time.monotonic() + 10
    while (said := lines.getvalue()).count("\n") < wanted and time.monotonic() < until:
        time.sleep(0.01)
    return said


def test_the_log_names_keys_and_holds_neither_secrets_nor_texts(guarded: httpx.Client) -> None:
    lines = StringIO()
    handler = logging.StreamHandler(lines)
    handler.setFormatter(JsonLines())
    LOG.addHandler(handler)
    level = LOG.level
    LOG.setLevel(logging.INFO)
    try:
        sent = {"headers": bearer(PREDICT) | {"X-Request-ID": "mine"}, "params": {"q": "secret"}}
        assert guarded.post("/v1/predict", json=ASK, **sent).status_code == 200
        guarded.get("/v1/experts", headers=bearer("weft-wrong-secret-0123456789"))
        guarded.post("/v1/predict", json={**ASK, "expert": "private name"}, headers=bearer(PREDICT))
        said = logged(lines, 3)
    finally:
        LOG.removeHandler(handler)
        LOG.setLevel(level)
    for secret in (PREDICT, hashed(PREDICT), "secret", "private"):
        assert secret not in said
    first, second, third = map(json.loads, said.splitlines())
    assert (first["request_id"], first["key"], first["route"]) == ("mine", "reader", "/v1/predict")
    assert (first["status"], first["expert"], first["inputs"]) == (200, TOPIC, 1)
    assert first["tokens"] > 0
    assert (second["status"], second["code"], second["key"]) == (401, "unauthorized", None)
    assert (third["status"], third["code"]) == (400, "name_refused")


def test_texts_are_logged_where_that_is_asked_for(shelf_folder: Path) -> None:
    lines = StringIO()
    handler = logging.StreamHandler(lines)
    handler.setFormatter(JsonLines(texts=True))
    LOG.addHandler(handler)
    level = LOG.level
    LOG.setLevel(logging.INFO)
    try:
        app = app_of(shelf_folder, settings=ServerSettings(log_texts=True))
        with listening(app) as url:
            httpx.post(f"{url}/v1/predict", json=ASK, timeout=60)
            requests = logged(lines, 1)
    finally:
        LOG.removeHandler(handler)
        LOG.setLevel(level)
    said = json.loads(requests.splitlines()[-1])
    assert said["inputs"] == ASK["inputs"]
    assert said["predictions"][0]["label"] in ("bad", "good")


class Clock:
    """A clock that stands still until it is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_key_asks_so_much_a_minute() -> None:
    clock = Clock()
    key = Key(name="k", sha256=hashed(PREDICT), rights=["predict"], requests_per_minute=2)
    gate = Gate([key], clock)
    header = f"Bearer {PREDICT}"
    assert [gate.let_in(header, "predict") for _ in range(2)] == ["k", "k"]
    with pytest.raises(
        RateLimited, match=r"has used up its requests of this minute; ask again in 30\.0 s"
    ) as full:
        gate.let_in(header, "predict")
    assert full.value.retry_after == pytest.approx(30)
    clock.now = 29.9
    with pytest.raises(RateLimited):
        gate.let_in(header, "predict")
    clock.now = 30.0
    assert gate.let_in(header, "predict") == "k"


def test_tokens_that_were_read_are_paid_for_afterwards() -> None:
    clock = Clock()
    key = Key(name="k", sha256=hashed(PREDICT), rights=["predict"], tokens_per_minute=600)
    gate = Gate([key], clock)
    gate.let_in(f"Bearer {PREDICT}", "predict")
    gate.charge("k", 900)
    with pytest.raises(RateLimited, match="its tokens") as full:
        gate.let_in(f"Bearer {PREDICT}", "predict")
    # 301 tokens at ten a second.
    assert full.value.retry_after == pytest.approx(30.1)
    clock.now = 30.2
    gate.let_in(f"Bearer {PREDICT}", "predict")
    clock.now = 1e6
    gate.charge("k", 600)
    with pytest.raises(RateLimited):
        gate.let_in(f"Bearer {PREDICT}", "predict")


def test_a_limited_key_is_told_when_to_come_back(shelf_folder: Path) -> None:
    own = KEYS[0].model_copy(update={"requests_per_minute": 1.0})
    with listening(app_of(shelf_folder, keys=(own,), settings=ServerSettings(hosts=()))) as url:
        first, second = (httpx.get(f"{url}/v1/experts", headers=bearer(PREDICT)) for _ in range(2))
    assert first.status_code == 200
    error_of(second, 429, "rate_limited")
    assert 1 <= int(second.headers["Retry-After"]) <= 60


def test_rights_are_apart() -> None:
    managing = Key(name="m", sha256=hashed(MANAGE), rights=["manage"])
    gate = Gate([managing])
    assert gate.let_in(f"bearer {MANAGE}", "manage") == "m"
    assert gate.let_in(f"Bearer {MANAGE}", None) == "m"
    with pytest.raises(Forbidden, match="no right to predict, only to manage"):
        gate.let_in(f"Bearer {MANAGE}", "predict")
    with pytest.raises(Unauthorized):
        gate.let_in(None, None)
    assert Gate().let_in(None, "manage") is None


def test_a_file_of_keys_holds_hashes_for_its_owner_alone(tmp_path: Path) -> None:
    path, text = tmp_path / "keys.yaml", new_key()
    add_key(path, Key(name="alice", sha256=hashed(text), rights=["predict"]))
    add_key(path, Key(name="bob", sha256=hashed(new_key()), rights=["manage"]))
    assert text not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert [key.name for key in keys_of(path, {})] == ["alice", "bob"]
    with pytest.raises(ValueError, match="has a key named 'bob'"):
        add_key(path, Key(name="bob", sha256=hashed(new_key()), rights=["manage"]))


def test_keys_come_from_the_environment_too() -> None:
    found = keys_of(None, {"WEFT_SERVE_KEY": PREDICT, "WEFT_SERVE_MANAGE_KEY": MANAGE})
    assert [(key.name, key.rights) for key in found] == [
        ("WEFT_SERVE_KEY", ["predict"]),
        ("WEFT_SERVE_MANAGE_KEY", ["predict", "manage"]),
    ]
    assert found[0].sha256 == hashed(PREDICT)
    with pytest.raises(ValueError, match="WEFT_SERVE_KEY has 6 characters, a key needs 24 or more"):
        keys_of(None, {"WEFT_SERVE_KEY": "secret"})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("keys: [{name: a, sha256: abc, rights: [predict]}]", "sha256"),
        ("keys: [{name: a, sha256: X, key: b, rights: [predict]}]", "no setting named 'key'"),
        ("keys: [{name: 'a b', sha256: X, rights: [predict]}]", "name"),
        ("keys: [{name: a, sha256: X, rights: [admin]}]", "rights"),
        ("keys: [{name: a, sha256: X, rights: []}]", "rights"),
        ("key: []", "no setting named 'key'"),
        (
            "keys: [{name: a, sha256: X, rights: [predict]}, {name: a, sha256: X, rights: [predict]}]",
            "of its own",
        ),
    ],
)
def test_a_wrong_file_of_keys_is_refused(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(text.replace("X", "a" * 64))
    assert yaml.safe_load(path.read_text())
    with pytest.raises(ValueError, match=says):
        keys_of(path, {})


def test_a_key_where_its_hash_belongs_is_not_said(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(f"keys: [{{name: a, sha256: {PREDICT}, rights: [predict]}}]")
    with pytest.raises(ValueError, match="`weft key` writes it") as refused:
        keys_of(path, {})
    assert PREDICT not in str(refused.value)


def test_a_network_is_not_let_in_without_keys() -> None:
    for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
        assert is_loopback(host)
        check_exposure(host, ())
    for host in ("0.0.0.0", "::", "192.168.1.2", "", "example.org", "10.0.0.1"):
        assert not is_loopback(host)
        check_exposure(host, KEYS)
        with pytest.raises(ValueError, match="without keys everybody there could"):
            check_exposure(host, ())
