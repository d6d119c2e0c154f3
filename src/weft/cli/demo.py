"""`weft demo`: train and compare experts on made-up sets and the embedded base."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    out: Annotated[Path, typer.Option(help="Folder for data and runs.")] = Path("runs/demo"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare lora, full and head on three small made-up sets; takes minutes."""
    from weft.demo.display import demonstration_shown, document, show_demonstration
    from weft.reporting.writers import to_json

    with demonstration_shown() as report:
        from weft.demo.demonstration import demonstrate

        rows = demonstrate(out, report=report)

    if as_json:
        typer.echo(to_json(document(rows)), nl=False)
    else:
        show_demonstration(rows, out)
