"""`weft import`: adapter files of PEFT, or experts' folders of weft, as run folders."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    folders: Annotated[
        list[str],
        typer.Argument(
            metavar="DIR",
            help="Folders with adapter files, or their ids on the hub; without --out one, and the run folder to write.",
        ),
    ],
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for run folders, one for each adapter of every DIR: all or none."
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(help="Their base: an alias, a hub id or a folder; default: what they say."),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            help="Their task: a registered name or a YAML file; once, or for each DIR; default: what weft.json says."
        ),
    ] = None,
    data: Annotated[str | None, typer.Option(help="Folder with the task's data.")] = None,
) -> None:
    """Make run folders of experts, or of an X-LoRA, that were trained with PEFT, or of experts of weft."""
    tasks = task[0] if task and len(task) == 1 else task or None
    if out is None:
        if len(folders) != 2:
            raise ValueError(
                f"expected DIR and RUN, got {len(folders)} arguments; give --out PARENT to import several"
            )
        if isinstance(tasks, list):
            raise ValueError("one DIR has one --task")
        from weft.storage.importing import import_expert

        typer.echo(str(import_expert(folders[0], folders[1], base=base, task=tasks, data=data)))
        return
    from weft.storage.gathering import import_experts

    for path in import_experts(folders, out, base=base, task=tasks, data=data).values():
        typer.echo(str(path))
