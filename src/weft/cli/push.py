"""`weft push`: a run's expert, or its mixture, to the hub."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def command(
    run: Annotated[Path, typer.Argument(help="The run folder of one task, or of a mixture.")],
    repo: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Repository on the hub.")],
    *,
    to: Annotated[
        Literal["peft", "merged"],
        typer.Option(help="peft: files that PEFT opens. merged: a transformers checkpoint."),
    ] = "peft",
    rank: Annotated[int | None, typer.Option(help="peft: the nearest plain LoRA.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Make it private.")] = False,
    licence: Annotated[
        str | None, typer.Option(help="Licence that the card names, as the hub calls it.")
    ] = None,
    message: Annotated[str | None, typer.Option(help="Of the commit.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch; default: main.")] = None,
    create_pr: Annotated[
        bool, typer.Option("--create-pr", help="Propose it to the owners of the repository.")
    ] = False,
) -> None:
    """Upload a run's export with a model card; the token is that of `hf auth login` or HF_TOKEN."""
    from weft.publishing.hub import push

    where = push(
        run,
        repo,
        to=to,
        rank=rank,
        private=private,
        licence=licence,
        message=message,
        revision=revision,
        create_pr=create_pr,
    )
    typer.echo(where)
