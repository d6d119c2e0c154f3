"""`weft show`: all about one recipe, task, base, adapter, mixture or merge."""

import json
from typing import Annotated, Literal

import typer

from weft.cli import Include


def command(
    what: Annotated[
        Literal["recipe", "task", "base", "adapter", "mixture", "merge", "user"],
        typer.Argument(help="Which."),
    ],
    name: Annotated[
        str,
        typer.Argument(
            help="Its name; a recipe's, task's or base's may be a path, a user's is RUN@USER."
        ),
    ],
    *,
    base: Annotated[
        str | None, typer.Option(help="Count parameters on this base; needs no weights.")
    ] = None,
    experts: Annotated[
        int | None, typer.Option(min=1, help="mixture: count it for so many; default: 3.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="mixture: count it with a setting."),
    ] = None,
    include: Include = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show equation, settings, sizes and source of one of them."""
    from weft.catalogue.pages import described
    from weft.guard import with_overrides
    from weft.reporting.tables import show_page

    values = with_overrides({}, set_ or [])
    if what == "user":
        from weft.catalogue.users import described_user

        page = described_user(name)
    else:
        page = described(what, name, base=base, experts=experts, values=values)
    if as_json:
        typer.echo(json.dumps(page, ensure_ascii=False, indent=1))
    else:
        show_page(page)
