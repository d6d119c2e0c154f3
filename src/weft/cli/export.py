"""`weft export`: a run's expert for other programs."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def command(
    run: Annotated[Path, typer.Argument(help="The run folder of one task.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write.")],
    to: Annotated[
        Literal["peft", "merged"],
        typer.Option(
            help="peft: adapter files that PEFT opens. merged: a transformers checkpoint."
        ),
    ] = "peft",
) -> None:
    """Write a run's expert for PEFT or transformers."""
    from weft.exporting import export

    export(run, folder, to)
    typer.echo(str(folder))
