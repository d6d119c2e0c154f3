"""`weft init`: configs and examples to start from."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Folder to write to.")] = Path(),
) -> None:
    """Write configs/ and examples/ to a folder; weft train configs/own_task.yaml is a first run."""
    from weft.catalogue.shipped import lay_out

    for place in lay_out(folder):
        typer.echo(str(place))
