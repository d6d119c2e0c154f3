"""`weft evaluate`: the scores of a run's expert."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer


def command(
    run: Annotated[Path, typer.Argument(help="The run folder.")],
    *,
    data: Annotated[
        str | None, typer.Option(help="Folder of the data; default: the run's.")
    ] = None,
    split: Annotated[
        Literal["train", "validation", "test"], typer.Option(help="Which rows.")
    ] = "validation",
    max_examples: Annotated[
        int | None, typer.Option(min=1, help="Size of a seeded sample; default: the run's.")
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda", "mps"], typer.Option(help="Where to compute.")
    ] = "auto",
    precision: Annotated[
        Literal["fp32", "bf16", "fp16", "fp64"] | None,
        typer.Option(help="Arithmetic; default: the run's."),
    ] = None,
    gates: Annotated[
        bool, typer.Option("--gates", help="Write what a mixture's gates said: gates-SPLIT.json.")
    ] = False,
    rank: Annotated[
        int | None,
        typer.Option(min=1, help="Ranks that answer, of an expert trained for each (dylora)."),
    ] = None,
    user: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Of a personal run, this user's rows alone."),
    ] = None,
    scores: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="causal_lm: metrics of its text (weft list metrics): bleu, chrf, rouge, ...",
        ),
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="--scores: longest text; default: 64.")
    ] = None,
    at: Annotated[
        list[str] | None,
        typer.Option(
            metavar="INPUT=RATE", help="Pool recordings or pictures at this trained rate: audio=16."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score a run's expert; each score with its 95 % interval."""
    from weft.reporting.progress import rows_shown
    from weft.tasks.inputs.contract import rates_of

    names = [name.strip() for name in scores.split(",")] if scores else []
    if max_new_tokens is not None and not names:
        raise ValueError(
            "--max-new-tokens: nothing is written unless --scores asks for scores of it"
        )
    rates = rates_of(at)
    where = {"data": data, "device": device, "precision": precision}
    with rows_shown("evaluate") as progress:
        from weft.answering.evaluation import evaluate
        from weft.answering.streaming import generation_of

        found = evaluate(
            run,
            split=split,
            max_examples=max_examples,
            gates=gates,
            rank=rank,
            user=user,
            scores=names,
            generation=generation_of({"max_new_tokens": max_new_tokens}),
            rates=rates,
            progress=progress,
            **where,
        )
    from weft.reporting.answers.scores import as_json_value, show_scores

    if as_json:
        typer.echo(json.dumps(as_json_value(found), indent=1))
    else:
        show_scores(found)
