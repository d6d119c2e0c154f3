"""From a server's settings to replicas that run: a Ray cluster, and on it a deployment of Ray Serve."""

import importlib
import logging
import os
import secrets
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weft.serving.cluster.scale import Scale
from weft.serving.engine import Engine
from weft.serving.errors import LOG
from weft.serving.places import Places
from weft.serving.settings import Limits

if TYPE_CHECKING:
    from weft.serving.cluster.replicas import Replicas

ADDRESS = "RAY_ADDRESS"
"""The variable that names a cluster which is there already; Ray reads it too."""
LOCAL = "local"
_TRIES = 2
"""How often a replica that does not start is started anew before it is given up."""
_LOOK_S = 3.0
"""Seconds between two looks of Ray Serve at whether a replica lives."""


@contextmanager
def replicas_on_ray(
    make: Callable[[], Engine],
    places: Places,
    limits: Limits,
    scale: Scale,
    *,
    device: str = "auto",
    name: str = "weft",
) -> Iterator["Replicas"]:
    """Replicas, not begun yet; whatever was started for them ends with the block.

    On the cluster that `RAY_ADDRESS` names, or on one of this machine alone. Every machine needs weft, the experts and
    their bases at the same paths. A replica has as many CPUs, and threads, as `OMP_NUM_THREADS` says, or one; a GPU to
    itself where the cluster has any, unless the device is cpu.

    Args:
        make: Makes a replica's engine; is sent to its process.
        places: The experts' names, as those engines have them.
        limits: Of each engine.
        scale: How many.
        device: Of the engines.
        name: Of the application on the cluster; another of the same name is replaced.

    Raises:
        ValueError: If Ray Serve is not installed, no cluster answers, or this machine has too few CPUs.
    """
    ray = imported_ray()
    connected = ray.is_initialized()
    if not connected:
        _connect(ray)
    try:
        from weft.serving.cluster.replicas import Replicas

        threads = _threads()
        has_gpus = device != "cpu" and ray.cluster_resources().get("GPU", 0) > 0
        _check_room(ray, scale, threads)
        resources: dict[str, float] = {"num_cpus": threads, "num_gpus": 1 if has_gpus else 0}
        # Another start is another deployment, though it be of the same settings: its replicas begin without changes.
        start = secrets.token_hex(8)
        arguments = (make, str(Path.cwd()), threads, start)
        deploy = partial(_deployed, name, arguments, scale, resources, limits.patience)
        yield Replicas(places, deploy, limits, scale.most)
    finally:
        from ray import serve  # pyright: ignore[reportMissingImports] - an extra

        if name in serve.status().applications:
            serve.delete(name)
        if not connected:
            serve.shutdown()
            ray.shutdown()


def imported_ray() -> Any:
    """Ray, told before its import to report to nobody and, where it starts a cluster, to let nobody else in."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not {ADDRESS, "RAY_AUTH_MODE"} & os.environ.keys() and "ray" not in sys.modules:
        # Its processes listen on all addresses of the machine and run what they are sent, by whoever has this token.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        # They would give way to any other process of the machine, where they are the server.
        os.environ.setdefault("RAY_worker_niceness", "0")
    try:
        importlib.import_module("ray.serve")
        return importlib.import_module("ray")
    except ModuleNotFoundError as error:
        raise ValueError(
            f"weft serve --ray needs Ray Serve ({error}): pip install 'weft[serve,ray]'"
        ) from None


def _connect(ray: Any) -> None:
    address = os.environ.get(ADDRESS, LOCAL)
    own = {"include_dashboard": False} if address == LOCAL else {}
    try:
        ray.init(address, logging_level="error", log_to_driver=False, **own)
    except ConnectionError as error:
        raise ValueError(
            f"no Ray cluster at {ADDRESS}={address!r}: {error}; start one by `ray start --head`, or unset it"
        ) from None


def _threads() -> int:
    said = os.environ.get("OMP_NUM_THREADS", "")
    return int(said) if said.isdecimal() and int(said) else 1


def _check_room(ray: Any, scale: Scale, threads: int) -> None:
    has = ray.cluster_resources().get("CPU", 0)
    if ADDRESS not in os.environ and scale.least * threads > has:
        raise ValueError(
            f"{scale.least} replicas of {threads} CPUs each, and this machine has {has:g}; ask for fewer --replicas, "
            f"set OMP_NUM_THREADS to less, or name a larger cluster in {ADDRESS}"
        )


def _deployed(
    name: str,
    arguments: tuple[Any, ...],
    scale: Scale,
    resources: dict[str, float],
    patience: float,
) -> Any:
    """Ray Serve's handle of the replicas, once the first are there."""
    from ray import serve  # pyright: ignore[reportMissingImports]

    from weft.serving.cluster.replica import Replica

    _quieten()
    # The door is ours: nobody talks to Ray's.
    serve.start(proxy_location="Disabled")
    many: dict[str, Any] = {"num_replicas": scale.least}
    if scale.most > scale.least:
        load = {
            "min_replicas": scale.least,
            "max_replicas": scale.most,
            "target_ongoing_requests": scale.requests,
            "upscale_delay_s": scale.up_s,
            "downscale_delay_s": scale.down_s,
            "look_back_period_s": scale.over_s,
        }
        many = {"autoscaling_config": load}
    deployment = serve.deployment(Replica).options(
        name="replica",
        max_ongoing_requests=scale.most_requests,
        ray_actor_options=resources,
        health_check_period_s=_LOOK_S,
        graceful_shutdown_timeout_s=patience,
        max_constructor_retry_count=_TRIES,
        logging_config={"enable_access_log": False},
        **many,
    )
    return serve.run(deployment.bind(*arguments), name=name, route_prefix=None)


def _quieten() -> None:
    """Let Ray's warnings stand among the server's lines, as they are written, and leave the rest to its own files."""
    for name in ("ray", "ray.serve"):
        logger = logging.getLogger(name)
        logger.handlers[:] = LOG.handlers
        logger.propagate = False
        logger.setLevel(logging.WARNING)


def name_for(port: int) -> str:
    """What a server's replicas are called on a cluster: a server that is started again takes over those it left."""
    return f"weft-{socket.gethostname()}-{port or os.getpid()}"
