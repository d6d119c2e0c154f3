"""`weft report`: any runs side by side, as tables, a page with figures, and model cards."""

import json
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
    from weft.reporting.run_report import gather
    from weft.reporting.terminal import show_report
    from weft.reporting.writing import as_json_value, write_report

    report = gather(runs)
    written = write_report(report, out)
    if cards:
        written += write_cards(report, licence=licence)
    if as_json:
        found = as_json_value(report) | {"files": [str(path) for path in written]}
        typer.echo(json.dumps(found, indent=1))
        return
    show_report(report)
    for path in written:
        typer.echo(f"wrote {path}")
