"""`weft schema`: what a run's YAML may say, as JSON Schema."""

import json

import typer


def command() -> None:
    """Print the JSON Schema of a run, for editors and checks."""
    from weft.catalogue.schema import run_schema

    typer.echo(json.dumps(run_schema(), ensure_ascii=False, indent=1))
