"""From what somebody types after `weft serve` to a server that runs."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from weft.config import validate
from weft.serving.cluster.scale import scale_of
from weft.serving.engine import Engine
from weft.serving.errors import ServingError
from weft.serving.http.security import keys_of
from weft.serving.http.server import check_exposure, serve
from weft.serving.http.settings import ServerSettings
from weft.serving.places import Places
from weft.serving.settings import Limits, Room
from weft.serving.shelf import Shelf

_GIB = 1 << 30
Made = TypeVar("Made")


def start(
    runs: Sequence[str],
    *,
    experts: Sequence[Path] = (),
    roots: Sequence[Path] = (),
    host: str = "127.0.0.1",
    port: int = 8000,
    keys: Path | None = None,
    names: Sequence[str] = (),
    memory_gib: float = 1.0,
    device: str = "auto",
    limits: Mapping[str, Any] | None = None,
    replicas: str | None = None,
) -> None:
    """Serve run folders and folders of them; returns once it was asked to stop and has drained.

    Args:
        runs: Run folders, as `FOLDER`, named by the folder, or as `NAME=FOLDER`.
        experts: Folders whose run folders are experts.
        roots: Further folders that experts may be put from.
        host: Where to listen.
        port: 0 is a free one.
        keys: File of keys; those of the environment count too.
        names: What clients may call the server.
        memory_gib: Of experts in memory; the base is not counted.
        device: auto, cpu, cuda or mps.
        limits: Settings of `ServerSettings`.
        replicas: How many processes of a Ray cluster answer, as `scale_of` reads it; None is this one.

    Raises:
        ValueError: If there is nothing to serve, it would be open to everybody in the network, or there is no Ray.
    """
    scale = None if replicas is None else scale_of(replicas)
    known = keys_of(keys)
    check_exposure(host, known)
    settings = validate(ServerSettings, dict(limits or {}), "weft serve")
    if not runs and not experts:
        raise ValueError("nothing to serve: give run folders, or --experts with a folder of them")
    room = validate(Room, {"bytes": round(memory_gib * _GIB)}, "--memory")
    each = Limits(
        patience=settings.deadline_s,
        waiting_seconds=settings.waiting_s,
        rows=max(Limits().rows, settings.max_inputs),
    )
    found = named(runs)
    shelf = partial(Shelf, found, folders=experts, roots=roots, room=room, device=device)
    make = partial(_engine, shelf, each)
    door: dict[str, Any] = {"host": host, "port": port, "keys": known, "names": names}
    if scale is None:
        serve(_said(make), settings=settings, **door)
        return
    places = _said(partial(Places, found, experts, roots))
    from weft.serving.cluster.starting import name_for, replicas_on_ray

    name = name_for(port)
    with replicas_on_ray(make, places, each, scale, device=device, name=name) as engines:
        serve(engines, settings=settings, **door)


def _engine(shelf: Callable[[], Shelf], limits: Limits) -> Engine:
    return Engine(shelf(), limits)


def _said(make: Callable[[], Made]) -> Made:
    """What is made, with a refusal as whoever typed the command is told it."""
    try:
        return make()
    except ServingError as error:
        raise ValueError(str(error)) from None


def named(runs: Sequence[str]) -> dict[str, Path]:
    """Run folders by name: their own, or the one before a `=`.

    Raises:
        ValueError: If two have the same.
    """
    found: dict[str, Path] = {}
    for given in runs:
        name, is_named, folder = given.partition("=")
        if not is_named or Path(given).exists():
            name, folder = Path(given).resolve().name, given
        path = Path(folder)
        if name in found:
            raise ValueError(
                f"{found[name]} and {path} would both be called {name!r}; give one of them as NAME=FOLDER"
            )
        found[name] = path
    return found
