"""A server of this process, on loopback: the real app behind a real uvicorn."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import uvicorn

from weft.serving.app import Application, create_app
from weft.serving.engine import Engine
from weft.serving.http.security import Key, hashed
from weft.serving.http.settings import ServerSettings
from weft.serving.shelf import Shelf

PREDICT = "weft-predict-0123456789abcdef"
MANAGE = "weft-manage-0123456789abcdef"
KEYS = (
    Key(name="reader", sha256=hashed(PREDICT), rights=["predict"]),
    Key(name="keeper", sha256=hashed(MANAGE), rights=["predict", "manage"]),
)


def bearer(key: str) -> dict[str, str]:
    """The header of a key."""
    return {"Authorization": f"Bearer {key}"}


def app_of(
    *folders: Path,
    settings: ServerSettings | None = None,
    keys: tuple[Key, ...] = (),
    runs: Mapping[str, Path] | None = None,
) -> Application:
    """The app over the experts of some folders, and runs by name."""
    engine = Engine(Shelf(runs, folders=list(folders), device="cpu"))
    return create_app(engine, settings, keys)


@contextmanager
def listening(app: Application) -> Iterator[str]:
    """The address of an app that a uvicorn runs meanwhile, in a thread."""
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, log_config=None, ws="none", timeout_graceful_shutdown=5
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=30)
        assert not thread.is_alive()


def error_of(response: httpx.Response, status: int, code: str) -> str:
    """The message of an error, which has to be of that status, code and shape."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["code"] == code, error
    assert error.keys() == {"code", "message", "type", "param", "request_id"}
    assert error["request_id"] == response.headers["X-Request-ID"]
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    return error["message"]
