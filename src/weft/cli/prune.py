"""`weft prune`: a pruned copy of a base, to train on."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def command(
    base: Annotated[str, typer.Argument(help="The base: an alias, a hub id or a folder.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write.")],
    *,
    kind: Annotated[
        Literal["structured", "semi", "unstructured"],
        typer.Option(
            help="structured: fewer neurons and heads. semi: n of every m weights. unstructured: "
            "single weights."
        ),
    ] = "structured",
    ratio: Annotated[
        float | None, typer.Option(help="Fraction to prune; not for semi.", show_default=False)
    ] = None,
    pattern: Annotated[
        str | None, typer.Option(metavar="N:M", help="semi: weights kept of every m; 4:8.")
    ] = None,
    importance: Annotated[
        Literal["random", "magnitude"], typer.Option(help="What stays: a draw, or the largest.")
    ] = "magnitude",
    seed: Annotated[int, typer.Option(help="Source of the draw.")] = 0,
    layer: Annotated[
        list[int] | None,
        typer.Option(help="Only this layer, counted from 0; may be repeated. Not for structured."),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Of a base on the hub.")] = None,
) -> None:
    """Write a pruned copy of a base, which runs can train on and `weft recover` knows."""
    from weft.pruning.prune import prune
    from weft.pruning.record import read_pruning

    prune(
        base,
        folder,
        kind=kind,
        ratio=ratio,
        pattern=pattern,
        importance=importance,
        seed=seed,
        layers=layer or None,
        revision=revision,
    )
    typer.echo(str(folder))
    for note in read_pruning(folder).notes:
        typer.echo(note, err=True)
