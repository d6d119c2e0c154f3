"""`weft list`: what there is."""

import json
from typing import Annotated, Literal

import typer

from weft.cli import Include

What = Literal[
    "recipes", "tasks", "kinds", "bases", "adapters", "optimizers", "penalties", "controllers",
    "plans", "balances", "heads", "mixtures", "merges", "grids", "questions",
    "metrics", "judges", "protocols",
]  # fmt: skip


def command(
    what: Annotated[What, typer.Argument(help="Which list.", show_choices=True)],
    *,
    include: Include = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List what there is, each with a line and its source."""
    from weft.catalogue.pages import listed
    from weft.reporting.tables import show_list

    entries = listed(what)
    if as_json:
        typer.echo(json.dumps(entries, ensure_ascii=False, indent=1))
    else:
        show_list(what, entries)
