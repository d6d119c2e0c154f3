"""`weft demo`: three experts over one base in a minute; `--full` compares recipes on the same sets."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    out: Annotated[Path, typer.Option(help="Folder for data and runs.")] = Path("runs/demo"),
    *,
    full: Annotated[
        bool, typer.Option("--full", help="Compare lora, full and head instead; takes minutes.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Train three experts over one base on made-up sets, ask them, and say where to go next; takes a minute."""
    (_full if full else _minute)(out, quiet=quiet, as_json=as_json)


def _minute(out: Path, *, quiet: bool, as_json: bool) -> None:
    from weft.demo.minute_display import document, first_line
    from weft.reporting.progress import training_shown
    from weft.reporting.writers import show, to_json

    if not quiet:
        typer.echo(first_line(out), err=True)
    with training_shown(quiet) as report:
        from weft.demo.minute import minute

        found = document(minute(out, report=report))
    if as_json:
        typer.echo(to_json(found), nl=False)
    else:
        show(found)


def _full(out: Path, *, quiet: bool, as_json: bool) -> None:
    from weft.demo.display import demonstration_shown, document, show_demonstration
    from weft.reporting.writers import to_json

    with demonstration_shown(quiet) as report:
        from weft.demo.demonstration import demonstrate

        rows = demonstrate(out, report=report)
    if as_json:
        typer.echo(to_json(document(rows)), nl=False)
    else:
        show_demonstration(rows, out)
