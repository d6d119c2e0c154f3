"""`weft report`: any runs side by side, as tables, a page with figures, and model cards."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer


def command(
    runs: Annotated[
        list[Path], typer.Argument(help="Run folders, or folders with run folders below them.")
    ],
    *,
    out: Annotated[
        Path, typer.Option(help="Folder for report.html, report.md and the figures.")
    ] = Path("report"),
    cards: Annotated[
        bool, typer.Option("--cards", help="Write README.md, a model card, into each expert/.")
    ] = False,
    licence: Annotated[
        str | None,
        typer.Option(help="Licence that the cards name, as the hub calls it, e.g. apache-2.0."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare runs: scores, sizes, times, learning curves and gates."""
    if licence is not None and not cards:
        raise ValueError("--licence is for model cards: give --cards too")
    from weft.reporting.cards import write_cards
    from weft.reporting.run_report import document, gather
    from weft.reporting.writers import show, to_json, write

    report = gather(runs)
    found = document(report)
    written = write(found, out)
    if cards:
        written += write_cards(report, licence=licence)
    if as_json:
        files = {"files": [str(path) for path in written]}
        typer.echo(to_json(replace(found, values=found.values | files)), nl=False)
        return
    show(found)
    for path in written:
        typer.echo(f"wrote {path}")
