"""Runs of a comparison as tasks of a Ray cluster; a run whose worker dies is given to another, which goes on with it.

Every machine needs weft, the data and the folder of the runs at the same paths (a shared file system). A worker does
one run and ends, so that peak memory is the run's own.
"""

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from weft.comparison.jobs import Job, run_job
from weft.comparison.workers import RETRIES, Ending, Watch, Workers, local_workers
from weft.training.stopping import Interrupted

LOCAL = "local"
"""The address that makes Ray start a cluster of this machine alone."""


@contextmanager
def ray_workers(
    address: str,
    *,
    device: str = "auto",
    at_once: int | None = None,
    threads: int | None = None,
    watch: Watch | None = None,
) -> Iterator[Workers]:
    """A runner for `compare` on a Ray cluster, to which this process belongs meanwhile.

    Args:
        address: As `ray.init` takes it: host:port, auto, or local for a cluster of this machine alone. A process that
            is connected already stays where it is.
        device: The grid's; a run gets a GPU to itself where the cluster has any, unless it is cpu.
        at_once: Runs at the same time; None is as many as the cluster has room for.
        threads: Of each run, which Ray sets aside as CPUs; None is `OMP_NUM_THREADS`, or 1.
        watch: Told how far it is.

    Raises:
        ValueError: If Ray is not installed, or no cluster answers.
    """
    ray = _ray()
    connected = ray.is_initialized()
    if not connected:
        # Ray reports what it is used for to its makers unless told otherwise.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        own = {"include_dashboard": False} if address == LOCAL else {}
        try:
            ray.init(address, logging_level="error", log_to_driver=False, **own)
        except ConnectionError as error:
            raise ValueError(f"no Ray cluster at {address!r}: {error}") from None
    try:
        whole = os.environ.get("OMP_NUM_THREADS", "")
        threads = threads or int(whole if whole.isdecimal() else 1)
        has_gpus = device != "cpu" and ray.cluster_resources().get("GPU", 0) > 0
        yield Workers(RayTasks(threads, gpus=1 if has_gpus else 0), at_once, watch)
    finally:
        if not connected:
            ray.shutdown()


@contextmanager
def workers_at(
    address: str | None, *, device: str, at_once: int | None, watch: Watch | None
) -> Iterator[Workers]:
    """A runner where it was asked for: a Ray cluster, or processes of this machine if there is no address.

    Args:
        address: As `ray_workers` takes it, or None.
        device: The grid's.
        at_once: Runs at the same time; None is one here, and all that a cluster has room for.
        watch: Told how far it is.
    """
    if address is None:
        yield local_workers(at_once or 1, watch)
        return
    with ray_workers(address, device=device, at_once=at_once, watch=watch) as runner:
        yield runner


class RayTasks:
    """Tasks of the cluster that this process is connected to.

    Args:
        threads: Of each, set aside as CPUs.
        gpus: Of each.
    """

    def __init__(self, threads: int, gpus: int) -> None:
        self.ray = ray = _ray()
        self.threads = threads
        limits = {"num_cpus": threads, "num_gpus": gpus, "max_calls": 1, "max_retries": RETRIES}
        self.task = ray.remote(**limits)(_run)

    def start(self, job: Job) -> tuple[Job, Any]:
        where = Job(job.folder.resolve(), job.run)
        return job, self.task.remote(where, str(Path.cwd()), self.threads)

    def ended(self, started: tuple[Job, Any]) -> Ending | None:
        job, task = started
        if not self.ray.wait([task], timeout=0)[0]:
            return None
        errors = self.ray.exceptions
        try:
            return (
                Ending("done") if self.ray.get(task) else Ending("lost", "its worker was stopped")
            )
        except errors.TaskCancelledError:
            return Ending("lost", "its worker was stopped")
        except errors.RayError as error:
            # The run has left word of what it raised itself; not so of a worker that died once too often.
            if job.failure is None:
                job.fail(str(error))
            return Ending("failed")

    def stop(self, started: tuple[Job, Any], *, at_once: bool) -> None:
        self.ray.cancel(started[1], force=at_once)


def _ray() -> Any:
    """Ray, which only this needs; its own types say too little of what it takes."""
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError:
        raise ValueError("a Ray cluster needs the package ray: pip install 'weft[ray]'") from None


def _run(job: Job, folder: str, threads: int) -> bool:
    """One run in a worker; False if it was asked to stop and saved its state.

    Args:
        job: The run.
        folder: Where the comparison was called; relative paths of data and bases are read from there.
        threads: For arithmetic.
    """
    import torch

    os.chdir(folder)
    torch.set_num_threads(threads)
    try:
        run_job(job)
    except Interrupted:
        return False
    return True
