"""The command line: a command exists because its file does, and is the function `command` in it.

Files import what is heavy inside that function, so that help is instant.
"""

import json
import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core
import typer.main

if TYPE_CHECKING:
    from weft.runs import RunFolder
    from weft.training.loop import Report

REFUSED = 2
"""Exit code where something that was given is wrong."""
RUNS_FAILED = 1
"""Exit code where some of several runs failed and the rest is done."""
STOPPED = 130
"""Exit code where training was asked to stop: 128 + SIGINT, as shells have it."""


AtOnce = Annotated[
    int | None, typer.Option(min=1, help="Runs at the same time; default: 1, with --ray all.")
]
Cluster = Annotated[
    str | None, typer.Option(metavar="ADDRESS", help="Ray cluster; local starts one here.")
]


Include = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="DIR",
        help="A folder of your own with recipes/, tasks/ or grids/, whose files get names; may be repeated.",
    ),
]


class Spoken(typer.core.TyperCommand):
    """A command that says on stderr what it does whenever it has been silent for a while, unless it is to be quiet."""

    def invoke(self, ctx: Any) -> Any:
        folders = ctx.params.get("include")
        if not folders:
            return self._spoken(ctx)
        from weft.catalogue.including import including

        with including(*folders):
            return self._spoken(ctx)

    def _spoken(self, ctx: Any) -> Any:
        from weft.reporting.voice import Voice

        # Of the processes that torchrun or accelerate started, the first alone speaks.
        if ctx.params.get("quiet") or os.environ.get("RANK", "0") != "0":
            return super().invoke(ctx)
        with Voice(str(self.name)):
            return super().invoke(ctx)


class Commands(typer.core.TyperGroup):
    """The files of this folder; what the library refuses is said without a traceback."""

    def list_commands(self, ctx: Any) -> list[str]:
        # A trailing underscore keeps the file's name from being a keyword.
        return sorted(file.name.removesuffix("_") for file in iter_modules(__path__))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        files = {file.name.removesuffix("_"): file.name for file in iter_modules(__path__)}
        if cmd_name not in files:
            return None
        own = typer.Typer(add_completion=False)
        own.command(cmd_name, cls=Spoken)(import_module(f"{__name__}.{files[cmd_name]}").command)
        return typer.main.get_command(own)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        known = self.list_commands(ctx)
        if args[0] not in known and not ctx.resilient_parsing:
            from weft.registry import unknown

            raise ValueError(unknown("command", args[0], known))
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except (ValueError, KeyError, OSError) as error:
            if ctx.params["debug"]:
                raise
            from weft.registry import said_by

            said = said_by(error)
            if isinstance(error, OSError) and error.strerror and error.filename:
                said = f"{error.filename}: {error.strerror}"
            typer.echo(f"weft: {said}", err=True)
            raise typer.Exit(REFUSED) from None
        except KeyboardInterrupt as stop:
            typer.echo(f"weft: {stop or 'interrupted'}", err=True)
            raise typer.Exit(STOPPED) from None


def show_training(
    work: "Callable[[Report | None], RunFolder]", *, quiet: bool, as_json: bool
) -> None:
    """Do a training with its progress shown, and print what came of it; of several processes the first alone speaks.

    Args:
        work: The training, given whom to tell how far it is.
        quiet: Show no progress.
        as_json: Print scores and costs as JSON.
    """
    from weft.reporting.progress import training_shown

    # Of the processes that torchrun or accelerate started.
    is_first = os.environ.get("RANK", "0") == "0"
    with training_shown(quiet or not is_first) as report:
        folder = work(report)
    if not is_first:
        return
    from weft.reporting.answers.scores import show_runs, summary_of

    if as_json:
        typer.echo(json.dumps(summary_of(folder), indent=1))
    else:
        show_runs(folder)


app = typer.Typer(
    name="weft",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from weft import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def weft(
    debug: Annotated[
        bool, typer.Option("--debug", envvar="WEFT_DEBUG", help="Show the traceback of an error.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    """One frozen Transformer, many low-rank experts: train, evaluate, predict, export."""
    # A terminal or pipe that is not UTF-8 gets escapes for what it cannot show, not an error.
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
