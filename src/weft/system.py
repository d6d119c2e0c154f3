"""What operating systems do in different ways, and what is done where one lacks it. No other file asks which it is.

| | Linux | macOS | Windows |
| --- | --- | --- | --- |
| names in a folder made durable (`sync`) | fsync | fsync | there is nothing for it; files alone are |
| two folders change places (`exchange`) | renameat2 | no: moved aside for an instant | no: the same |
| most memory held (`peak_memory_mib`) | /proc | getrusage | by psutil |
| asked to stop (`stop_signals`, `ask_to_stop`) | SIGINT, SIGTERM | the same | SIGINT, Ctrl-Break |
| ended at once (`end_at_once`) | SIGKILL | SIGKILL | TerminateProcess |
| a child is told that its parent is gone (`is_orphan_of`) | by getppid | by getppid | that process is no more |
| a pipe in place of a file is refused (`READING`) | O_NONBLOCK | O_NONBLOCK | has no such pipes among files |

Linux is what the tests run on. Windows is imported and exercised under a pretended `sys.platform` only.
"""

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

WINDOWS = sys.platform == "win32"
READING = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
"""How a file of somebody else's is opened: bytes as they are, and without waiting for the writer of a pipe."""
APART = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
"""Flags of a child that a terminal's Ctrl-C does not reach, beside `start_new_session`; its parent passes it on."""
_STATUS = Path("/proc/self/status")


def sync(path: Path) -> None:
    """Wait until the disk has what was written to a file, or the names in a folder."""
    if WINDOWS and path.is_dir():
        return
    # Windows flushes only what may be written to.
    handle = os.open(path, os.O_RDWR if WINDOWS else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def exchange(one: Path, other: Path) -> bool:
    """Whether two folders changed places in one step: Linux can, on most of its file systems."""
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(rename) and not rename(
        here, os.fsencode(one), here, os.fsencode(other), ctypes.c_uint(swap)
    )


def peak_memory_mib() -> float:
    """The most memory that was resident for this process."""
    if WINDOWS:
        import psutil

        held = psutil.Process().memory_info()
        return getattr(held, "peak_wset", held.rss) / 2**20
    if _STATUS.is_file():
        # getrusage carries the peak of the process that started this one over; this one's own is only here.
        peak = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) / 1024
    import resource

    # Bytes on macOS, KiB elsewhere.
    unit = 2**20 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def stop_signals() -> list[signal.Signals]:
    """The signals that ask a process to stop."""
    names = ("SIGINT", "SIGBREAK") if WINDOWS else ("SIGINT", "SIGTERM")
    return [getattr(signal, name) for name in names if hasattr(signal, name)]


def ask_to_stop(process: "subprocess.Popen[Any]") -> None:
    """Send a child that is `APART` what `stop_signals` has a handler for."""
    process.send_signal(
        getattr(signal, "CTRL_BREAK_EVENT", signal.SIGINT) if WINDOWS else signal.SIGINT
    )


def end_at_once(process: "subprocess.Popen[Any]") -> None:
    """End a child, whatever it does."""
    process.kill()


def signal_that_ended(code: int) -> str | None:
    """The name of the signal that ended a process, by its exit code; None if it ended by itself, or on Windows."""
    return signal.Signals(-code).name if code < 0 else None


def is_orphan_of(parent: int) -> bool:
    """Whether the process that started this one is gone.

    Args:
        parent: Its number.
    """
    if not WINDOWS:
        return os.getppid() != parent
    import psutil

    return not psutil.pid_exists(parent)
