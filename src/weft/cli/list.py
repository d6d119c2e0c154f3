"""`weft list`: what there is."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from weft.cli import Include

What = Literal[
    "recipes", "tasks", "kinds", "bases", "adapters", "optimizers", "penalties", "controllers",
    "plans", "balances", "heads", "mixtures", "merges", "grids", "questions", "styles",
    "metrics", "judges", "protocols", "users",
]  # fmt: skip


def command(
    what: Annotated[What, typer.Argument(help="Which list.", show_choices=True)],
    run: Annotated[
        Path | None, typer.Argument(help="users: the run folder of a personal run.")
    ] = None,
    *,
    include: Include = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List what there is, each with a line and its source."""
    from weft.reporting.tables import show_list

    entries = _entries(what, run)
    if as_json:
        typer.echo(json.dumps(entries, ensure_ascii=False, indent=1))
    else:
        show_list(what, entries)


def _entries(what: What, run: Path | None) -> list[dict[str, Any]]:
    if (what == "users") != (run is not None):
        raise ValueError(
            "weft list users RUN lists who has an expert in a run; other lists need no run folder"
        )
    if run is not None:
        from weft.catalogue.users import listed_users

        return listed_users(run)
    from weft.catalogue.pages import listed

    return listed(what)
