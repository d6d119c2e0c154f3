"""`weft train`: train what a config says."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weft.cli import Include, show_training

if TYPE_CHECKING:
    from weft.runs import RunFolder
    from weft.training.loop import Report


def command(
    config: Annotated[Path | None, typer.Argument(help="The run's YAML file.")] = None,
    *,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; may be repeated."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder to write.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Run folder to continue.")] = None,
    include: Include = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Scores and costs as JSON.")] = False,
) -> None:
    """Train what a config says and leave a run folder."""

    def run(report: "Report | None") -> "RunFolder":
        from weft.training.loop import train

        return train(config, overrides=set_ or [], out=out, resume=resume, report=report)

    show_training(run, quiet=quiet, as_json=as_json)
