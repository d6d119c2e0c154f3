"""`weft recover`: an expert of a pruned base, for the whole base."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    run: Annotated[Path, typer.Argument(help="The run folder of one task, on a pruned base.")],
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Run folder to write.")],
    *,
    base: Annotated[str, typer.Option(help="The whole base: an alias, a hub id or a folder.")],
    revision: Annotated[str | None, typer.Option(help="Of a base on the hub.")] = None,
    pruned: Annotated[
        Path | None,
        typer.Option(help="What `weft prune` wrote, if the run's base was trained further."),
    ] = None,
) -> None:
    """Make a run folder for the whole base of one that was trained on a pruned copy."""
    from weft.pruning.recovery import recover

    recover(run, out, base=base, revision=revision, pruned=pruned)
    typer.echo(str(out))
