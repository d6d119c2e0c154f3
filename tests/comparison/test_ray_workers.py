"""Runs as tasks of a Ray cluster: the same table, whatever happens to a worker."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.comparison.grids import bare, grid_of, has_checkpoint, once, processes, searches_of
from weft.comparison.comparing import Unfinished, compare
from weft.comparison.ray_workers import ray_workers
from weft.training.stopping import Interrupted

Settings = Callable[..., dict[str, Any]]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """This machine as a cluster of two workers."""
    ray = pytest.importorskip("ray", reason="ray is not installed")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(
        "local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error"
    )
    yield
    ray.shutdown()


def test_a_killed_worker_s_run_is_rescheduled(run_of: Settings, tmp_path: Path) -> None:
    grid = grid_of(run_of("topic"), steps=200)
    out = tmp_path / "out"
    first, second = searches_of(grid, out)
    killed: list[int] = []

    def kill() -> None:
        killed.extend(processes("ray::_run"))
        for number, pid in enumerate(killed):
            os.kill(pid, (signal.SIGKILL, signal.SIGTERM)[number % 2])

    thread = once(lambda: has_checkpoint(first) and has_checkpoint(second), kill)
    with ray_workers("local", threads=1) as runner:
        found = compare(grid, out, runner=runner)
    thread.join()
    assert len(killed) == 2
    assert bare(found) == bare(compare(grid, tmp_path / "whole"))


def test_a_stopped_comparison_saves_its_runs_and_goes_on(run_of: Settings, tmp_path: Path) -> None:
    # No checkpoint is due before the end: what is there was saved when the stop was asked for.
    grid = grid_of(run_of("topic"), steps=200)
    grid = grid.model_copy(update={"training": {**grid.training, "checkpoint_every": 1000}})
    out = tmp_path / "out"
    first, _ = searches_of(grid, out)
    log = first.folder / "log.jsonl"
    stop = once(
        lambda: log.is_file() and bool(log.read_text()),
        lambda: os.kill(os.getpid(), signal.SIGINT),
    )
    with pytest.raises(Interrupted), ray_workers("local", threads=1) as runner:
        compare(grid, out, runner=runner)
    stop.join()
    assert has_checkpoint(first)
    with ray_workers("local", threads=1) as runner:
        found = compare(grid, out, runner=runner)
    assert bare(found) == bare(compare(grid, tmp_path / "whole"))


def test_what_a_run_raises_is_said(run_of: Settings, tmp_path: Path) -> None:
    grid = grid_of(run_of("topic") | {"base": str(tmp_path / "none")})
    lora = grid.recipes["lora"].model_copy(update={"learning_rates": [1e-3]})
    grid = grid.model_copy(update={"recipes": {"lora": lora}})
    with (
        pytest.raises(Unfinished, match=r"ValueError: .*no such folder"),
        ray_workers("local", at_once=1) as runner,
    ):
        compare(grid, tmp_path / "out", runner=runner)
