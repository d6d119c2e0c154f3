"""`weft train`: train what a config says."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer


def command(
    config: Annotated[Path | None, typer.Argument(help="The run's YAML file.")] = None,
    *,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; may be repeated."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder to write.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Run folder to continue.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Scores and costs as JSON.")] = False,
) -> None:
    """Train what a config says and leave a run folder."""
    from weft.progress import training_shown

    # Of the processes that torchrun or accelerate started.
    is_first = os.environ.get("RANK", "0") == "0"
    with training_shown(quiet or not is_first) as report:
        from weft.training import train

        folder = train(config, overrides=set_ or [], out=out, resume=resume, report=report)
    if not is_first:
        return
    from weft.tables import show_runs, summary_of

    if as_json:
        typer.echo(json.dumps(summary_of(folder), indent=1))
    else:
        show_runs(folder)
