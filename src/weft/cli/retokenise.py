"""`weft retokenise`: a copy of a decoder with another tokenizer, its embeddings translated."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    base: Annotated[
        str, typer.Argument(help="The base: an alias, a hub id, a folder or a GGUF file.")
    ],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write.")],
    *,
    corpus: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Plain text to train a tokenizer on; may be repeated.",
            show_default=False,
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens of a tokenizer that is trained.", show_default=False),
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A tokenizer to take instead.", show_default=False),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Of a base on the hub.")] = None,
) -> None:
    """Give a decoder another tokenizer, with embeddings translated from the old one's, as a base to train on."""
    from weft.vocabulary.record import read_record
    from weft.vocabulary.retokenise import retokenise

    retokenise(base, folder, corpus=corpus or (), size=size, tokenizer=tokenizer, revision=revision)
    typer.echo(str(folder))
    record = read_record(folder)
    typer.echo(
        f"{record.tokens:,} tokens in place of {record.tokens_before:,}: {record.copied:,} copied, "
        f"{record.averaged:,} means of several, {record.unknown:,} unknown",
        err=True,
    )
    if record.tokens_per_byte and record.tokens_per_byte_before:
        typer.echo(
            f"the corpus in {record.tokens_per_byte:.3f} tokens a byte, before {record.tokens_per_byte_before:.3f}",
            err=True,
        )
    for note in record.notes:
        typer.echo(note, err=True)
