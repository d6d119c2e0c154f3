"""Answers for inputs of a user's own: entities, spans, choices, classes, masked words, texts."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from weft.answering.generation import Continuation, Generation, generate, transcribe
from weft.answering.inference import Progress, outputs, padding_id
from weft.answering.inputs import Input, checked_input
from weft.base.tokens import check_tokens
from weft.data.encoding import carried
from weft.lowrank.route import Members
from weft.model.batching import Item
from weft.model.folded import alone, is_folded
from weft.model.model import Model
from weft.model.snapshot import Snapshot
from weft.registry import unknown
from weft.storage.loading import LoadedRun, load_run_model
from weft.tasks.chat import prompt_of
from weft.tasks.contract import Example, Prediction, Task

FOLDED_FROM = 1024
"""Tokens of a call from which on an expert alone is folded into its base; some hundred pay for it."""


def predict(
    run: str | Path | LoadedRun,
    inputs: Sequence[Input],
    *,
    task: str | None = None,
    generation: Generation | None = None,
    tokens_per_batch: int | None = None,
    device: str = "auto",
    precision: str | None = None,
    rates: Mapping[str, int] | None = None,
    progress: Progress | None = None,
) -> list[Prediction]:
    """What a run's expert says of each input, in order.

    Entities with character offsets, an answer with its place, a choice or a class with
    probabilities, the likeliest words for each mask, or a continuation. Inputs without an `id` are
    numbered from 0.

    Args:
        run: A run folder of one task, or what `load_run_model` made of it.
        inputs: Texts, or mappings of the task's columns.
        task: Which task, of a run folder that holds several; `weft.answering.automatic` recognises it.
        generation: How a causal language model continues; refused for other kinds.
        tokens_per_batch: Padded tokens in one forward call; None takes what is fastest on the device.
        device: Where to compute; a loaded run is where it is.
        precision: Arithmetic of the forward pass; None takes the run's. A loaded run keeps its own.
        rates: At which of the rates that they were trained at recordings and pictures are pooled, by input; None is
            the finest.
        progress: Told how far it is.

    Raises:
        ValueError: If an input is not what the task takes; says which fields are needed.
    """
    if not isinstance(run, LoadedRun):
        run = load_run_model(run, task=task, device=device, precision=precision)
    refuse_generation(run.task, generation)
    if rates:
        run = replace(run, task=run.task.at(rates))
    return predict_mixed(
        run.model,
        {run.name: run.task},
        [(run.name, value) for value in inputs],
        generation=generation,
        tokens_per_batch=tokens_per_batch,
        members={run.name: run.members},
        device=run.device,
        precision=run.precision,
        progress=progress,
    )


def predict_mixed(
    model: Model | Snapshot,
    tasks: Mapping[str, Task],
    rows: Sequence[tuple[str, Input]],
    *,
    device: torch.device | str,
    members: Mapping[str, Members] | None = None,
    generation: Generation | None = None,
    tokens_per_batch: int | None = None,
    precision: str = "fp32",
    progress: Progress | None = None,
) -> list[Prediction]:
    """Answers of several experts on one base, in order; rows of all experts share forward calls.

    Continuations are the exception: causal language models write theirs one model after the other.

    Args:
        model: Has the experts resident. It may change meanwhile: what it held at the start answers.
        tasks: The task of every expert by name.
        rows: For each row the expert that answers, and its input.
        device: Where the model is.
        members: What speaks for the rows of an expert, e.g. a mixture; by default the expert itself.
        generation: How causal language models continue; None takes the defaults.
        tokens_per_batch: Padded tokens in one forward call; None takes what is fastest on the device.
        precision: Arithmetic of the forward pass.
        progress: Told how far it is.

    Raises:
        KeyError: If a row names an expert that has no task here, or is not resident.
        ValueError: If an input is not what the expert's task takes.
    """
    held = model.snapshot
    speaking = {name: (name,) for name, _ in rows} | dict(members or {})
    for name in {name for name, _ in rows}:
        if name not in tasks:
            raise KeyError(unknown("expert", name, tasks))
        held.expert(name)
    examples = [checked_input(tasks[name], value, at) for at, (name, value) in enumerate(rows)]
    found: dict[int, Prediction] = {}
    writing: dict[str, list[int]] = {}
    transcribing: dict[str, list[int]] = {}
    reading: list[int] = []
    for at, (name, _) in enumerate(rows):
        if tasks[name].spec.kind == "causal_lm":
            writing.setdefault(name, []).append(at)
        elif tasks[name].most_written:
            transcribing.setdefault(name, []).append(at)
        else:
            reading.append(at)
    records = {
        at: carried(tasks[rows[at][0]].encode(examples[at], held.base.tokenizer), examples[at])
        for at in reading
    }
    check_tokens(held.base, records.values())
    items = [
        Item(name, tasks[name].spec.kind, speaking[name], records[at])
        for at, name in ((at, rows[at][0]) for at in reading)
    ]
    raw = outputs(
        _folded(held, items, precision),
        items,
        pad_id=padding_id(held.base),
        device=device,
        precision=precision,
        tokens_per_batch=tokens_per_batch,
        progress=progress,
    )
    for at, output in zip(reading, raw, strict=True):
        found[at] = tasks[rows[at][0]].decode(examples[at], records[at], output)
    for name, places in writing.items():
        written = generate(
            held,
            name,
            [prompt_of(examples[at]) for at in places],
            generation or Generation(),
            members=speaking[name],
            device=device,
            precision=precision,
        )
        for at, one in zip(places, written, strict=True):
            found[at] = continued(examples[at], one)
    for name, places in transcribing.items():
        own = [tasks[name].encode(examples[at], held.base.tokenizer) for at in places]
        check_tokens(held.base, own)
        for at, record, one in zip(
            places,
            own,
            transcribe(
                held,
                name,
                own,
                generation or Generation(max_new_tokens=tasks[name].most_written),
                members=speaking[name],
                device=device,
                precision=precision,
                progress=progress,
            ),
            strict=True,
        ):
            found[at] = tasks[name].decode(examples[at], record, one.text)
    return [found[at] for at in range(len(rows))]


def continued(example: Example, one: Continuation) -> Prediction:
    """A continuation as a prediction."""
    return {"id": example["id"], "continuation": one.text, "tokens": len(one.tokens)}


def refuse_generation(task: Task, generation: Generation | None) -> None:
    """Refuse settings of generation where nothing is written.

    Raises:
        ValueError: If there are any, and the task is of another kind.
    """
    if generation is not None and not (task.spec.kind == "causal_lm" or task.most_written):
        raise ValueError(
            "generation settings are for causal language models; this expert's kind is "
            f"{task.spec.kind}"
        )


def _folded(held: Snapshot, items: Sequence[Item], precision: str) -> Snapshot:
    """What answers rows of one expert fastest: its change in the weights, where they pay for putting it there.

    Not in half precision, where a small change would be lost in the rounding of a weight.
    """
    speaking = {item.members for item in items}
    if len(speaking) != 1 or precision not in ("fp32", "fp64"):
        return held
    (members,) = speaking
    heads = {item.head for item in items}
    if len(members) != 1 or heads != set(members):
        return held
    (name,) = members
    tokens = sum(len(ids) for item in items for ids in item.record["input_ids"])
    if tokens < FOLDED_FROM and not is_folded(held, name):
        return held
    return alone(held, name) or held
