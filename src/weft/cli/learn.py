"""`weft learn`: a generator of experts from runs of many small tasks."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def command(
    runs: Annotated[
        list[Path] | None, typer.Argument(help="Run folders of many small tasks of one kind.")
    ] = None,
    *,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="epochs=500; may be repeated."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Generator to continue.")] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda", "mps"], typer.Option(help="Where to compute.")
    ] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    """Train a generator on the experts of several runs; weft generate asks it for new ones."""
    from weft.generating.learn import learn
    from weft.guard import with_overrides
    from weft.reporting.progress import epochs_shown

    settings = with_overrides({}, set_ or [])
    with epochs_shown("learn", quiet=quiet) as report:
        folder = learn(
            runs or [], out, settings=settings, resume=resume, device=device, report=report
        )
    typer.echo(str(folder))
