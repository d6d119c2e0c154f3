"""`weft.learn`: from run folders of many small tasks to a generator of experts."""

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from weft.atomic import atomic_folder, write_tensors, write_text
from weft.base.loading import Base, load_base
from weft.config import validate
from weft.generating.autoencoder import Autoencoder
from weft.generating.fitting import Fitting
from weft.generating.record import (
    CHECKPOINT,
    LOG,
    STATES,
    TASKS,
    WEIGHTS,
    Learned,
    Record,
    read_record,
    write_record,
)
from weft.generating.settings import GeneratorSettings
from weft.generating.sources import Read, Source, find, read
from weft.generating.statistics import Statistics
from weft.lowrank.peft.tensors import read_tensors
from weft.scoped import tell
from weft.storage.loading import available_device
from weft.training.stopping import Interrupted, interrupts

_FORM = ("kind", "columns", "header", "quotes", "comments", "options", "max_length", "stride")
"""What of a task's description holds for another's rows."""


@dataclass(frozen=True)
class Epoch:
    """How far a generator is."""

    epoch: int
    total: int
    error: float
    """Mean squared error of what is made of the vectors again, over the epoch."""
    divergence: float
    seconds_left: float


Report = Callable[[Epoch], None]


def learn(
    runs: Sequence[str | Path] = (),
    out: str | Path | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    resume: str | Path | None = None,
    device: str = "auto",
    report: Report | None = None,
) -> Path:
    """Train a generator of experts on those of run folders, each with the vector of its task.

    A run that was trained with `training.trajectory` is seen in all the states that it kept, another as it ended. The
    experts must have the same tensors: one base, kind of task, number of classes, targets and ranks. The head is
    generated with the rest.

    Args:
        runs: Run folders, of one task or of several with an expert each; two tasks at least.
        out: The folder to write; None is `runs/generator`.
        settings: What `GeneratorSettings` has, e.g. `{"epochs": 200}`.
        resume: A generator's folder whose training was interrupted; on a CPU it ends in the same bits. Takes the place
            of `runs`, `out` and `settings`.
        device: Where to train.
        report: Called after every epoch.

    Returns:
        The generator's folder.

    Raises:
        ValueError: If runs do not belong together or lack rows, a setting is wrong, or `out` exists; before training.
        Interrupted: On SIGINT or SIGTERM, after the state was saved.
    """
    where = torch.device(available_device() if device == "auto" else device)
    if resume is not None:
        if runs or out is not None or settings:
            raise ValueError(
                "a resumed generator keeps its runs, folder and settings; leave them away"
            )
        folder = Path(resume)
        record = read_record(folder)
        if (folder / WEIGHTS).is_file():
            return folder
    else:
        own = validate(GeneratorSettings, settings or {}, "generator")
        folder = Path(out) if out is not None else Path("runs") / "generator"
        if folder.exists():
            raise ValueError(
                f"{folder} exists; choose another --out, continue it with --resume {folder}, or remove it"
            )
        record = _begin(find(runs), own, folder, where)
    _train(record, folder, where, report)
    return folder


def _begin(
    sources: Sequence[Source], settings: GeneratorSettings, folder: Path, device: torch.device
) -> Record:
    """Read everything and leave a folder that training can go on from."""
    run = sources[0].folder.run
    precisions = {source.folder.run.training.precision for source in sources}
    double = precisions == {"fp64"}
    tell("loading the base")
    dtype = torch.float64 if double else torch.float32
    base = load_base(run.base, revision=run.revision, dtype=dtype, device=device)
    found: list[Read] = []
    for at, source in enumerate(sources):
        tell("tasks read", at, len(sources))
        one = read(source, base, settings, device)
        odd = found[0].layout.difference(one.layout) if found else None
        if odd is not None:
            raise ValueError(
                f"{source.folder.path} and {sources[0].folder.path} have other tensors: {odd}; a generator is of "
                "experts with the same targets, ranks and heads"
            )
        found.append(one)
    precision = "fp64" if double else Counter(sorted(precisions - {"fp64"})).most_common(1)[0][0]
    record = _record(sources, found, settings, base, precision)
    tasks = torch.repeat_interleave(
        torch.arange(len(found)), torch.tensor([len(one.states) for one in found])
    )
    states = torch.cat([one.states for one in found])
    tensors, normalised = _known(record, found, states, tasks)
    with atomic_folder(folder) as draft:
        write_record(record, draft)
        write_tensors(draft / TASKS, tensors)
        write_tensors(draft / STATES, {"states": normalised, "tasks": tasks})
    return record


def _record(
    sources: Sequence[Source],
    found: Sequence[Read],
    settings: GeneratorSettings,
    base: Base,
    precision: str,
) -> Record:
    first, vector = sources[0], found[0].vector
    asked = first.folder.run.base
    return Record(
        settings=settings,
        base=asked,
        source=base.source,
        revision=base.revision,
        digest=base.digest,
        precision=precision,
        kind=first.card.head,
        classes=len(first.card.labels),
        how=vector.how,  # type: ignore[arg-type]  # one of the two words
        condition=len(vector.values),
        names=found[0].layout.names,
        shapes=found[0].layout.shapes,
        tasks=tuple(
            Learned(
                name=source.label,
                run=str(source.folder.path.expanduser().resolve()),
                states=len(one.states),
                rows=one.vector.rows,
            )
            for source, one in zip(sources, found, strict=True)
        ),
        form={key: first.card.task[key] for key in _FORM},
    )


def _known(
    record: Record, found: Sequence[Read], states: Tensor, tasks: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    """What the generator knows of its tasks, as tensors; the states normalised and filled up."""
    sizes = record.layout.sizes
    vectors = torch.stack([one.vector.values for one in found])
    centre = vectors.mean(0)
    spread = (vectors - centre).square().mean().sqrt()
    tensors = {
        "vectors": vectors,
        "vectors.mean": centre,
        "vectors.deviation": spread if spread > 0 else torch.ones_like(spread),
    }
    if record.settings.statistics == "pooled":
        pooled = Statistics.pooled(states, tasks, sizes)
        normalised = pooled.normalised(states, sizes)
        tensors |= {"mean": pooled.mean, "deviation": pooled.deviation}
    else:
        each = [Statistics.own(state, sizes) for state in states]
        normalised = torch.stack(
            [own.normalised(state, sizes) for own, state in zip(each, states, strict=True)]
        )
        # Of a task the statistics of its last state: that is the expert.
        ends = [int((tasks == task).nonzero().max()) for task in range(len(found))]
        tensors |= {
            "mean": torch.stack([each[end].mean for end in ends]),
            "deviation": torch.stack([each[end].deviation for end in ends]),
        }
    padding = record.length - normalised.shape[1]
    return tensors, torch.nn.functional.pad(normalised, (0, padding))


def _train(record: Record, folder: Path, device: torch.device, report: Report | None) -> None:
    """Train to the end, from the newest checkpoint where there is one."""
    settings = record.settings
    known, seen = read_tensors(folder / TASKS), read_tensors(folder / STATES)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        net = Autoencoder(settings, record.length, record.condition)
    conditions = conditioned(known["vectors"], known)[seen["tasks"]]
    fitting = Fitting(net.to(device), settings, seen["states"].to(device), conditions.to(device))
    if (folder / CHECKPOINT).is_file():
        fitting.load(read_tensors(folder / CHECKPOINT))
    began, start = time.perf_counter(), fitting.done
    with interrupts() as asked:
        while fitting.done < settings.epochs:
            error, divergence = fitting.epoch()
            done = fitting.done
            left = (time.perf_counter() - began) / (done - start) * (settings.epochs - done)
            tell("epochs of the generator", done, settings.epochs)
            if report is not None:
                report(Epoch(done, settings.epochs, error, divergence, left))
            if done == settings.epochs:
                break
            if asked or done % settings.checkpoint_every == 0:
                write_tensors(folder / CHECKPOINT, fitting.state())
            if asked:
                raise Interrupted(
                    f"stopped after epoch {done} of {settings.epochs}; go on with --resume {folder}"
                )
    lines = [
        json.dumps({"epoch": at + 1, "error": error, "divergence": divergence})
        for at, (error, divergence) in enumerate(fitting.losses)
    ]
    write_text(folder / LOG, "\n".join(lines) + "\n")
    write_tensors(folder / WEIGHTS, net.state_dict())
    for file in (CHECKPOINT, STATES):
        (folder / file).unlink(missing_ok=True)


def conditioned(vectors: Tensor, known: Mapping[str, Tensor]) -> Tensor:
    """Tasks' vectors (..., condition) as the autoencoder gets them: around 0, of size 1 over the tasks, single."""
    return ((vectors - known["vectors.mean"]) / known["vectors.deviation"]).float()
