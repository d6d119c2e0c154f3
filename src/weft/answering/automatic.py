"""Answers to inputs whose task nobody named: recognised by the mixture itself."""

from collections.abc import Sequence

from weft.answering.generation import Generation
from weft.answering.inference import Progress
from weft.answering.inputs import Input, checked_input, fields
from weft.answering.prediction import predict_mixed
from weft.answering.recognition import features, sequences_of
from weft.base.tokens import check_tokens
from weft.model.recogniser import Recognised
from weft.storage.loading import LoadedMixture, LoadedRun
from weft.tasks.contract import Prediction, Record


def predict_auto(
    mixture: LoadedMixture,
    inputs: Sequence[Input],
    *,
    generation: Generation | None = None,
    tokens_per_batch: int | None = None,
    progress: Progress | None = None,
) -> list[Prediction]:
    """What the mixture says of each input, by the head of the task it takes it for.

    An input is answered by the likeliest of the tasks that its fields fit; which that is stands beside the answer as
    `task`, and its probability among all tasks as `confidence`.

    Args:
        mixture: The mixture and the heads of its tasks.
        inputs: Texts, or mappings of some task's columns.
        generation: How causal language models continue.
        tokens_per_batch: Padded tokens in one forward call; None takes what is fastest on the device.
        progress: Told how far it is.

    Raises:
        ValueError: If an input fits none of the tasks.
    """
    runs = mixture.runs
    any_run = next(iter(runs.values()))
    held = any_run.model.snapshot
    fitting, records = fitting_records(mixture, inputs)
    sequences, owners = sequences_of(records)
    said = mixture.recogniser(
        features(
            held,
            sequences,
            device=any_run.device,
            precision=any_run.precision,
        ),
        owners,
    )
    chosen = [likeliest(names, one) for names, one in zip(fitting, said, strict=True)]
    answers = predict_mixed(
        held,
        {run.name: run.task for run in runs.values()},
        [(runs[name].name, value) for name, value in zip(chosen, inputs, strict=True)],
        members={run.name: run.members for run in runs.values()},
        generation=generation,
        tokens_per_batch=tokens_per_batch,
        device=any_run.device,
        precision=any_run.precision,
        progress=progress,
    )
    return [
        with_task(answer, one, name)
        for answer, name, one in zip(answers, chosen, said, strict=True)
    ]


def fitting_records(
    mixture: LoadedMixture, inputs: Sequence[Input]
) -> tuple[list[list[str]], list[Record]]:
    """For each input the tasks whose columns it has, and the input as the first of them has it.

    Which form that is is all that a task would add to what is recognised.

    Raises:
        ValueError: If an input fits none of the tasks, or is not what the first that it fits takes.
    """
    runs = mixture.runs
    base = next(iter(runs.values())).model.base
    fitting = [tasks_fitting(mixture, value, at) for at, value in enumerate(inputs)]
    records = []
    for at, (names, value) in enumerate(zip(fitting, inputs, strict=True)):
        task = runs[names[0]].task
        records.append(task.asked(checked_input(task, value, at), base.tokenizer))
    check_tokens(base, records)
    return fitting, records


def likeliest(names: Sequence[str], said: Recognised) -> str:
    """Of some tasks the one that an input is taken for."""
    return max(names, key=lambda name: said.probabilities[name])


def with_task(answer: Prediction, said: Recognised, name: str) -> Prediction:
    """An answer beside the task that its input was taken for, and how surely among all."""
    return {**answer, "task": name, "confidence": round(said.probabilities[name], 6)}


def tasks_fitting(mixture: LoadedMixture, value: Input, at: int) -> list[str]:
    """The tasks whose columns an input has.

    Raises:
        ValueError: If there is none; says what each task takes.
    """
    found = [name for name, run in mixture.runs.items() if _fits(run, value, at)]
    if not found:
        known = "; ".join(f"{name}: {fields(run.task)}" for name, run in mixture.runs.items())
        raise ValueError(f"input {at}: fits none of the tasks; give one of {known}")
    return found


def _fits(run: LoadedRun, value: Input, at: int) -> bool:
    try:
        checked_input(run.task, value, at)
    except ValueError:
        return False
    return True
