"""`weft serve` itself: an application on a port, from start to a drained end."""

import ipaddress
import signal
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn

from weft.serving.app import Application, create_app
from weft.serving.contract import Answering
from weft.serving.http.logs import LOG, log_to
from weft.serving.http.security import Key
from weft.serving.http.settings import LOOPBACK, ServerSettings
from weft.system import stop_signals

_HEAD_BYTES = 16 << 10
"""Most bytes of a request before its body."""
_IDLE_S = 15
"""Seconds that a connection is kept without a request."""


def serve(
    engine: Answering,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    keys: Sequence[Key] = (),
    names: Iterable[str] = (),
    settings: ServerSettings | None = None,
) -> None:
    """Answer on a port until the process is asked to stop; what is under way then is answered first.

    Args:
        engine: Not begun yet.
        host: Where to listen. Another than loopback needs keys.
        port: 0 takes a free one, which the log tells.
        keys: Who may ask; without any everybody may do everything.
        names: What clients may call the server beside its address; a server with keys answers to any name.
        settings: Limits of the door.

    Raises:
        ValueError: If everybody in the network could do everything.
        OSError: If the port is taken.
    """
    check_exposure(host, keys)
    settings = settings or ServerSettings()
    known = () if keys else tuple(dict.fromkeys([*LOOPBACK, host.lower(), *names]))
    app = create_app(engine, settings.model_copy(update={"hosts": known}), keys)
    log_to(texts=settings.log_texts)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        # Addresses of clients are not looked at, so nobody need be believed about them.
        proxy_headers=False,
        ws="none",
        http="h11",
        # As with http: what is installed beside weft changes nothing here.
        loop="asyncio",
        lifespan="on",
        timeout_keep_alive=_IDLE_S,
        timeout_graceful_shutdown=max(1, round(settings.drain_s)),
        h11_max_incomplete_event_size=_HEAD_BYTES,
    )
    with _listening(host, port) as listener, _ended_by_signals():
        Server(config, app, listener).run(sockets=[listener])


def check_exposure(host: str, keys: Sequence[Key]) -> None:
    """Refuse to let everybody in the network do everything.

    Raises:
        ValueError: If the host is another than loopback and there is no key.
    """
    if not keys and not is_loopback(host):
        raise ValueError(
            f"--host {host} is reached from the network, and without keys everybody there could use and change the "
            "experts; make a key by `weft key NAME --file keys.yaml` and give --keys keys.yaml, or listen on 127.0.0.1"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Server(uvicorn.Server):
    """uvicorn's server, which says when it is ready, and tells the app when it is to stop."""

    def __init__(self, config: uvicorn.Config, app: Application, listener: socket.socket) -> None:
        super().__init__(config)
        self._app = app
        host, port = listener.getsockname()[:2]
        self._url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin the engine, then listen."""
        LOG.info("starting", extra={"fields": {"url": self._url}})
        await super().startup(sockets)
        if not self.should_exit:
            LOG.info("ready", extra={"fields": {"url": self._url}})

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal asks for the end; nothing is written here, for it may come in the midst of a line."""
        self._app.state.stopping = True
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen no more, answer what is under way, end the engine."""
        LOG.info("draining")
        await super().shutdown(sockets)
        LOG.info("ended")


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens before anything is loaded: a port that is taken is told at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise OSError(
                f"{host}:{port} cannot be listened on: {error.strerror}; take another --port"
            ) from None
        listener.set_inheritable(True)
        yield listener
    finally:
        listener.close()


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """A drained server ends by itself, with code 0: uvicorn sends the signal once more, which nobody hears then."""
    before: dict[Any, Any] = {sig: signal.signal(sig, lambda *_: None) for sig in stop_signals()}
    try:
        yield
    finally:
        for sig, handler in before.items():
            signal.signal(sig, handler)
