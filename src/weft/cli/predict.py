"""`weft predict`: what a run's expert says of texts or of JSON lines."""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from weft.storage.loading import LoadedMixture, LoadedRun

_LONGEST_NAME = 255
"""Bytes; systems raise when asked for a file of a longer name."""


def command(
    run: Annotated[
        Path,
        typer.Argument(
            help="The run folder, or an export of it to onnx; with --server the expert's name."
        ),
    ],
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="[TEXT]...", help="Without: JSON lines on stdin.")
    ] = None,
    *,
    task: Annotated[
        str | None,
        typer.Option(help="Of several tasks, this one; auto: what a mixture takes each input for."),
    ] = None,
    user: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Of a personal run, whose expert answers."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON line a text.")] = False,
    server: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Ask a weft serve there; its key is in WEFT_KEY."),
    ] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Longest continuation.")] = None,
    sample: Annotated[bool | None, typer.Option("--sample", help="Draw by probability.")] = None,
    temperature: Annotated[
        float | None, typer.Option(help="--sample: 1 draws as predicted.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="--sample: from so many; 0 is all.")] = None,
    top_p: Annotated[float | None, typer.Option(help="--sample: from so much probability.")] = None,
    seed: Annotated[int | None, typer.Option(help="--sample: source of the draws.")] = None,
    style_corpus: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Steer continuations to this text's style.")
    ] = None,
    style_strength: Annotated[
        float | None,
        typer.Option(help="--style-corpus: 0 to 1, begin with a tenth; 0 is the model alone."),
    ] = None,
    at: Annotated[
        list[str] | None,
        typer.Option(
            metavar="INPUT=RATE", help="Pool recordings or pictures at this trained rate: audio=16."
        ),
    ] = None,
) -> None:
    """Answer texts, or JSON lines on stdin (objects of the task's columns)."""
    settings = {"max_new_tokens": max_new_tokens, "sample": sample, "temperature": temperature}
    settings |= {"top_k": top_k, "top_p": top_p, "seed": seed}
    settings |= {"style": _style(style_corpus, style_strength)}
    for text in texts or []:
        if len(os.fsencode(text)) <= _LONGEST_NAME and Path(text).is_file():
            said = (
                f"weft: {text!r} is answered as a text; the lines of that file come by `< {text}`"
            )
            typer.echo(said, err=True)
    from weft.reporting.tables import readable

    lines = map(json.dumps, texts) if texts else sys.stdin
    if server is None:
        found = _here(run, task, user, lines, settings, at=at)
    else:
        if at:
            raise ValueError(
                "--at: a server answers no recordings or pictures; leave --server away"
            )
        name = run.as_posix() if user is None else f"{run.as_posix()}@{user}"
        found = _there(server, name, task, lines, settings)
    for answer in found:
        shown = (
            readable(answer) if texts and not as_json else json.dumps(answer, ensure_ascii=False)
        )
        typer.echo(shown)


def _style(corpus: Path | None, strength: float | None) -> dict[str, Any] | None:
    if corpus is None:
        if strength is not None:
            raise ValueError(
                f"--style-strength {strength:g}: of what? Give --style-corpus FILE too"
            )
        return None
    return {"corpus": str(corpus), **({} if strength is None else {"strength": strength})}


def _here(
    run: Path,
    task: str | None,
    user: str | None,
    lines: Iterable[str],
    settings: Mapping[str, Any],
    *,
    at: list[str] | None,
) -> Iterator[Any]:
    from weft.answering.exported import Exported, is_exported
    from weft.answering.streaming import answers_to_lines, generation_of

    generation = generation_of(settings)
    if at and (is_exported(run) or task == "auto"):
        raise ValueError("--at is of one expert that reads recordings or pictures; leave it away")
    loaded = Exported(run) if is_exported(run) else _loaded(run, task, user, at)
    return answers_to_lines(loaded, lines, generation=generation)


def _loaded(
    run: Path, task: str | None, user: str | None, at: list[str] | None
) -> "LoadedRun | LoadedMixture":
    from weft.storage.loading import load_mixture_model, load_run_model
    from weft.tasks.inputs.contract import rates_of

    if task == "auto":
        return load_mixture_model(run)
    rates, found = rates_of(at), load_run_model(run, task=task, user=user)
    if found.user != user:
        typer.echo(f"weft: {run} has no expert of {user!r}; the population's answers", err=True)
    return found if rates is None else replace(found, task=found.task.at(rates))


def _there(
    server: str, expert: str, task: str | None, lines: Iterable[str], settings: Mapping[str, Any]
) -> Iterator[Any]:
    try:
        from weft.client.client import Client
    except ModuleNotFoundError as missing:
        raise ValueError(str(missing)) from None
    from weft.answering.inputs import read_jsonl_lines

    given = {name: value for name, value in settings.items() if value is not None}
    with Client(server) as client:
        rows = read_jsonl_lines(lines)
        yield from client.predict_iter(rows, expert=expert, task=task, generation=given or None)
