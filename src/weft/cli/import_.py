"""`weft import`: adapter files of PEFT, or an expert's folder of weft, as a run folder."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    folder: Annotated[
        str,
        typer.Argument(metavar="DIR", help="Folder with adapter files, or its id on the hub."),
    ],
    run: Annotated[Path, typer.Argument(help="Run folder to write.")],
    *,
    base: Annotated[
        str | None,
        typer.Option(help="Its base: an alias, a hub id or a folder; default: what it says."),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="Its task: a registered name or a YAML file; default: what weft.json says."
        ),
    ] = None,
    data: Annotated[str | None, typer.Option(help="Folder with the task's data.")] = None,
) -> None:
    """Make a run folder of an expert, or an X-LoRA, that was trained with PEFT, or of an expert of weft."""
    from weft.storage.importing import import_expert

    import_expert(folder, run, base=base, task=task, data=data)
    typer.echo(str(run))
