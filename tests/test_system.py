"""What each system has, and that weft imports and writes where things are missing that only some have."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from weft import system

PRETENDED = """
import importlib, os, pkgutil, signal, sys
from pathlib import Path
import weft, torch, psutil

def everything():
    found = [one.name for one in pkgutil.walk_packages(weft.__path__, "weft.")]
    for name in found:
        if not name.endswith("__main__"):
            try:
                importlib.import_module(name)
            except ModuleNotFoundError as error:
                # An extra that the tests do without; what stands on it is imported where it is asked for alone.
                if error.name != "ray":
                    raise
    return found

# What other libraries ask of the real system they have asked, once all of them are imported.
before = everything()
for name in [name for name in sys.modules if name.partition(".")[0] == "weft"]:
    del sys.modules[name]
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
for name in ("SIGKILL", "SIGHUP", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGCHLD", "SIGQUIT", "alarm", "setitimer"):
    delattr(signal, name)
for name in ("fork", "killpg", "setsid", "getuid", "geteuid", "sched_getaffinity", "statvfs", "mkfifo", "uname"):
    delattr(os, name)
for name in ("O_NONBLOCK", "O_DIRECTORY", "O_NOFOLLOW", "O_CLOEXEC", "O_SYNC"):
    delattr(os, name)
# `os.name` stays: pathlib cannot make a path of another system. Weft asks `sys.platform` alone, as the next test says.
sys.platform = "win32"
import weft
assert everything() == before and len(before) > 150

import weft.atomic, weft.system
from weft.training.stopping import interrupts
from weft.training.finishing import peak_memory_mib
assert weft.system.WINDOWS
folder = Path(sys.argv[1])
for text in ("first", "second"):
    with weft.atomic.atomic_folder(folder / "made") as draft:
        weft.atomic.write_text(draft / "file", text)
        weft.atomic.write_tensors(draft / "tensors", {"a": torch.ones(2)})
    assert (folder / "made" / "file").read_text() == text
assert [path.name for path in folder.iterdir()] == ["made"]
with interrupts() as asked:
    signal.raise_signal(signal.SIGINT)
assert asked == [signal.SIGINT]
assert peak_memory_mib(torch.device("cpu")) > 50
assert weft.system.is_orphan_of(int(sys.argv[2])) and not weft.system.is_orphan_of(psutil.Process().ppid())
print("all")
"""


def test_all_of_weft_imports_and_writes_under_a_pretended_windows(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PRETENDED, str(tmp_path), str(gone.pid)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.stdout, ran.stderr) == ("all\n", "")


def test_only_one_module_asks_which_system_it_is() -> None:
    source = Path(system.__file__).parent
    asked = re.compile(
        r"sys\.platform|os\.name|platform\.system|import (fcntl|resource)$|SIGKILL|fsync",
        re.MULTILINE,
    )
    found = {
        path.relative_to(source).as_posix()
        for path in source.rglob("*.py")
        if asked.search(path.read_text(encoding="utf-8"))
    }
    assert found == {"system.py"}


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the kernel's own figure")
def test_peak_memory_is_what_was_held_at_once() -> None:
    code = "import weft.system as s; b = b'x' * (300 << 20); del b; print(s.peak_memory_mib())"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 300 < float(ran.stdout) < 360


def test_a_child_is_asked_to_stop_or_ended_and_by_what_is_told() -> None:
    # A shell's background jobs are deaf to SIGINT, and so are their children.
    hear = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    wait = f"{hear}; import time; print('ready', flush=True); time.sleep(60)"
    for end, by in ((system.ask_to_stop, "SIGINT"), (system.end_at_once, "SIGKILL")):
        child = subprocess.Popen(
            [sys.executable, "-c", wait],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            creationflags=system.APART,
        )
        with child:
            assert child.stdout is not None
            child.stdout.readline()
            end(child)
            assert system.signal_that_ended(child.wait()) == by
    assert system.signal_that_ended(0) is None


def test_folders_change_places_or_are_left_alone(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        (folder / folder.name).touch()
    if system.exchange(one, other):
        assert ((one / "other").exists(), (other / "one").exists()) == (True, True)
    else:
        assert ((one / "one").exists(), (other / "other").exists()) == (True, True)
    assert not system.exchange(one, tmp_path / "absent")


def test_the_signals_that_stop_are_this_systems() -> None:
    assert signal.SIGINT in system.stop_signals()
    assert not system.is_orphan_of(os.getppid())
    assert system.is_orphan_of(-1)
