"""`weft doctor`: what this machine has, what is wrong with it, and what to do."""

import json
from typing import Annotated

import typer

WRONG = 1
"""Exit code where something is wrong."""


def command(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show versions, devices, caches and free disk; exit code 1 if something is wrong, with what to do."""
    from weft.catalogue.machine import examined
    from weft.reporting.tables import show_page

    page = examined()
    if as_json:
        typer.echo(json.dumps(page, ensure_ascii=False, indent=1))
    else:
        show_page({key: value for key, value in page.items() if key != "wrong"})
        for line in page["wrong"] or ["nothing"]:
            typer.echo(f"wrong: {line}")
    if page["wrong"]:
        raise typer.Exit(WRONG)
