"""The end of a training: final scores, experts on disk, what it cost."""

import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from weft import system
from weft.answering.evaluation import Evaluation, predictions, save_evaluation
from weft.answering.inference import padding_id, sampled, total_loss
from weft.answering.recognition import RECOGNITION, fit_rows, recognition
from weft.atomic import atomic_folder
from weft.config import TrainingSettings
from weft.runs import RunFolder
from weft.scoped import tell
from weft.storage.experts import save_expert, save_full
from weft.storage.mixture import save_mixture
from weft.tasks.contract import Example, Prediction, Record
from weft.tasks.scoring import RESAMPLES, Score, mistakes, score
from weft.training import checkpointing
from weft.training.assembly import Session
from weft.training.learning import Stream
from weft.training.standings import forward_cost, standings, write_standings


def finish(
    session: Session,
    folder: RunFolder,
    accelerator: Accelerator,
    *,
    seconds: float,
    tokens: int,
) -> dict[str, Evaluation]:
    """Score every task's final rows and leave complete run folders; checkpoints go last.

    Args:
        session: What was trained.
        folder: The run's folder.
        accelerator: Shares the rows out; its main process writes.
        seconds: Training time.
        tokens: Real tokens that this process trained on.

    Returns:
        What each task scores, by its name; nothing on any but the main process.
    """
    if accelerator.num_processes > 1:
        tokens = sum(gather_object([tokens]))
    results: dict[str, Evaluation] = {}
    for stream in session.streams:
        tell(f"scoring {stream.name}")
        _tune(session, stream, accelerator)
        final = session.final_rows(stream.name)
        found, scores = score_rows(session, stream, *final, accelerator, resamples=RESAMPLES)
        if not accelerator.is_main_process:
            continue
        task = stream.task.spec.name
        details = stream.task.details(found, final[0])
        split = session.run.training.evaluate_on
        worst = mistakes(stream.task, found, final[0], seed=session.run.seed)
        result = Evaluation(task, split, len(found), scores, found, details, worst)
        results[stream.name] = result
        summary = _summary(session, stream, accelerator, seconds=seconds, tokens=tokens)
        if session.run.task is not None:
            _write(session, stream, folder, result, summary)
        else:
            with atomic_folder(folder.path / stream.name) as draft:
                part = RunFolder(draft)
                part.write_config(session.run_of(stream.name))
                _write(session, stream, part, result, summary)
    if session.mix is not None and accelerator.is_main_process:
        write_standings(folder.path, standings(session, results), forward_cost(session))
        _write_mixture(session, folder)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        checkpointing.remove(folder.checkpoints)
    return results


def _tune(session: Session, stream: Stream, accelerator: Accelerator) -> None:
    """Let the task choose what it chooses on held rows (a threshold), if the final score does not see them."""
    final = session.run.training.evaluate_on
    if stream.held is None or session.run.training.select_on == final:
        return
    if not any(
        stream.task.spec.options.get(name) is None for name in stream.task.found_in_training
    ):
        return
    found, _ = score_rows(session, stream, *stream.held, accelerator, resamples=0)
    stream.task = stream.task.tuned(found, stream.held[0])


def _write(
    session: Session, stream: Stream, folder: RunFolder, result: Evaluation, summary: dict[str, Any]
) -> None:
    """Everything of one task; `training.json`, which says that the run is complete, comes last."""
    tell(f"writing {folder.path.name}")
    save_evaluation(folder, result, session.run.seed)
    if session.mix is not None:
        folder.write_training(summary)
        return
    values = {name: value.value for name, value in result.scores.items()}
    expert, card = session.result(stream.name, values)
    if session.model.is_private:
        save_full(session.model, expert, card, folder.expert)
    else:
        save_expert(expert, card, session.base, folder.expert)
    folder.write_training(summary)


def _write_mixture(session: Session, folder: RunFolder) -> None:
    """What all tasks of a mixture share; its folder says that the run is complete."""
    mix, run = session.mix, session.run
    assert mix is not None
    assert run.mixture is not None
    where = {"device": session.device, "precision": run.training.precision}
    rows = {stream.name: stream.records for stream in session.streams}
    recogniser = fit_rows(session.model, rows, **where)
    heads = {}
    for stream in session.streams:
        part = RunFolder(folder.path / stream.name)
        records = session.final_rows(stream.name)[1]
        hits = recognition(session.model, recogniser, stream.name, records, **where)
        extra = {"n": len(records), "seed": run.seed, "split": run.training.evaluate_on}
        metrics = [*part.metrics, {"name": RECOGNITION, **asdict(hits), **extra}]
        part.write_metrics(metrics)
        heads[stream.name] = session.result(stream.name, {m["name"]: m["value"] for m in metrics})
    save_mixture(
        folder.path / "mixture",
        mix,
        session.base,
        settings=run.mixture,
        ingredients=session.ingredients,
        heads=heads,
        extra=recogniser.tensors(),
    )


def score_rows(
    session: Session,
    stream: Stream,
    examples: Sequence[Example],
    records: Sequence[Record],
    accelerator: Accelerator,
    *,
    resamples: int,
) -> tuple[list[Prediction], dict[str, Score]]:
    """Predictions and scores of a task's rows, shared out over processes."""
    at, of = accelerator.process_index, accelerator.num_processes
    found = predictions(
        session.model,
        stream.task,
        examples[at::of],
        records[at::of],
        head=stream.head,
        kind=stream.kind,
        members=stream.members,
        pad_id=padding_id(session.base),
        device=session.device,
        precision=session.run.training.precision,
    )
    if of > 1:
        place = {example["id"]: number for number, example in enumerate(examples)}
        found = sorted(gather_object(found), key=lambda prediction: place[prediction["id"]])
    return found, score(stream.task, found, examples, resamples=resamples, seed=session.run.seed)


def mean_loss(
    session: Session, stream: Stream, records: Sequence[Record], accelerator: Accelerator
) -> float:
    """A task's loss over the labelled items of rows, shared out over processes."""
    own = sampled(stream.task, records[accelerator.process_index :: accelerator.num_processes])
    part = total_loss(
        session.model,
        [stream.item_of(record) for record in own],
        pad_id=padding_id(session.base),
        device=session.device,
        precision=session.run.training.precision,
    )
    parts = gather_object([part]) if accelerator.num_processes > 1 else [part]
    losses, counts = zip(*parts, strict=True)
    return sum(losses) / (sum(counts) or 1)


def _summary(
    session: Session,
    stream: Stream,
    accelerator: Accelerator,
    *,
    seconds: float,
    tokens: int,
) -> dict[str, Any]:
    """What training cost and counted, for tables."""
    learners = [learner for learner in session.learners if stream in learner.streams]
    stopper = learners[0].stopper if learners else None
    # Fewer than planned, where training stopped early.
    steps = min(stream.total_steps, max((learner.done for learner in learners), default=0))
    trained = {id(p): p.numel() for learner in learners for p in learner.parameters.values()}
    return {
        "adapter_parameters": session.adapter_parameters(stream.name),
        "trainable_parameters": sum(trained.values()),
        "base_parameters": session.base.num_parameters,
        "head": stream.kind,
        "examples": len(stream.records),
        "class_weights": (
            dict(zip(stream.task.labels, stream.class_weights, strict=True))
            if stream.class_weights is not None
            else None
        ),
        "steps": steps,
        "best_step": stopper.best_step if stopper and stopper.best is not None else None,
        "seconds": seconds,
        "seconds_per_epoch": seconds / max(1.0, steps / stream.steps_per_epoch),
        "tokens": tokens,
        "tokens_per_second": tokens / max(seconds, 1e-9),
        "peak_memory_mib": peak_memory_mib(session.device),
        "learning_rate": learners[0].peaks[0] if learners else None,
        "learning_rate_from": _rate_from(session.run.training) if learners else None,
        "threads": torch.get_num_threads(),
        "processes": accelerator.num_processes,
        "device": session.device.type,
        "machine": platform.machine(),
        "python": sys.version.split()[0],
        "torch": torch.__version__,
    }


def _rate_from(training: TrainingSettings) -> str:
    """Where the rate comes from, as a sentence."""
    return "stated" if training.rate_from is None else training.rate_from.said


def peak_memory_mib(device: torch.device) -> float:
    """The most memory this process has held: on an accelerator what torch allocated there, else what was resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return system.peak_memory_mib()
