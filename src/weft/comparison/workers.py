"""Several runs of a comparison at once: a process for each, threads shared out, what is killed taken up again.

    python -m weft.comparison.workers < {"folder": ..., "run": ..., "parent": ...}     is one run

A process of its own gives each run its own peak memory, and one that dies takes no other with it.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, Protocol, cast

from weft import system
from weft.comparison.jobs import Job, run_job
from weft.config import Run
from weft.training.loop import Event
from weft.training.stopping import Interrupted, interrupts

RETRIES = 3
"""How often, within one call, a run is taken up again whose process was killed."""
POLL_S = 0.1
SHOWN_EVERY_S = 1.0
LAST_WORDS = 4000
"""Characters kept of what a process wrote before it died without saying why."""
STOPPED = 130
"""Exit code of a run that was asked to stop and saved its state."""


@dataclass(frozen=True)
class Ending:
    """How an attempt ended: `failed` has left word in the run's folder, `lost` can be taken up again."""

    how: Literal["done", "failed", "lost"]
    why: str = ""


class Place(Protocol):
    """Where runs can be started."""

    def start(self, job: Job) -> Any:
        """Start a run; what comes back stands for it below."""

    def ended(self, started: Any) -> Ending | None:
        """How it ended; None while it goes on."""

    def stop(self, started: Any, *, at_once: bool) -> None:
        """Ask it to save its state and end; or end it, which loses what came after its last checkpoint."""


@dataclass(frozen=True)
class Standing:
    """How far a comparison is."""

    done: int
    failed: int
    running: list[Job]


Watch = Callable[[Standing], None]
"""Called about once a second."""


class Workers:
    """Runs jobs in a place, so many at once; a `Runner` for `compare`.

    Args:
        place: Where.
        at_once: Runs at the same time; None gives the place all that can be run, and it sees to the rest.
        watch: Told how far it is.
    """

    def __init__(self, place: Place, at_once: int | None, watch: Watch | None = None) -> None:
        if at_once is not None and at_once < 1:
            raise ValueError(f"workers must be at least 1, got {at_once}")
        self.place = place
        self.at_once = at_once
        self.watch = watch
        self.done = 0
        self.failed = 0

    def run(self, jobs: Sequence[Job]) -> None:
        """Bring every job to its end or leave its failure in its folder.

        Raises:
            Interrupted: On SIGINT or SIGTERM, when all have ended; a second signal does not wait for them.
        """
        waiting = [(job, 0) for job in jobs if not job.is_complete]
        running: list[tuple[Job, int, Any]] = []
        at_once = self.at_once or len(waiting)
        shown = 0.0
        with interrupts() as asked:
            heard = 0
            try:
                while running or (waiting and not asked):
                    while waiting and len(running) < at_once and not asked:
                        job, attempt = waiting.pop(0)
                        running.append((job, attempt, self.place.start(job)))
                    if len(asked) > heard:
                        for _, _, started in running:
                            self.place.stop(started, at_once=heard > 0)
                        heard = len(asked)
                    ended = [(one, self.place.ended(one[2])) for one in running]
                    running = [one for one, ending in ended if ending is None]
                    for (job, attempt, _), ending in ended:
                        if ending is not None and not asked:
                            waiting += self._settle(job, attempt, ending)
                    if self.watch and time.monotonic() - shown > SHOWN_EVERY_S:
                        shown = time.monotonic()
                        self.watch(Standing(self.done, self.failed, [one[0] for one in running]))
                    time.sleep(POLL_S)
            finally:
                for _, _, started in running:
                    self.place.stop(started, at_once=True)
        if asked:
            raise Interrupted("stopped, and the state of the runs saved; the same command goes on")
        if self.watch:
            self.watch(Standing(self.done, self.failed, []))

    def _settle(self, job: Job, attempt: int, ending: Ending) -> list[tuple[Job, int]]:
        """Count an ending; the job once more if its process was lost."""
        if ending.how == "lost" and attempt < RETRIES:
            return [(job, attempt + 1)]
        if ending.how == "lost":
            job.fail(f"{ending.why}, {attempt + 1} times")
        self.done += ending.how == "done"
        self.failed += ending.how != "done"
        return []


@dataclass
class _Process:
    job: Job
    process: subprocess.Popen[bytes]
    said: IO[bytes]


class Processes:
    """Processes of this machine.

    Args:
        threads: Of each.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def start(self, job: Job) -> _Process:
        # Read back only if it dies without leaving word: a pipe nobody empties would stop it.
        said = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the process has ended
        process = subprocess.Popen(
            [sys.executable, "-m", "weft.comparison.workers"],
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": str(self.threads)},
            # A terminal's Ctrl-C comes to this process alone, which passes it on once.
            start_new_session=True,
            creationflags=system.APART,
        )
        task = {"folder": str(job.folder), "run": job.run.model_dump(mode="json")}
        # One that is dead already is found so when it is asked how it ended.
        with suppress(BrokenPipeError), cast(IO[bytes], process.stdin) as pipe:
            pipe.write(json.dumps({**task, "parent": os.getpid()}).encode())
        return _Process(job, process, said)

    def ended(self, started: _Process) -> Ending | None:
        code = started.process.poll()
        if code is None:
            return None
        with started.said as file:
            file.seek(0)
            said = file.read().decode("utf-8", "replace")[-LAST_WORDS:]
        if code == 0:
            return Ending("done")
        by = system.signal_that_ended(code)
        if code == STOPPED or by:
            name = by or "SIGINT or SIGTERM"
            return Ending("lost", f"its process was ended by {name}")
        if started.job.failure is None:
            started.job.fail(f"its process ended with code {code}", said)
        return Ending("failed")

    def stop(self, started: _Process, *, at_once: bool) -> None:
        if started.process.poll() is None:
            (system.end_at_once if at_once else system.ask_to_stop)(started.process)
        if at_once:
            started.process.wait()
            started.said.close()


def local_workers(count: int, watch: Watch | None = None) -> Workers:
    """Processes of this machine that share out `OMP_NUM_THREADS`, or its cores where that is not set.

    Args:
        count: Of runs at the same time.
        watch: Told how far it is.

    Raises:
        ValueError: If there is to be none.
    """
    whole = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(whole) if whole.isdecimal() else os.cpu_count() or 1
    return Workers(Processes(max(1, threads // max(1, count))), count, watch)


def main() -> int:
    """Do the one run that stdin names."""
    asked = json.load(sys.stdin)

    def stop_with_parent(event: Event) -> None:
        # A killed comparison may be started again at once, and nobody waits for this run then.
        if system.is_orphan_of(asked["parent"]):
            signal.raise_signal(signal.SIGINT)

    try:
        run_job(Job(Path(asked["folder"]), Run.model_validate(asked["run"])), stop_with_parent)
    except KeyboardInterrupt:
        return STOPPED
    return 0


if __name__ == "__main__":
    sys.exit(main())
