"""A command is not silent for long: by a clock of the test's own, and as a process without a terminal."""

import io
import os
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from tests.voice import without_voice
from weft.reporting.progress import Bar
from weft.reporting.voice import EVERY_S, FIRST_S, Voice, current
from weft.scoped import tell

SLOW = """
import sys, time
from weft.cli import app
import weft.reporting.voice as voice
from weft.tasks.kinds.sequence_classification import SequenceClassification as Kind
voice.Voice.__init__.__kwdefaults__.update(first=0.5, every=0.5, beat=0.05)
encode = Kind.encode
def slow(self, example, tokenizer):
    time.sleep(0.2)
    return encode(self, example, tokenizer)
Kind.encode = slow
app()
"""
"""The command line, with little patience, on rows that take long to encode."""


class Clock:
    """Says the time that it was last given."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def spoken(first: float = 5, every: float = 20) -> tuple[Voice, Clock, list[str]]:
    clock, lines = Clock(), []
    return (
        Voice("train", write=lines.append, first=first, every=every, clock=clock, beat=None),
        clock,
        lines,
    )


def test_what_else_stderr_has_is_told_from_the_voice() -> None:
    voice, clock, lines = spoken()
    with voice:
        clock.now = 6
        voice.beat()
    (line,) = lines
    assert without_voice(f"{line}\nweft: no room\n{line}\n") == "weft: no room\n"
    assert without_voice(f"weft: {line}, it says\n") == f"weft: {line}, it says\n"


def test_a_line_comes_after_the_first_silence_and_every_other() -> None:
    voice, clock, lines = spoken()
    with voice:
        tell("reading swag")
        for now in range(51):
            clock.now = now
            if now == 30:
                tell("rows answered", 1200, 3000)
            voice.beat()
    assert lines == [
        "train reading swag  (5 s so far)",
        "train reading swag  (25 s so far)",
        "train rows answered 1,200/3,000  (45 s so far)",
    ]


def test_what_is_said_ends_a_silence() -> None:
    voice, clock, lines = spoken()
    with voice:
        voice.say("step 1/9")
        for now in range(40):
            clock.now = now
            if now == 19:
                voice.say("step 5/9")
            voice.beat()
    assert lines == ["train step 1/9", "train step 5/9", "train step 5/9  (39 s so far)"]


def test_a_short_command_says_nothing() -> None:
    voice, clock, lines = spoken()
    with voice:
        clock.now = 4.9
        voice.beat()
    assert lines == []


def test_nobody_hears_what_is_told_outside() -> None:
    voice, clock, lines = spoken()
    with voice:
        assert current() is voice
    assert current() is None
    tell("reading in vain")
    clock.now = 100
    voice.beat()
    assert lines == ["train starting  (100 s so far)"]


def test_silence_is_no_longer_than_is_promised() -> None:
    assert FIRST_S < 10
    assert EVERY_S < 30


def test_a_bar_without_a_terminal_speaks_through_the_voice_at_once_and_every_tenth() -> None:
    voice, clock, lines = spoken()
    with voice, Bar("train", Console(file=io.StringIO())) as bar:
        for step in range(1, 21):
            clock.now = step
            bar.show(step / 200, f"step {step}/200")
            voice.beat()
        clock.now = 40
        voice.beat()
    assert lines == ["train step 1/200", "train step 20/200", "train step 20/200  (40 s so far)"]


def test_in_a_terminal_the_bar_shows_what_is_told_and_the_voice_is_still() -> None:
    voice, clock, lines = spoken()
    out = io.StringIO()
    with voice, Bar("train", Console(file=out, force_terminal=True, width=100)):
        tell("reading [swag]")
        clock.now = 60
        voice.beat()
    assert lines == []
    assert "reading [swag]" in out.getvalue()


def test_it_looks_at_the_clock_by_itself() -> None:
    lines: list[str] = []
    with Voice("train", write=lines.append, first=0.05, every=0.05, beat=0.01):
        until = time.monotonic() + 10
        while len(lines) < 3 and time.monotonic() < until:
            time.sleep(0.01)
    assert len(lines) >= 3
    said = len(lines)
    time.sleep(0.1)
    assert len(lines) == said


@pytest.fixture
def many_rows(tiny_folder: Callable[[str], Path], tmp_path: Path) -> list[str]:
    """The arguments of a training with as many rows as take three seconds to encode."""
    for split, count in (("train", 14), ("validation", 4)):
        rows = [
            f"row {number} is {'good' if number % 2 else 'bad'},{number % 2}"
            for number in range(count)
        ]
        (tmp_path / f"{split}.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    task: dict[str, Any] = {"kind": "sequence_classification", "format": "csv", "max_length": 16}
    (tmp_path / "moods.yaml").write_text(yaml.safe_dump(task))
    run = {
        "base": str(tiny_folder("bert")),
        "task": str(tmp_path / "moods.yaml"),
        "recipe": {"name": "lora", "rank": 2},
        "training": {"max_steps": 3, "batch_size": 4},
        "device": "cpu",
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    return ["train", str(tmp_path / "run.yaml"), "--out", str(tmp_path / "run")]


def said_by(arguments: list[str], folder: Path) -> tuple[list[tuple[float, str]], float]:
    """The lines that a process without a terminal wrote to stderr, each with its second, and when it ended."""
    began = time.monotonic()
    environment = os.environ | {"WEFT_CACHE": str(folder / "cache")}
    with subprocess.Popen(
        [sys.executable, "-c", SLOW, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        assert process.stderr is not None
        lines = [(time.monotonic() - began, line.rstrip()) for line in process.stderr]
    assert process.returncode == 0, lines
    return lines, time.monotonic() - began


def test_a_process_without_a_terminal_is_never_silent(many_rows: list[str], tmp_path: Path) -> None:
    lines, _ = said_by(many_rows, tmp_path)
    encoding = [at for at, line in lines if "reading moods" in line or "encoding rows" in line]
    # Three seconds of encoding, with a line at least every other half: a busy machine may be late.
    assert len(encoding) >= 3, lines
    assert max(b - a for a, b in pairwise(encoding)) < 3, lines
    assert any("step 1/3" in line and "left" in line for _, line in lines), lines


def test_quiet_is_quiet(many_rows: list[str], tmp_path: Path) -> None:
    assert said_by([*many_rows, "--quiet"], tmp_path)[0] == []
