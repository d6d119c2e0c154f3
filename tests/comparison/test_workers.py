"""Several runs at once: failures, kills and stops end in the table of one process."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.comparison.grids import bare, grid_of, has_checkpoint, once, processes, searches_of
from weft.comparison.comparing import Unfinished, compare
from weft.comparison.grid import Grid
from weft.comparison.jobs import FAILED, Job, planned, run_job
from weft.comparison.workers import RETRIES, Ending, Standing, Workers, local_workers
from weft.config import to_yaml
from weft.runs import RunFolder
from weft.training.stopping import Interrupted

Settings = Callable[..., dict[str, Any]]


class Here:
    """A place that runs a job when it is started, in this process; loses the first attempts."""

    def __init__(self, lose: int = 0) -> None:
        self.lose = lose
        self.started: list[Path] = []

    def start(self, job: Job) -> Ending:
        self.started.append(job.folder)
        if len(self.started) <= self.lose:
            return Ending("lost", "it was taken away")
        try:
            run_job(job)
        except ValueError:
            return Ending("failed")
        return Ending("done")

    def ended(self, started: Ending) -> Ending:
        return started

    def stop(self, started: Ending, *, at_once: bool) -> None:
        pass


def test_what_failed_is_said_and_tried_again_and_the_rest_is_done(
    run_of: Settings, tmp_path: Path
) -> None:
    run = run_of("topic")
    later = tmp_path / "later"
    grid = Grid.model_validate(
        {**grid_of(run).model_dump(exclude={"base"}), "bases": [run["base"], str(later)]}
    )
    out = tmp_path / "out"
    with pytest.raises(Unfinished, match="no such folder") as found:
        compare(grid, out, runner=Workers(Here(), 2))
    assert [row.base for row in found.value.rows] == [run["base"]]
    bad = out / "later" / "search" / "topic" / "lora"
    assert [job.folder for job in found.value.failed] == [bad / "1e-08", bad / "0.01"]
    assert all(job.failure == f"ValueError: {job.failure[12:]}" for job in found.value.failed)
    assert "Traceback" in (bad / "0.01" / FAILED).read_text()
    assert [(plan.runs, plan.done, plan.failed) for plan in planned(grid, out)] == [
        (3, 3, 0),
        (3, 0, 2),
    ]
    shutil.copytree(run["base"], later)
    place = Here()
    rows = compare(grid, out, runner=Workers(place, 2))
    assert len(place.started) == 3
    assert [(plan.done, plan.failed) for plan in planned(grid, out)] == [(3, 0), (3, 0)]
    # The same weights under another name.
    assert [row.by_seed for row in rows] == [rows[0].by_seed] * 2
    assert not list(out.rglob(FAILED))


def test_a_lost_run_is_taken_up_again_but_not_for_ever(run_of: Settings, tmp_path: Path) -> None:
    grid = grid_of(run_of("topic"))
    seen: list[Standing] = []
    found = compare(grid, tmp_path / "a", runner=Workers(Here(lose=RETRIES), 1, seen.append))
    assert bare(found) == bare(compare(grid, tmp_path / "b"))
    assert seen[-1] == Standing(3, 0, [])
    with pytest.raises(Unfinished, match=f"it was taken away, {RETRIES + 1} times"):
        compare(grid, tmp_path / "c", runner=Workers(Here(lose=1000), 1))


def test_no_workers_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        local_workers(0)


@pytest.mark.slow
def test_processes_share_threads_and_killed_ones_are_replaced(
    run_of: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    grid = grid_of(run_of("topic"), steps=200)
    out = tmp_path / "out"
    last, first = searches_of(grid, out)
    killed: list[int] = []

    def kill() -> None:
        killed.extend(processes("weft.comparison.workers"))
        for number, pid in enumerate(killed):
            os.kill(pid, (signal.SIGKILL, signal.SIGTERM)[number % 2])

    thread = once(lambda: has_checkpoint(first) and has_checkpoint(last), kill)
    seen: list[Standing] = []
    found = compare(grid, out, runner=local_workers(2, seen.append))
    thread.join()
    assert len(killed) == 2
    assert bare(found) == bare(compare(grid, tmp_path / "whole"))
    assert max(len(standing.running) for standing in seen) == 2
    summaries = [RunFolder(path.parent).training or {} for path in out.rglob("training.json")]
    assert {summary["threads"] for summary in summaries} == {1}
    # A process of its own each: none carries another's peak.
    assert len({summary["peak_memory_mib"] for summary in summaries}) == 3


@pytest.mark.slow
def test_a_stopped_and_then_killed_comparison_ends_in_the_same_table(
    run_of: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    grid = grid_of(run_of("topic"), steps=100)
    out = tmp_path / "out"
    first, second = searches_of(grid, out)
    stop = once(lambda: has_checkpoint(first), lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted, match="the same command goes on"):
        compare(grid, out, runner=local_workers(1))
    stop.join()
    assert not first.is_complete
    assert first.failure is None
    (tmp_path / "grid.yaml").write_text(to_yaml(grid))
    call = [sys.executable, "-m", "weft", "compare", tmp_path / "grid.yaml", "--out", out]
    with subprocess.Popen([*call, "--quiet"], start_new_session=True) as command:
        once(lambda: has_checkpoint(second), command.kill).join()
    assert not second.is_complete
    # The orphan stops at its next step; whoever comes next waits for that.
    found = compare(grid, out, runner=local_workers(1))
    assert bare(found) == bare(compare(grid, tmp_path / "whole"))
    assert list(processes(str(second.folder))) == []
