"""`weft compare`: every recipe of a grid on every task and base, into a leaderboard."""

from pathlib import Path
from typing import Annotated

import typer

from weft.cli import RUNS_FAILED, AtOnce, Cluster, Include


def command(
    grid: Annotated[
        Path, typer.Argument(help="The grid's YAML file, or a grid's name in an included folder.")
    ],
    *,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; may be repeated."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the runs; default: runs/<name of the file>.")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="Recipe that the others are held against.")
    ] = None,
    workers: AtOnce = None,
    ray: Cluster = None,
    extend: Annotated[
        bool, typer.Option("--extend", help="Take a folder of another grid; keep its runs.")
    ] = False,
    include: Include = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the leaderboard as JSON.")] = False,
) -> None:
    """Run what is missing of a grid and print its leaderboard; the same call goes on where it stopped."""
    from weft.catalogue.including import grid_file
    from weft.comparison.comparing import Unfinished, compare
    from weft.comparison.grid import cells_of, load_grid
    from weft.comparison.jobs import planned
    from weft.comparison.leaderboard import leaderboard
    from weft.comparison.ray_workers import workers_at
    from weft.reporting.boards import comparison_shown, show_plan, write_leaderboard
    from weft.reporting.writers import show, to_json

    chosen = load_grid(grid_file(grid), set_ or [])
    if baseline is not None:
        cells_of(chosen, [baseline])
    folder = out or Path("runs") / grid.stem
    plans = planned(chosen, folder)
    if not quiet:
        show_plan(plans, folder)
    failed = []
    with (
        comparison_shown(plans, quiet=quiet) as watch,
        workers_at(ray, device=chosen.device, at_once=workers, watch=watch) as runner,
    ):
        try:
            rows = compare(chosen, folder, extend=extend, runner=runner)
        except Unfinished as stopped:
            rows, failed = stopped.rows, stopped.failed
    board = leaderboard(chosen, folder, rows, baseline=baseline, failed=failed)
    found = write_leaderboard(board, folder)
    if as_json:
        typer.echo(to_json(found), nl=False)
    else:
        show(found)
        typer.echo(f"runs, leaderboard and figure are in {folder}")
    if failed:
        raise typer.Exit(RUNS_FAILED)
