"""`weft analyze`: what experts did to their base, as questions with answers."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def command(
    runs: Annotated[
        list[Path], typer.Argument(help="Run folders on one base: experts, merges, mixtures, full.")
    ],
    *,
    questions: Annotated[
        str | None,
        typer.Option(
            metavar="A,B", help="Which (weft list questions); default: all that need no training."
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder with ud_ewt/ and a sub-folder for each task; default: the runs'."
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(help="Folder for the report, its tables and figures; it is gone on with."),
    ] = Path("analysis"),
    seed: Annotated[int, typer.Option(help="Of every draw.")] = 0,
    device: Annotated[
        Literal["auto", "cpu", "cuda", "mps"], typer.Option(help="Where to compute.")
    ] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Ask what experts did to their base, and write one report of the answers."""
    from weft.reporting.progress import steps_shown
    from weft.reporting.writers import show, to_json

    with steps_shown("analyze", quiet=quiet) as progress:
        from weft.analysis.analyze import analyze

        asked = None if questions is None else [name.strip() for name in questions.split(",")]
        found = analyze(
            runs, asked, out=out, data=data, seed=seed, device=device, progress=progress
        )
    if as_json:
        typer.echo(to_json(found.document), nl=False)
        return
    show(found.document)
    for path in found.files:
        typer.echo(f"wrote {path}")
