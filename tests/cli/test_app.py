import importlib.metadata
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

import weft
import weft.cli
from tests.voice import without_voice
from weft.answering.opening import load
from weft.reporting.voice import Voice
from weft.training.loop import train

Say = Callable[..., Any]
FILES = sorted(
    path.stem.removesuffix("_")
    for path in Path(weft.cli.__file__).parent.glob("*.py")
    if path.stem != "__init__"
)


def loaded_after(code: str) -> set[str]:
    said = f"{code}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_a_command_exists_because_its_file_does() -> None:
    assert (
        sorted(
            [
                *("train", "evaluate", "predict", "export", "import", "list", "show", "schema"),
                "analyze",
                *(
                    "compare",
                    "demo",
                    "doctor",
                    "generate",
                    "init",
                    "judge",
                    "key",
                    "learn",
                    "merge",
                    "mix",
                    "prompt",
                    "prune",
                    "push",
                    "recover",
                    "report",
                ),
                *("reproduce", "retokenise", "serve"),
            ]
        )
        == FILES
    )
    assert weft.cli.Commands().list_commands(None) == FILES


@pytest.mark.parametrize("name", FILES)
def test_every_command_says_what_it_does(name: str, say: Say) -> None:
    said = say(name, "--help", COLUMNS="200")
    assert said.code == 0
    assert weft.cli.Commands().get_command(None, name).help in said.out


def test_help_lists_every_command(say: Say) -> None:
    said = say("--help", COLUMNS="200")
    assert said.code == 0
    assert [name for name in FILES if f" {name} " not in said.out] == []


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("weft li", ["list"]), ("weft list rec", ["recipes"]), ("weft t", ["train"])],
)
def test_shells_complete_commands_and_choices(typed: str, offered: list[str]) -> None:
    code = "from weft.cli import app; app(prog_name='weft')"
    asked = {"COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **asked, "_WEFT_COMPLETE": "complete_bash"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == offered


def test_help_imports_nothing_heavy() -> None:
    heavy = {"torch", "transformers", "pydantic", "numpy", "datasets", "accelerate", "yaml"}
    helped = """
from weft.cli import app
try:
    app(["--help"])
except SystemExit:
    pass
"""
    assert loaded_after("import weft") & heavy == set()
    assert loaded_after("import weft.cli") & heavy == set()
    assert loaded_after(helped) & heavy == set()


def test_public_verbs_are_those_of_their_modules() -> None:
    assert weft.train is train
    assert weft.load is load
    assert {name for name in dir(weft) if getattr(weft, name) is None} == set()
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        weft.trian  # noqa: B018


def test_version_is_the_package_s(say: Say) -> None:
    version = importlib.metadata.version("weft")
    assert (weft.__version__, say("--version").out.strip()) == (version, version)


def test_an_error_is_one_sentence_without_a_traceback(say: Say) -> None:
    said = say("show", "recipe", "lorra")
    assert (said.code, said.out) == (2, "")
    error = without_voice(said.err)
    assert error.startswith("weft: no recipe named 'lorra'. Did you mean 'lora'? Known: ")
    assert error.count("\n") == 1


def test_debug_shows_the_traceback(say: Say) -> None:
    by_option, by_variable = (
        say("--debug", "show", "recipe", "lorra"),
        say("show", "recipe", "lorra", WEFT_DEBUG="1"),
    )
    assert isinstance(by_option.error, KeyError)
    assert isinstance(by_variable.error, KeyError)


def test_an_unknown_command_is_refused(say: Say) -> None:
    said = say("trian", "run.yaml")
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("weft: no command named 'trian'. Did you mean 'train'? Known: ")


@pytest.mark.parametrize("name", FILES)
def test_no_command_is_silent(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    defaults = Voice.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "first", 0)
    monkeypatch.setitem(defaults, "beat", 0.01)
    command = weft.cli.Commands().get_command(None, name)
    heard = threading.Event()
    write = sys.stderr.write

    def listened(text: str) -> int:
        heard.set()
        return write(text)

    monkeypatch.setattr(sys.stderr, "write", listened)
    # In the place of what it does: it waits, and says nothing.
    command.callback = lambda **_: heard.wait(10)
    command.invoke(typer.Context(command))
    assert re.fullmatch(rf"({name} starting  \(0 s so far\)\n)+", capsys.readouterr().err)
