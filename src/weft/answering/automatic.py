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
from weft.tasks.contract import Prediction


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
    fitting = [tasks_fitting(mixture, value, at) for at, value in enumerate(inputs)]
    # As the first task that it fits has it; which form that is is all that a task would add.
    records = [
        runs[names[0]].task.encode(
            checked_input(runs[names[0]].task, value, at), held.base.tokenizer
        )
        for at, (names, value) in enumerate(zip(fitting, inputs, strict=True))
    ]
    check_tokens(held.base, records)
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
    chosen = [
        max(names, key=lambda name, one=one: one.probabilities[name])
        for names, one in zip(fitting, said, strict=True)
    ]
    answers = predict_mixed(
        held,
        {name: run.task for name, run in runs.items()},
        list(zip(chosen, inputs, strict=True)),
        members={name: run.members for name, run in runs.items()},
        generation=generation,
        tokens_per_batch=tokens_per_batch,
        device=any_run.device,
        precision=any_run.precision,
        progress=progress,
    )
    return [
        {**answer, "task": name, "confidence": _share(one, name)}
        for answer, name, one in zip(answers, chosen, said, strict=True)
    ]


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


def _share(said: Recognised, name: str) -> float:
    return round(said.probabilities[name], 6)
