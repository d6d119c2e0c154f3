"""`weft generate`: an expert from a few rows of its task, without training."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer


def command(
    *,
    generator: Annotated[Path, typer.Option(metavar="DIR", help="What `weft learn` wrote.")],
    examples: Annotated[Path, typer.Option(metavar="FILE", help="Rows with their answers.")],
    task: Annotated[
        str | None,
        typer.Option(help="The task's name or YAML file; default: rows as the generator's are."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder to write.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of the task's data, for weft evaluate.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="The generator's base, where it has another name by now.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Which of the task's experts.")] = 0,
    spread: Annotated[
        float, typer.Option(min=0, help="How far from the middle one it may be; 0 is that.")
    ] = 1.0,
    device: Annotated[
        Literal["auto", "cpu", "cuda", "mps"], typer.Option(help="Where to compute.")
    ] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make an expert for the task that some rows are of, and leave a run folder."""
    from weft.generating.generate import generate, read_generated

    folder = generate(
        generator,
        examples,
        task=task,
        out=out,
        data=data,
        base=base,
        seed=seed,
        spread=spread,
        device=device,
    )
    told = read_generated(folder.path)
    if as_json:
        typer.echo(json.dumps({"run": str(folder.path), **told}, indent=1))
        return
    typer.echo(str(folder.path))
    near = ", ".join(f"{one['task']} ({one['distance']:.3f})" for one in told["nearest"])
    typer.echo(f"from {told['rows']} rows; nearest tasks: {near}", err=True)
