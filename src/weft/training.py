"""The training loop: one expert, or several in the same batches over one base.

    run ─ tasks, base, experts ─> learners ─ steps ─> run folder

Each expert's loss is its sum over labelled items divided by their count over the whole optimizer step, accumulation and
processes included, so an expert learns the same alone and beside others.
"""

import platform
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from weft import checkpointing
from weft.assembly import Session, assemble
from weft.batching import Batch, Item, collate, pieces
from weft.config import Run, load_run
from weft.evaluation import Evaluation, autocast, padding_id, predictions, save_evaluation
from weft.heads import KINDS
from weft.learning import Learner, Stream
from weft.runs import RunFolder
from weft.scoring import RESAMPLES, score
from weft.storage import save_expert, save_full
from weft.tracking import Log



class Interrupted(KeyboardInterrupt):
    """Training was asked to stop; its state is on disk. The message says how to go on."""


@dataclass(frozen=True)
class Event:
    """What progress shows after a step."""

    step: int
    total: int
    epoch: float
    loss: dict[str, float]
    """Mean loss by task since the last event."""
    score: dict[str, float]
    """Latest score by task, where one was measured."""
    tokens_per_second: float
    seconds_left: float


Report = Callable[[Event], None]


def train(
    config: str | Path | Mapping[str, Any] | Run | None = None,
    *,
    overrides: Sequence[str] = (),
    out: str | Path | None = None,
    resume: str | Path | None = None,
    report: Report | None = None,
) -> RunFolder:
    """Train what `config` says and leave a run folder.

    Args:
        config: A YAML file, a mapping or a `Run`; None with `resume`.
        overrides: `a.b=c` settings that take the place of the config's.
        out: The run folder to write; None is `runs/<task>-<recipe>-seed<seed>`.
        resume: A run folder whose training was interrupted; it ends in the same bits as if it had not been.
        report: Called after steps with what a progress display shows.

    Raises:
        KeyError: If a base, task, recipe or target is unknown.
        ValueError: If a setting, a file or a row is wrong, or `out` exists; before any training.
        Interrupted: On SIGINT or SIGTERM, after the state was saved.
    """
    if (config is None) == (resume is None):
        raise ValueError("give either a config to train or a run folder to resume")
    accelerator = Accelerator()
    if resume is not None:
        if overrides or out:
            raise ValueError("a resumed run keeps its settings and its folder; leave --set and --out away")
        folder = RunFolder.open(resume)
        if folder.is_complete:
            return folder
        session = assemble(folder.run, accelerator.device)
    else:
        assert config is not None
        run = load_run(config, list(overrides))
        folder = RunFolder(Path(out) if out else default_folder(run))
        folder.refuse_existing()
        session = assemble(run, accelerator.device)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            RunFolder.create(folder.path, session.run)
        accelerator.wait_for_everyone()
    with torch.random.fork_rng(), _deterministic_rng(session.run.seed, accelerator.process_index):
        Loop(session, folder, accelerator, report).run()
    return folder


def default_folder(run: Run) -> Path:
    """Where a run goes that names no folder."""
    tasks = [run.task] if run.task else run.tasks
    names = "+".join(task.label for task in tasks if task)
    return Path("runs") / f"{names}-{run.recipe.name}-seed{run.seed}"


class Loop:
    """One training, from its first or a restored step to its run folder."""

    def __init__(
        self, session: Session, folder: RunFolder, accelerator: Accelerator, report: Report | None
    ) -> None:
        self.session = session
        self.model = session.model
        self.learners: list[Learner] = session.learners
        self.folder = folder
        self.accelerator = accelerator
        self.report = report
        self.training = session.run.training
        self.total = max(learner.total for learner in self.learners)
        self.scores: dict[str, float] = {}
        self.scaler = torch.amp.GradScaler(
            session.device.type, enabled=self.training.precision == "fp16"
        )
        self.tokens = 0
        self.seconds = 0.0

    def run(self) -> None:
        start = self._resume()
        log = Log(self.folder.log, self.session.run, self.accelerator, start)
        began = time.perf_counter() - self.seconds
        with _interrupts() as asked, log:
            for step in range(start, self.total):
                if all(learner.is_over for learner in self.learners):
                    break
                losses = self._step(step)
                self.seconds = time.perf_counter() - began
                done = step + 1
                log.add(done, losses, self.tokens, self.learners)
                if self._is_due(done, self.training.eval_every, self.training.early_stopping):
                    log.scores(done, self._evaluate(done))
                    self.seconds = time.perf_counter() - began
                if self.report and self.accelerator.is_main_process:
                    self.report(self._event(done, log.mean))
                if self._any(asked) and done < self.total:
                    self._save(done)
                    raise Interrupted(
                        f"stopped after step {done} of {self.total}; go on with --resume {self.folder.path}"
                    )
                if done < self.total and self._is_due(done, self.training.checkpoint_every, 1):
                    self._save(done)
        self._finish(began)

    def _resume(self) -> int:
        found = checkpointing.load(
            self.folder.checkpoints,
            self.learners,
            self.accelerator.process_index,
            self.session.device,
        )
        if found is None:
            return 0
        step, self.seconds = found
        return step

    def _step(self, step: int) -> dict[str, float]:
        """One optimizer step of every learner that is not done; mean loss by head."""
        active = [learner for learner in self.learners if not learner.is_over and step < learner.total]
        streams = [s for learner in active for s in learner.streams if step < s.total_steps]
        streams = list({stream.name: stream for stream in streams}.values())
        items = sorted(
            (item for stream in streams for item in stream.items(step)), key=lambda item: item.length
        )
        counts = self._counts(items)
        own = items[self.accelerator.process_index :: self.accelerator.num_processes]
        sums = dict.fromkeys(counts, 0.0)
        for number, piece in enumerate(pieces(own, self.training.accumulation) if own else []):
            batch = collate(piece, padding_id(self.session.base)).to(self.session.device)
            self.tokens += batch.tokens
            first = number == 0 and self.accelerator.is_main_process
            self._backward(batch, counts, sums, active if first else [])
        self._reduce(active)
        for learner in active:
            learner.step(step, self.scaler)
        self.scaler.update()
        return sums

    def _backward(
        self, batch: Batch, counts: Mapping[str, int], sums: dict[str, float], penalised: Sequence[Learner]
    ) -> None:
        with autocast(self.session.device, self.training.precision):
            logits = self.model(batch)
        loss = torch.zeros((), device=self.session.device, dtype=torch.float64)
        for part in batch.parts:
            assert part.labels is not None
            kind = KINDS[part.kind]
            mean = kind.loss(logits[part.head], part.labels, self.training.label_smoothing) / max(
                1, counts[part.head]
            )
            sums[part.head] += mean.item()
            loss = loss + mean
        for learner in penalised:
            for expert, recipe in learner.experts:
                for penalty in recipe.penalties:
                    loss = loss + penalty.loss(logits.get(expert.name), batch, expert.adapters)
        if loss.requires_grad:
            self.scaler.scale(loss).backward()

    def _counts(self, items: Sequence[Item]) -> dict[str, int]:
        """Labelled items of the whole step by head; every process knows them, none has to ask."""
        by_head: dict[str, list[Item]] = {}
        for item in items:
            by_head.setdefault(item.head, []).append(item)
        return {
            head: KINDS[rows[0].kind].count(
                KINDS[rows[0].kind].labels([row.record for row in rows], max(r.length for r in rows))
            )
            for head, rows in by_head.items()
        }

    def _reduce(self, active: Sequence[Learner]) -> None:
        """Sum gradients over processes; a parameter that had no row here counts as zero."""
        if self.accelerator.num_processes == 1:
            return
        for learner in active:
            for value in learner.parameters.values():
                if value.grad is None:
                    value.grad = torch.zeros_like(value)
                value.grad = self.accelerator.reduce(value.grad, reduction="sum")

    def _is_due(self, done: int, every: int | None, otherwise: int | None) -> bool:
        """Whether something that happens every so many steps, or once an epoch, happens now."""
        if every is not None:
            return done % every == 0
        longest = max(self._streams(), key=lambda stream: stream.total_steps)
        return bool(otherwise) and (done % longest.steps_per_epoch == 0 or done == self.total)

    def _streams(self) -> list[Stream]:
        return list({s.name: s for learner in self.learners for s in learner.streams}.values())

    def _evaluate(self, done: int) -> dict[str, float]:
        """Scores of the selection rows; stops learners whose patience is over."""
        fresh: dict[str, float] = {}
        for learner in self.learners:
            if learner.is_over or learner.stopper.best_step >= learner.total:
                continue
            for stream in learner.streams:
                if stream.name not in fresh and stream.held is not None:
                    fresh[stream.name] = self._score(stream)
            values = [fresh[stream.name] for stream in learner.streams if stream.name in fresh]
            if not values or self.training.early_stopping is None:
                continue
            if learner.stopper.better(sum(values) / len(values), done):
                learner.keep_best()
            if learner.stopper.is_over or done >= learner.total:
                learner.restore_best()
                learner.is_over = True
        self.scores |= fresh
        return fresh

    def _score(self, stream: Stream) -> float:
        assert stream.held is not None
        examples, records = stream.held
        return self._scores(stream, examples, records, resamples=1)[1][stream.task.metric].value

    def _scores(self, stream: Stream, examples: Any, records: Any, resamples: int) -> tuple[Any, Any]:
        """Predictions and scores of a task's rows, shared out over processes."""
        at, of = self.accelerator.process_index, self.accelerator.num_processes
        found = predictions(
            self.model,
            stream.task,
            examples[at::of],
            records[at::of],
            head=stream.head,
            kind=stream.kind,
            members=stream.members,
            pad_id=padding_id(self.session.base),
            device=self.session.device,
            precision=self.training.precision,
        )
        if of > 1:
            place = {example["id"]: number for number, example in enumerate(examples)}
            found = sorted(gather_object(found), key=lambda prediction: place[prediction["id"]])
        return found, score(stream.task, found, examples, resamples=resamples, seed=self.session.run.seed)

    def _event(self, done: int, loss: dict[str, float]) -> Event:
        longest = max(self._streams(), key=lambda stream: stream.total_steps)
        return Event(
            step=done,
            total=self.total,
            epoch=done / longest.steps_per_epoch,
            loss=loss,
            score=self.scores,
            tokens_per_second=self.tokens / max(self.seconds, 1e-9),
            seconds_left=self.seconds / done * (self.total - done),
        )

    def _any(self, asked: list[int]) -> bool:
        """Whether any process was asked to stop; all must agree on the step."""
        if self.accelerator.num_processes == 1:
            return bool(asked)
        flag = torch.tensor(float(bool(asked)), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, reduction="sum") > 0)

    def _save(self, done: int) -> None:
        states = [checkpointing.random_state(self.session.device)]
        if self.accelerator.num_processes > 1:
            states = gather_object(states)
        if self.accelerator.is_main_process:
            checkpointing.save(
                self.folder.checkpoints,
                done,
                self.learners,
                states,
                self.training.keep_checkpoints,
                self.seconds,
            )
        self.accelerator.wait_for_everyone()

    def _finish(self, began: float) -> None:
        """Best weights back, final scores, experts on disk, checkpoints gone."""
        for learner in self.learners:
            learner.restore_best()
        parts = {part.path.name: part for part in self.folder.parts()}
        for stream in self._streams():
            part = parts.get(stream.name, self.folder)
            found, scores = self._final(stream)
            if not self.accelerator.is_main_process:
                continue
            if part.path != self.folder.path:
                part = RunFolder.create(part.path, self.session.run_of(stream.name))
            task = stream.task.spec.name
            result = Evaluation(task, self.training.evaluate_on, len(found), scores, found)
            save_evaluation(part, result, self.session.run.seed)
            expert, card = self.session.result(
                stream.name, {name: value.value for name, value in scores.items()}
            )
            if self.model.is_private:
                save_full(self.model, expert, card, part.expert)
            else:
                save_expert(expert, card, self.session.base, part.expert)
            part.write_training(self._summary(stream))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            checkpointing.remove(self.folder.checkpoints)

    def _final(self, stream: Stream) -> tuple[Any, Any]:
        examples, records = self.session.final_rows(stream.name)
        return self._scores(stream, examples, records, resamples=RESAMPLES)

    def _summary(self, stream: Stream) -> dict[str, Any]:
        """What training cost and counted, for tables."""
        learners = [learner for learner in self.learners if stream in learner.streams]
        steps = min(stream.total_steps, self.total)
        best = next((le.stopper.best_step for le in learners if le.stopper.best is not None), None)
        expert = self.model.expert(stream.head)
        return {
            "adapter_parameters": self.session.adapter_parameters(stream.name),
            "trainable_parameters": sum(
                value.numel() for learner in learners for value in learner.parameters.values()
            ),
            "base_parameters": self.session.base.num_parameters,
            "head": expert.head.kind_name if expert.head else None,
            "examples": len(stream.records),
            "steps": steps,
            "best_step": best,
            "seconds": self.seconds,
            "seconds_per_epoch": self.seconds / max(1.0, steps / stream.steps_per_epoch),
            "tokens": self.tokens,
            "tokens_per_second": self.tokens / max(self.seconds, 1e-9),
            "peak_memory_mib": _peak_memory_mib(self.session.device),
            "learning_rate": learners[0].peaks[0],
            "threads": torch.get_num_threads(),
            "processes": self.accelerator.num_processes,
            "device": self.session.device.type,
            "machine": platform.machine(),
            "python": sys.version.split()[0],
            "torch": torch.__version__,
        }


def _peak_memory_mib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@contextmanager
def _deterministic_rng(seed: int, process: int) -> Iterator[None]:
    """Dropout draws from torch's global state: start it from the seed, differently on each process."""
    torch.manual_seed(seed * 1_000_003 + process)
    yield


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Signals that ask training to stop are noted, so that it stops between two steps with its state saved."""
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        asked.append(number)

    try:
        former = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: whoever started the thread handles signals
        yield asked
        return
    try:
        yield asked
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
