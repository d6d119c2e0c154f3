"""From a run folder to somebody who answers: `weft.load` and `weft.predict`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weft.answering.exported import Exported, is_exported
from weft.answering.generation import Generation
from weft.answering.inference import Progress
from weft.answering.inputs import Inputs, inputs_of
from weft.answering.predictor import AUTO, Held, Predictor
from weft.methods.recipes import file_of
from weft.runs import RunFolder
from weft.storage.loading import LoadedRun, load_beside, load_mixture_model, load_run_model
from weft.tasks.contract import Prediction


def load(
    path: str | Path,
    *,
    task: str | None = None,
    user: str | None = None,
    device: str = "auto",
    precision: str | None = None,
) -> Predictor:
    """The experts of a run folder on their base, ready to answer.

    Args:
        path: The run folder: of one expert, of several tasks trained together, or of a mixture.
        task: Of several tasks, this one; None loads all.
        user: Of a personal run, whose expert is to answer; whoever has none gets the population's. None is the
            population's, from which `Predictor.user` gets to each user's.
        device: auto, cpu, cuda or mps.
        precision: fp32, bf16, fp16 or fp64; None takes the run's.

    Raises:
        ValueError: If it is no run folder, holds no expert, or the expert does not fit its base.
    """
    folder = RunFolder.open(path)
    where: dict[str, Any] = {"device": device, "precision": precision}
    parts = {part.run.task.label: part for part in folder.parts() if part.run.task}
    if folder.run.mixture is not None:
        mixture = load_mixture_model(folder.path, **where)
        own = folder.run.task.label if folder.run.task else None
        tree = folder if own is None else RunFolder(folder.path.parent)
        found = {name: RunFolder(tree.path / name) for name in mixture.runs}
        held = Held(dict(mixture.runs), {**found, **parts}, mixture)
        view = Predictor(held)
        return view if (own or task) is None else view.expert(task or str(own))
    if folder.run.tasks and task is None and user is None:
        return _all_of(parts, where)
    run = load_run_model(folder.path, task=task, **where)
    found = Predictor(Held({run.name: run}, {run.name: parts[task] if task else folder}))
    return found if user is None else found.user(user)


def _all_of(parts: Mapping[str, RunFolder], where: Mapping[str, Any]) -> Predictor:
    """The experts of several tasks on one model; fully trained ones have a model each."""
    runs: dict[str, LoadedRun] = {}
    for name, part in parts.items():
        first = next(iter(runs.values()), None)
        if first is None or file_of(part.run.recipe).trains == "base":
            runs[name] = load_run_model(part.path, **where)
        else:
            runs[name] = load_beside(part.path, first, name=name)
    return Predictor(Held(runs, dict(parts)))


def predict(
    run: str | Path | LoadedRun | Predictor,
    inputs: Inputs,
    *,
    task: str | None = None,
    user: str | None = None,
    generation: Generation | Mapping[str, Any] | None = None,
    tokens_per_batch: int | None = None,
    device: str = "auto",
    precision: str | None = None,
    progress: Progress | None = None,
) -> list[Prediction]:
    """What a run's expert says of each input, in order.

    Entities with character offsets, an answer with its place, a choice or a class with probabilities, the likeliest
    words for each mask, or a continuation. Inputs without an `id` are numbered from 0.

    Args:
        run: A run folder, what `weft.load` made of it, or the folder of an export to onnx, which answers on the CPU
            (`weft.answering.exported` does without importing torch).
        inputs: Texts, or mappings of the task's columns; a pandas data frame or a `datasets.Dataset` of such rows; a
            `Path` of a file of them. What the right answer would be is not looked at.
        task: Of several tasks, this one; `auto`: of a mixture, the one that it takes each input for, which then stands
            beside the answer.
        user: Of a personal run, whose expert answers; None, or a user who has none: the population's.
        generation: How a causal language model continues (`Generation`, or a mapping of its settings); refused for
            other kinds.
        tokens_per_batch: Padded tokens in one forward call; None takes what is fastest on the device.
        device: Where to compute; what is loaded is where it is.
        precision: Arithmetic of the forward pass; None takes the run's. What is loaded keeps its own.
        progress: Told how far it is.

    Raises:
        KeyError: If there is no expert of that name.
        ValueError: If an input is not what the task takes; says which fields are needed.
    """
    if isinstance(run, str | Path) and is_exported(run):
        return _of_graph(Exported(run), inputs, generation, tokens_per_batch, progress)
    if isinstance(run, LoadedRun):
        run = Predictor(Held({run.name: run}))
    elif isinstance(run, Predictor) and user is not None:
        run = run.user(user)
    elif not isinstance(run, Predictor):
        where: dict[str, Any] = {"device": device, "precision": precision}
        if task == AUTO:
            run = load(run, user=user, **where)
        else:
            one = load_run_model(run, task=task, user=user, **where)
            run, task = Predictor(Held({one.name: one})), None
    return run.predict(
        inputs,
        task=task,
        generation=generation,
        tokens_per_batch=tokens_per_batch,
        progress=progress,
    )


def _of_graph(
    expert: Exported,
    inputs: Inputs,
    generation: Generation | Mapping[str, Any] | None,
    tokens_per_batch: int | None,
    progress: Progress | None,
) -> list[Prediction]:
    if generation is not None:
        raise ValueError(
            f"generation settings are for causal language models; this expert's kind is {expert.task.spec.kind}"
        )
    rows = list(inputs_of(inputs, expert.task.spec))
    found = expert.predict(rows, tokens_per_batch=tokens_per_batch)
    if progress is not None:
        progress(len(found), len(rows))
    return found
