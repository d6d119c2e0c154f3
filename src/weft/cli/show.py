"""`weft show`: all about one recipe, task, base or adapter."""

import json
from typing import Annotated, Literal

import typer


def command(
    what: Annotated[Literal["recipe", "task", "base", "adapter"], typer.Argument(help="Which.")],
    name: Annotated[str, typer.Argument(help="Its name; a task's or base's may be a path.")],
    *,
    base: Annotated[
        str | None, typer.Option(help="Count parameters on this base; needs no weights.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show equation, settings, sizes and source of one of them."""
    from weft.catalogue import described
    from weft.tables import show_page

    page = described(what, name, base=base)
    if as_json:
        typer.echo(json.dumps(page, ensure_ascii=False, indent=1))
    else:
        show_page(page)
