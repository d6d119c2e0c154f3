"""`weft prompt`: what a decoder says of a task's rows when it is asked in words."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from weft.cli import Include


def command(
    task: Annotated[
        str, typer.Argument(help="A set (weft list tasks), or the YAML file of your own.")
    ],
    *,
    base: Annotated[
        str, typer.Option(help="A decoder, or the run folder of a causal_lm expert.")
    ] = "smollm2",
    data: Annotated[
        str | None, typer.Option(help="Folder of the data; default: beside its YAML, or the hub.")
    ] = None,
    split: Annotated[
        Literal["train", "validation", "test"], typer.Option(help="Which rows.")
    ] = "validation",
    max_examples: Annotated[
        int | None, typer.Option(min=1, help="Size of a seeded sample; default: all.")
    ] = None,
    shots: Annotated[int, typer.Option(min=0, help="Training rows shown with their answers.")] = 0,
    nearest: Annotated[
        bool, typer.Option("--nearest", help="Show those nearest to each row, not drawn ones.")
    ] = False,
    style: Annotated[str, typer.Option(help="Way of asking (weft list styles).")] = "direct",
    retrieve: Annotated[
        int, typer.Option(min=0, help="Passages put before each question, the nearest.")
    ] = 0,
    corpus: Annotated[
        str | None,
        typer.Option(help="--retrieve: text file of paragraphs; default: the training rows."),
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Ask by the tokenizer's chat template.")
    ] = False,
    normalise: Annotated[
        Literal["characters", "tokens", "none"],
        typer.Option(help="What an option's log-likelihood is divided by."),
    ] = "characters",
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest written answer; default: the kind's.")
    ] = None,
    thought_tokens: Annotated[
        int | None, typer.Option(min=1, help="--style chain: longest reasoning.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of drawn examples and intervals.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(help="JSON-lines file of the answers; it is gone on with."),
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda", "mps"], typer.Option(help="Where to compute.")
    ] = "auto",
    precision: Annotated[
        Literal["fp32", "bf16", "fp16", "fp64"] | None,
        typer.Option(help="Arithmetic; default: the expert's, fp32 for a base."),
    ] = None,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Read every prompt whole: slower, same answers.")
    ] = False,
    include: Include = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Ask a decoder about a task's rows in words, and score its answers as an expert's."""
    from weft.reporting.progress import rows_shown

    own: dict[str, Any] = {"base": base, "shots": shots, "nearest": nearest, "style": style}
    own |= {"retrieve": retrieve, "corpus": corpus, "chat": chat, "normalise": normalise}
    own |= {"max_new_tokens": max_new_tokens, "seed": seed, "cache": not no_cache}
    own |= {} if thought_tokens is None else {"thought_tokens": thought_tokens}
    rows: dict[str, Any] = {"data": data, "split": split, "max_examples": max_examples, "out": out}
    with rows_shown("prompt") as progress:
        from weft.prompting.prompt import prompt

        found = prompt(task, **rows, device=device, precision=precision, progress=progress, **own)
    from weft.reporting.answers.prompted import show_prompted

    if as_json:
        typer.echo(json.dumps(found.as_json(), indent=1))
    else:
        show_prompted(found)
