"""`weft merge`: several experts in, one out; sums and differences of whole models."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer


def command(
    runs: Annotated[
        list[Path] | None, typer.Argument(help="Run folders whose experts are merged.")
    ] = None,
    *,
    method: Annotated[
        str, typer.Option("--merge", help="A file of merges/ (weft list merges).")
    ] = "cat",
    weights: Annotated[
        str | None,
        typer.Option(metavar="'W ...'", help="One for each expert; default: 1 / their number."),
    ] = None,
    rank: Annotated[int | None, typer.Option(min=1, help="Largest rank of the result.")] = None,
    head: Annotated[
        Path | None, typer.Option(help="The run whose head alone answers; default: each task's.")
    ] = None,
    dense: Annotated[
        int | None,
        typer.Option(min=1, metavar="RANK", help="Let DoRA in, as the nearest of that rank."),
    ] = None,
    search: Annotated[
        bool, typer.Option("--search", help="Find the weights on held-out rows.")
    ] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="merge.density=0.5; may be repeated."),
    ] = None,
    arithmetic: Annotated[
        str | None,
        typer.Option(metavar="SUM", help="\"base + 1.0*RUN + 1.0*('org/chat' - base)\"."),
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="--arithmetic: what base is where no expert says it.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of the data; default: the runs'.")
    ] = None,
    scores: Annotated[bool, typer.Option(help="Score before and after.")] = True,
    seed: Annotated[int, typer.Option(help="Of methods that draw or learn.")] = 0,
    device: Annotated[
        Literal["auto", "cpu", "cuda", "mps"], typer.Option(help="Where to compute.")
    ] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Merge the experts of several runs into one and leave a run folder."""
    from weft.guard import with_overrides
    from weft.merging.arithmetic import arithmetic as add_up
    from weft.merging.arithmetic import notes_of
    from weft.merging.merge import merge
    from weft.merging.record import read_record
    from weft.reporting.combined.merges import document_of
    from weft.reporting.writers import show

    folders, shares = parted(runs or [], weights)
    own = with_overrides({}, set_ or [])
    given = {"rank": rank, "head": head, "data": data, "scores": scores, "device": device}
    if arithmetic is not None:
        if folders or shares or search or own or dense or out is None:
            raise ValueError("--arithmetic says all that is added up: give it and --out alone")
        made = add_up(arithmetic, out, base=base, **given)
    elif base is not None:
        raise ValueError("--base is for --arithmetic; experts know their own base")
    else:
        odd = [key for key in own if key != "merge"]
        if odd:
            raise ValueError(
                f"--set {odd[0]}: a merge has the settings of its method, merge.KEY=VALUE"
            )
        more = {"dense": dense, "search": search, "settings": own.get("merge"), "seed": seed}
        made = merge(folders, method, weights=shares, out=out, **given, **more).path
    record = read_record(made)
    if as_json:
        values = {} if record is None else asdict(record)
        typer.echo(json.dumps({"run": str(made), **values}, indent=1))
    elif record is None:
        typer.echo(str(made))
        for note in notes_of(made):
            typer.echo(note, err=True)
    else:
        show(document_of(str(made), record))


def parted(given: list[Path], weights: str | None) -> tuple[list[Path], list[float] | None]:
    """Run folders, and the weights: those of the option and the numbers that follow it."""
    if weights is None:
        return given, None
    folders = [path for path in given if not _is_number(str(path))]
    said = weights.replace(",", " ").split() + [str(p) for p in given if _is_number(str(p))]
    wrong = [one for one in said if not _is_number(one)]
    if wrong:
        raise ValueError(f"--weights {weights!r}: expected numbers, got {wrong[0]!r}")
    return folders, [float(one) for one in said]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
