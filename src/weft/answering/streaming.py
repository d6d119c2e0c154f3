"""JSON lines in, predictions out, a chunk at a time: input may be longer than memory."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from weft.answering.exported import Exported
from weft.answering.inputs import Input, checked_input, read_jsonl_lines
from weft.config import validate
from weft.tasks.contract import Prediction

if TYPE_CHECKING:
    from weft.answering.generation import Generation
    from weft.storage.loading import LoadedMixture, LoadedRun

CHUNK = 64
"""Lines answered together: a multiple of generation's batch, so that its batches stay full."""


def answers(
    run: "LoadedRun | LoadedMixture | Exported",
    inputs: Iterable[Input],
    *,
    generation: "Generation | None" = None,
    chunk: int = CHUNK,
) -> Iterator[Prediction]:
    """The answer to each input, in order; those without an `id` are numbered from 0.

    Args:
        run: The expert, as a run or as it was exported to ONNX, or a mixture that recognises each input's task.
        inputs: Any number, read as they are needed.
        generation: How a causal language model continues.
        chunk: Inputs that are read and answered together.

    Raises:
        ValueError: If an input is wrong, naming it; nothing of its chunk is answered.
    """
    numbered = enumerate(inputs)
    while rows := [_numbered(run, value, at) for at, value in islice(numbered, chunk)]:
        yield from _answered(run, rows, generation)


def answers_to_lines(
    run: "LoadedRun | LoadedMixture | Exported",
    lines: Iterable[str],
    *,
    generation: "Generation | None" = None,
    chunk: int = CHUNK,
) -> Iterator[Prediction]:
    """The answer to each line, in order; inputs without an `id` are numbered from 0.

    Args:
        run: The expert, as a run or as it was exported to ONNX, or a mixture that recognises each line's task.
        lines: A JSON object or string each; empty lines are passed over.
        generation: How a causal language model continues.
        chunk: Lines that are read and answered together.

    Raises:
        ValueError: If a line is wrong, naming it; nothing of its chunk is answered.
    """
    places: list[int] = []
    inputs = enumerate(read_jsonl_lines(_counted(lines, places)))
    while values := list(islice(inputs, chunk)):
        rows = []
        for at, value in values:
            try:
                rows.append(_numbered(run, value, at))
            except ValueError as error:
                said = str(error).removeprefix(f"input {at}: ")
                raise ValueError(f"line {places[at]}: {said}") from None
        first, last = values[0][0], values[-1][0]
        try:
            found = _answered(run, rows, generation)
        except ValueError as error:
            raise ValueError(f"lines {places[first]} to {places[last]}: {error}") from error
        yield from found


def generation_of(settings: Mapping[str, Any]) -> "Generation | None":
    """Generation settings from those that are not None; None if all are.

    Raises:
        ValueError: If a value is out of range.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    if not given:
        return None
    from weft.answering.generation import Generation  # with torch, which a graph's answers need not

    return validate(Generation, given, "generation")


def _counted(lines: Iterable[str], places: list[int]) -> Iterator[str]:
    """The same lines; the numbers of those that are not empty go to `places`."""
    for number, line in enumerate(lines, start=1):
        if line.strip():
            places.append(number)
        yield line


def _answered(
    run: "LoadedRun | LoadedMixture | Exported",
    rows: Sequence[Mapping[str, Any]],
    generation: "Generation | None",
) -> list[Prediction]:
    if isinstance(run, Exported):
        if generation is not None:
            raise ValueError(
                f"generation settings are for causal language models; this expert's kind is {run.task.spec.kind}"
            )
        return run.predict(rows)
    from weft.answering.automatic import predict_auto
    from weft.answering.prediction import predict
    from weft.storage.loading import LoadedMixture

    if isinstance(run, LoadedMixture):
        return predict_auto(run, rows, generation=generation)
    return predict(run, rows, generation=generation)


def _numbered(
    run: "LoadedRun | LoadedMixture | Exported", value: Input, number: int
) -> Mapping[str, Any]:
    """An input with its number as id if it has none, refused by that number if it is wrong."""
    if isinstance(run, Exported):
        checked_input(run.task, value, number)
    else:
        _check(run, value, number)
    columns = {"text": value} if isinstance(value, str) else value
    return {"id": str(number), **columns}


def _check(run: "LoadedRun | LoadedMixture", value: Input, number: int) -> None:
    """Refuse an input that the expert, or every task of a mixture, does not take."""
    from weft.answering.automatic import tasks_fitting
    from weft.storage.loading import LoadedMixture

    if isinstance(run, LoadedMixture):
        tasks_fitting(run, value, number)
    else:
        checked_input(run.task, value, number)
