"""`weft predict`: what a run's expert says of texts or of JSON lines."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer


def command(
    run: Annotated[Path, typer.Argument(help="The run folder of one task.")],
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="[TEXT]...", help="Without: JSON lines on stdin.")
    ] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON line a text.")] = False,
    max_new_tokens: Annotated[int | None, typer.Option(help="Longest continuation.")] = None,
    sample: Annotated[bool | None, typer.Option("--sample", help="Draw by probability.")] = None,
    temperature: Annotated[
        float | None, typer.Option(help="--sample: 1 draws as predicted.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="--sample: from so many; 0 is all.")] = None,
    top_p: Annotated[float | None, typer.Option(help="--sample: from so much probability.")] = None,
    seed: Annotated[int | None, typer.Option(help="--sample: source of the draws.")] = None,
) -> None:
    """Answer texts, or JSON lines on stdin (objects of the task's columns)."""
    settings = {"max_new_tokens": max_new_tokens, "sample": sample, "temperature": temperature}
    settings |= {"top_k": top_k, "top_p": top_p, "seed": seed}
    from weft.loading import load_run_model
    from weft.prediction import predict
    from weft.streaming import answers_to_lines, generation_of
    from weft.tables import readable

    generation, loaded = generation_of(settings), load_run_model(run)
    if texts and not as_json:
        for answer in predict(loaded, texts, generation=generation):
            typer.echo(readable(answer))
        return
    answers = predict(loaded, texts, generation=generation) if texts else None
    for answer in answers or answers_to_lines(loaded, sys.stdin, generation=generation):
        typer.echo(json.dumps(answer, ensure_ascii=False))
