"""`weft key`: a key for `weft serve`, which keeps only its hash."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    name: Annotated[str, typer.Argument(help="Whose it is; stands in the server's log.")],
    *,
    file: Annotated[Path, typer.Option(help="File of keys, made if it is not there.")],
    manage: Annotated[
        bool, typer.Option("--manage", help="It may put and remove experts too.")
    ] = False,
    requests_per_minute: Annotated[float | None, typer.Option(help="Most it may ask.")] = None,
    tokens_per_minute: Annotated[float | None, typer.Option(help="Most it may have read.")] = None,
) -> None:
    """Make a key, print it this once, and write its hash into a file."""
    from weft.config import validate
    from weft.serving.http.security import Key, add_key, hashed, new_key

    text = new_key()
    key = {
        "name": name,
        "sha256": hashed(text),
        "rights": ["predict", "manage"] if manage else ["predict"],
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
    }
    add_key(file, validate(Key, key, f"key {name!r}"))
    typer.echo(text)
