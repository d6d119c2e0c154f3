"""`weft export`: a run's expert, or its mixture, for other programs."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def command(
    run: Annotated[Path, typer.Argument(help="The run folder of one task, or of a mixture.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write.")],
    to: Annotated[
        Literal["peft", "merged", "sentence-transformers"],
        typer.Option(
            help="peft: files that PEFT opens (LoRA, X-LoRA). merged: a transformers checkpoint. "
            "sentence-transformers: that of an embedding, with its pooling."
        ),
    ] = "peft",
    rank: Annotated[
        int | None,
        typer.Option(
            help="peft: the nearest plain LoRA of this rank, and how far it is; of dylora the one it was trained to be."
        ),
    ] = None,
) -> None:
    """Write a run's expert, or its X-LoRA mixture, for PEFT, transformers or sentence-transformers."""
    from weft.storage.experts import read_card
    from weft.storage.exporting import export

    export(run, folder, to, rank=rank)
    typer.echo(str(folder))
    error = read_card(folder).metrics.get("approximation_error") if rank is not None else None
    if error is not None:
        typer.echo(f"loses {100 * error:.3g} % of the change of the weights", err=True)
