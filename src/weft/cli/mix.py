"""`weft mix`: train gates over experts that exist."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weft.cli import show_training

if TYPE_CHECKING:
    from weft.runs import RunFolder
    from weft.training.loop import Report


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

    def mix(report: "Report | None") -> "RunFolder":
        from weft.training.loop import train
        from weft.training.settings import mix_config

        if resume is not None:
            return train(resume=resume, report=report)
        return train(mix_config(runs or [], mixture, set_ or []), out=out, report=report)

    show_training(mix, quiet=quiet, as_json=as_json)
