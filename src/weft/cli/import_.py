"""`weft import`: adapter files of PEFT as a run folder."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder with PEFT's adapter files.")
    ],
    run: Annotated[Path, typer.Argument(help="Run folder to write.")],
    *,
    base: Annotated[str, typer.Option(help="Its base: an alias, a hub id or a folder.")],
    task: Annotated[str, typer.Option(help="Its task: a registered name or a YAML file.")],
    data: Annotated[str | None, typer.Option(help="Folder with the task's data.")] = None,
) -> None:
    """Make a run folder of an expert, or an X-LoRA, that was trained with PEFT."""
    from weft.storage.importing import import_expert

    import_expert(folder, run, base=base, task=task, data=data)
    typer.echo(str(run))
