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
    out: Annotated[Path | None, typer.Option(help="Run folder to write.")] = None,
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
    from weft.config import with_overrides
    from weft.merging.merge import merge
    from weft.merging.record import read_record
    from weft.reporting.combined.merges import document_of
    from weft.reporting.writers import show

    folders, shares = parted(runs or [], weights)
    own = with_overrides({}, set_ or [])
    odd = [key for key in own if key != "merge"]
    if odd:
        raise ValueError(f"--set {odd[0]}: a merge has the settings of its method, merge.KEY=VALUE")
    folder = merge(
        folders,
        method,
        weights=shares,
        rank=rank,
        head=head,
        dense=dense,
        search=search,
        settings=own.get("merge"),
        out=out,
        data=data,
        scores=scores,
        seed=seed,
        device=device,
    )
    record = read_record(folder.path)
    assert record is not None  # it has just been written
    if as_json:
        typer.echo(json.dumps({"run": str(folder.path), **asdict(record)}, indent=1))
        return
    show(document_of(str(folder.path), record))


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
