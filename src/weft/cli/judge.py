"""`weft judge`: written answers by metrics and by judges, and whether the two agree."""

from pathlib import Path
from typing import Annotated, Any

import typer


def command(
    candidates: Annotated[Path, typer.Argument(help="File of the answers (CSV, TSV, JSON lines).")],
    *,
    references: Annotated[Path, typer.Option(help="File of what people wrote, row by row.")],
    against: Annotated[
        Path | None,
        typer.Option(help="File of another system's answers: everything is a difference."),
    ] = None,
    questions: Annotated[
        Path | None, typer.Option(help="File of what was asked; judges read it.")
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(metavar="A,B", help="Which (weft list metrics); default: all.")
    ] = None,
    judge: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME,KEY=VALUE",
            help="server,url=http://127.0.0.1:8000/v1,model=M or local,base=smollm2; may be repeated.",
        ),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(help="pairwise or rubric (weft list protocols); default: pairwise for two."),
    ] = None,
    criteria: Annotated[
        Path | None, typer.Option(help="File that says what judges look at.")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROLE=NAME",
            help="candidates, against, references or questions: the column of its texts; default: text.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for results and answers; it is gone on with.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of every draw.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Evaluate written answers on two tracks, and flag where metrics and judges part."""
    from weft.guard import SETTINGS, read_text
    from weft.reporting.progress import steps_shown
    from weft.reporting.writers import show, to_json

    columns = dict(_pair(one, "--column") for one in column or [])
    judges = [settings_of(one) for one in judge or []]
    wanted = None if metrics is None else [name.strip() for name in metrics.split(",")]
    own: dict[str, Any] = (
        {} if criteria is None else {"criteria": read_text(criteria, SETTINGS).strip()}
    )
    with steps_shown("judge", quiet=quiet) as progress:
        from weft.judging.document import document
        from weft.judging.judge import judge as judged

        found = judged(
            candidates,
            references,
            against=against,
            questions=questions,
            metrics=wanted,
            judges=judges,
            protocol=protocol,
            columns=columns,
            out=out,
            seed=seed,
            progress=progress,
            **own,
        )
    said = document(found)
    if as_json:
        typer.echo(to_json(said), nl=False)
    else:
        show(said)


def settings_of(text: str) -> dict[str, object]:
    """A judge's settings from `name,key=value,...`."""
    from weft.guard import with_overrides

    name, *pairs = text.split(",")
    return {
        **with_overrides(
            {}, [f"{key}={value}" for key, value in (_pair(p, "--judge") for p in pairs)]
        ),
        "name": name,
    }


def _pair(text: str, option: str) -> tuple[str, str]:
    key, found, value = text.partition("=")
    if not found or not key.strip() or not value:
        raise ValueError(f"{option} {text!r:.80}: expected KEY=VALUE")
    return key.strip(), value
