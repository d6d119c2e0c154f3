"""`weft reproduce`: the study's six tables beside ours."""

import json
from pathlib import Path
from typing import Annotated

import typer

from weft.cli import RUNS_FAILED, AtOnce, Cluster


def command(
    *,
    profile: Annotated[str, typer.Option(help="paper, small, demo, or a YAML file.")],
    data: Annotated[
        Path | None, typer.Option(help="Folder with a sub-folder for each set; no hub then.")
    ] = None,
    bases: Annotated[
        Path | None, typer.Option(help="Folder with a sub-folder for each base; no hub then.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="How many; default: the profile's.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder; default: runs/reproduce-<profile>.")
    ] = None,
    workers: AtOnce = None,
    ray: Cluster = None,
    price: Annotated[
        float | None,
        typer.Option(min=0, help="USD for an hour of the machine; default: an assumed one."),
    ] = None,
    plan_only: Annotated[
        bool, typer.Option("--plan", "--dry-run", help="Only say what would run and how long.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all numbers as JSON.")] = False,
) -> None:
    """Run what is missing of a profile and write its report; the same call goes on where it stopped."""
    from weft.comparison.ray_workers import workers_at
    from weft.reporting.writers import show, to_json, write
    from weft.reproduction.costs import PRICE
    from weft.reproduction.forecast import forecast, reproduction_shown, show_forecast
    from weft.reproduction.needs import ready
    from weft.reproduction.report import VALUES, document, gather
    from weft.reproduction.reproducing import plan_for
    from weft.reproduction.running import run

    plan = plan_for(profile, out, data=data, bases=bases, seeds=seeds)
    plan, notes = ready(plan, fetch=not plan_only)
    # Workers of one machine share the cores, or the accelerator, that the estimate was measured on.
    ahead = forecast(plan, notes=tuple(notes), at_once=workers or 1 if ray is not None else 1)
    if plan_only and as_json:
        typer.echo(json.dumps(ahead.as_json(), indent=1))
    elif not quiet or plan_only:
        show_forecast(ahead, stderr=not plan_only)
    if plan_only:
        return
    device = plan.profile.device
    with (
        reproduction_shown(ahead, quiet=quiet) as watch,
        workers_at(ray, device=device, at_once=workers, watch=watch) as runner,
    ):
        outcome = run(plan, runner)
    found = document(gather(outcome, PRICE if price is None else price))
    written = write(found, plan.out, values=VALUES)
    if as_json:
        typer.echo(to_json(found), nl=False)
    else:
        show(found)
        for path in written:
            typer.echo(f"wrote {path}")
    if outcome.failed:
        raise typer.Exit(RUNS_FAILED)
