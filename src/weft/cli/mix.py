"""`weft mix`: train gates over experts that exist."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer


def command(
    runs: Annotated[
        list[Path] | None, typer.Argument(help="Run folders whose experts are mixed.")
    ] = None,
    *,
    mixture: Annotated[
        str, typer.Option(help="A file of mixtures/ (weft list mixtures).")
    ] = "xlora",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; may be repeated."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder to write.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Run folder to continue.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Scores and costs as JSON.")] = False,
) -> None:
    """Mix the experts of several runs and leave a run folder."""
    from weft.progress import training_shown

    is_first = os.environ.get("RANK", "0") == "0"
    with training_shown(quiet or not is_first) as report:
        from weft.mixing import mix_config
        from weft.training import train

        if resume is not None:
            folder = train(resume=resume, report=report)
        else:
            config = mix_config(runs or [], mixture, set_ or [])
            folder = train(config, out=out, report=report)
    if not is_first:
        return
    from weft.tables import show_runs, summary_of

    if as_json:
        typer.echo(json.dumps(summary_of(folder), indent=1))
    else:
        show_runs(folder)
