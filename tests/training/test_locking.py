"""One training, one run folder."""

import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import weft
from weft.runs import RunFolder
from weft.training.locking import HOLDER, LOCK, held, refuse_held

HOLD = """
import sys, time
from weft.runs import RunFolder
from weft.training.locking import held
with held(RunFolder.open(sys.argv[1]), is_main=True):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def begun(run_of: Callable[..., dict[str, Any]], tmp_path: Path) -> RunFolder:
    """A run folder whose training has done nothing yet."""
    from weft.config import load_run

    return RunFolder.create(tmp_path / "run", load_run(run_of("topic", recipe="head")))


@pytest.fixture
def other(begun: RunFolder) -> Any:
    """Another process that trains it."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(begun.path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with process:
        yield process
        process.kill()


def test_a_run_that_another_process_trains_is_refused_by_its_name(
    begun: RunFolder, other: subprocess.Popen
) -> None:
    said = rf"run is being trained by process {other.pid} on {platform.node()}, since \d{{4}}-.*SIGTERM"
    with pytest.raises(ValueError, match=said):
        weft.train(resume=begun.path)
    with pytest.raises(ValueError, match=said), held(begun, is_main=True):
        pass
    before = {path.name for path in begun.path.iterdir()}
    assert before == {"run.yaml", LOCK, HOLDER}


def test_the_lock_of_a_process_that_was_killed_is_free(
    begun: RunFolder, other: subprocess.Popen
) -> None:
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert (begun.path / HOLDER).is_file()
    refuse_held(begun)
    assert weft.train(resume=begun.path).is_complete
    # A complete run has no lock; nobody resumes it.
    assert not {LOCK, HOLDER} & {path.name for path in begun.path.iterdir()}


def test_of_several_processes_of_one_training_the_main_one_locks_for_all(begun: RunFolder) -> None:
    with held(begun, is_main=True), held(begun, is_main=False):
        who = json.loads((begun.path / HOLDER).read_text())
        assert (who["pid"], who["host"]) == (os.getpid(), platform.node())
        assert time.strptime(who["since"], "%Y-%m-%d %H:%M:%S")
    with held(begun, is_main=True):
        pass
