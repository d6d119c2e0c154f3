"""`weft export`: a run's expert, or its mixture, for other programs."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def command(
    run: Annotated[Path, typer.Argument(help="The run folder of one task, or of a mixture.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write.")],
    *,
    to: Annotated[
        str,
        typer.Option(
            metavar="FORM",
            help="peft: files that PEFT opens (LoRA, X-LoRA). merged: a transformers checkpoint. "
            "sentence-transformers: that of an embedding, with its pooling. onnx: a graph that ONNX Runtime answers.",
        ),
    ] = "peft",
    rank: Annotated[
        int | None,
        typer.Option(
            help="peft: the nearest plain LoRA of this rank, and how far it is; of dylora the one it was trained to be."
        ),
    ] = None,
    quantise: Annotated[
        Literal["int8"] | None,
        typer.Option(
            help="onnx: weights in 8 bits; what that loses is said, on the rows of --split."
        ),
    ] = None,
    mitigate_intruders: Annotated[
        float | None,
        typer.Option(
            metavar="LAMBDA",
            help="Shrink singular vectors of changed weights that the base has none like: 0 takes them away, 1 leaves "
            "them, 0.75 is PEFT's default.",
        ),
    ] = None,
    split: Annotated[
        Literal["train", "validation", "test"],
        typer.Option(help="onnx: rows that expert and graph are both scored on."),
    ] = "validation",
    user: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Of a personal run, whose expert, with the population's."
        ),
    ] = None,
    max_examples: Annotated[
        int | None, typer.Option(min=0, help="onnx: so many of them, a seeded sample; 0: none.")
    ] = None,
) -> None:
    """Write a run's expert, or its X-LoRA mixture, for PEFT, transformers, sentence-transformers or ONNX Runtime."""
    from weft.storage.experts import read_card
    from weft.storage.exporting import export

    export(
        run,
        folder,
        to,
        rank=rank,
        quantise=quantise,
        mitigate_intruders=mitigate_intruders,
        user=user,
    )
    typer.echo(str(folder))
    if to == "onnx" and max_examples != 0 and user is None:
        _say_what_is_lost(run, folder, split, max_examples)
    error = read_card(folder).metrics.get("approximation_error") if rank is not None else None
    if error is not None:
        typer.echo(f"loses {100 * error:.3g} % of the change of the weights", err=True)


def _say_what_is_lost(
    run: Path,
    folder: Path,
    split: Literal["train", "validation", "test"],
    max_examples: int | None,
) -> None:
    from weft.registry import said_by
    from weft.reporting.progress import rows_shown

    try:
        with rows_shown("score") as progress:
            from weft.answering.fidelity import compared

            found = compared(run, folder, split=split, max_examples=max_examples, progress=progress)
    except (KeyError, ValueError) as error:
        # The export is there; rows of a run that came from elsewhere often are not.
        typer.echo(f"not scored: {said_by(error)}", err=True)
        return
    from weft.reporting.answers.scores import show_fidelity

    show_fidelity(found)
