"""The training loop: one expert, or several in the same batches over one base.

    run ─ tasks, base, experts ─> learners ─ steps ─> run folder

Each expert's loss is its sum over labelled items divided by their count over the whole optimizer step, accumulation and
processes included, so an expert learns the same alone and beside others.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from weft.config import Run, load_run
from weft.runs import RunFolder
from weft.scoped import tell
from weft.storage.experts import save_expert
from weft.training import checkpointing
from weft.training.assembly import Session, assemble
from weft.training.callbacks import Callback, Callbacks, Event, Moment
from weft.training.finishing import finish, mean_loss, score_rows
from weft.training.learning import Learner, Stream
from weft.training.locking import held, refuse_held
from weft.training.personal import train_users
from weft.training.preparation.population import adopt_population
from weft.training.search.searching import Search, is_searched
from weft.training.settings import completed
from weft.training.stepping import Stepper, summed
from weft.training.stopping import Diverged, Interrupted, interrupts, refuse_divergence
from weft.training.tracking import Log, accelerator_for

__all__ = ["Diverged", "Event", "Interrupted", "Loop", "Report", "default_folder", "train"]


Report = Callable[[Event], None]


def train(
    config: str | Path | Mapping[str, Any] | Run | None = None,
    *,
    overrides: Sequence[str] = (),
    out: str | Path | None = None,
    resume: str | Path | None = None,
    report: Report | None = None,
    data: str | Path | Mapping[str, Any] | None = None,
    on: Mapping[str, Callback] | None = None,
) -> RunFolder:
    """Train what `config` says and leave a run folder.

    Args:
        config: A YAML file, a mapping or a `Run`; None with `resume`.
        overrides: `a.b=c` settings that take the place of the config's.
        out: The run folder to write; None is `runs/<task>-<recipe>-seed<seed>`.
        resume: A run folder whose training was interrupted; it ends in the same bits as if it had not been.
        report: Called after steps with what a progress display shows.
        data: Folder with the task's data, in place of the config's `data`; or rows in memory: `{split: rows}` (a
            `DatasetDict` is one), of several tasks `{task: {split: rows}}`; rows are a list of mappings, a pandas data
            frame or a `datasets.Dataset`. `run.yaml` keeps their digests alone.
        on: Functions by event: `step`, `evaluation`, `checkpoint`, `end`. Each gets an `Event` (step, total, epoch,
            loss and score by task, seconds left, the run folder, the newest checkpoint). One that returns `"stop"`
            (`weft.STOP`) ends the training after this step, with its final rows scored and its run folder complete;
            one that raises ends it with that error. Of several processes the first alone calls them.

    Raises:
        KeyError: If a base, task, recipe or target is unknown.
        ValueError: If a setting, a file or a row is wrong, or `out` exists; before any training.
        Diverged: If its numbers are none any more.
        Interrupted: On SIGINT or SIGTERM, after the state was saved.
    """
    if (config is None) == (resume is None):
        raise ValueError("give either a config to train or a run folder to resume")
    callbacks = Callbacks(on)
    if resume is not None:
        if overrides or out or isinstance(data, str | Path):
            raise ValueError(
                "a resumed run keeps its settings, its folder and that of its data; leave --set and --out away"
            )
        folder = RunFolder.open(resume)
        if folder.is_complete:
            # Those of a training that was killed between its last file and their removal.
            shutil.rmtree(folder.checkpoints, ignore_errors=True)
            return folder
        if os.environ.get("RANK", "0") == "0":
            refuse_held(folder)
        complete = completed(folder.run)
        if folder.run.is_personal and folder.has_population:
            return _personal(folder, accelerator_for(complete.run, folder.path), data, report)
    else:
        assert config is not None
        run = load_run(config, list(overrides))
        if isinstance(data, str | Path):
            run, data = _with_folder(run, data), None
        complete = completed(run)
        folder = RunFolder(Path(out) if out else default_folder(complete.run))
        folder.refuse_existing()
    accelerator = accelerator_for(complete.run, folder.path)
    _refuse_processes(complete.run, accelerator)
    assert not isinstance(data, str | Path)  # by now a setting
    begun = resume is not None
    if complete.run.is_personal and complete.run.personal.population:
        adopt_population(complete.run, folder, data)
        return _personal(folder, accelerator, data, report)
    if is_searched(complete.run):
        search = Search(complete, folder, accelerator, train, data, report)
        complete, begun = search.found(begun=begun), True
    session = assemble(complete, accelerator.device, data)
    if begun:
        _refuse_other_rows(complete.run, session.run)
    accelerator.wait_for_everyone()
    if not begun and accelerator.is_main_process:
        RunFolder.create(folder.path, session.run)
    accelerator.wait_for_everyone()
    is_main = accelerator.is_main_process
    with (
        _nothing_left_behind(folder, new=not begun and is_main),
        held(folder, is_main=is_main),
        torch.random.fork_rng(),
    ):
        # Dropout draws from torch's global state: it starts from the seed, differently on each process.
        torch.manual_seed(session.run.seed * 1_000_003 + accelerator.process_index)
        Loop(session, folder, accelerator, report, callbacks).run()
    return _personal(folder, accelerator, data, report) if session.run.is_personal else folder


def _refuse_processes(run: Run, accelerator: Accelerator) -> None:
    if run.is_personal and accelerator.num_processes > 1:
        raise ValueError(
            f"experts: {run.experts} trains users one after another, in one process; start it without torchrun or "
            "accelerate launch"
        )


def _personal(
    folder: RunFolder, accelerator: Accelerator, data: Any, report: Report | None
) -> RunFolder:
    """The same folder, with an expert for each user."""
    with held(folder, is_main=accelerator.is_main_process):
        train_users(folder, accelerator, data=data, report=report)
    return folder


def _with_folder(run: Run, data: str | Path) -> Run:
    """The run with a folder of data that was given beside its settings."""
    own = [task.label for task in [run.task, *run.tasks] if task and task.data]
    if own or run.data:
        said = f"tasks {', '.join(own)}" if own else f"`data: {run.data}`"
        raise ValueError(
            f"data={str(data)!r} is given, and the config says it as well ({said}); choose one"
        )
    return run.model_copy(update={"data": str(data)})


def _refuse_other_rows(begun: Run, resumed: Run) -> None:
    for before, after in zip(
        [begun.task, *begun.tasks], [resumed.task, *resumed.tasks], strict=True
    ):
        if before and after and before.in_memory != after.in_memory:
            raise ValueError(
                f"task {before.label}: the rows given now are not those that the run began with; give the same"
            )


@contextmanager
def _nothing_left_behind(folder: RunFolder, *, new: bool) -> Iterator[None]:
    """A new run that the disk refuses before there is a checkpoint leaves no folder in the way of the next try."""
    try:
        yield
    except OSError:
        if new and not list(folder.checkpoints.glob("step-*")):
            shutil.rmtree(folder.path, ignore_errors=True)
        raise


def default_folder(run: Run) -> Path:
    """Where a run goes that names no folder."""
    tasks = [run.task] if run.task else run.tasks
    names = "+".join(task.label for task in tasks if task)
    method = run.recipe.name if run.mixture is None else run.mixture.name
    return Path("runs") / f"{names}-{method}-seed{run.seed}"


def kept_steps(total: int, count: int) -> frozenset[int]:
    """The steps of `total` after which a trajectory of `count` states keeps one; fewer where there are fewer steps."""
    return frozenset(total - at * total // (2 * count) for at in range(count))


class Loop:
    """One training, from its first or a restored step to its run folder."""

    def __init__(
        self,
        session: Session,
        folder: RunFolder,
        accelerator: Accelerator,
        report: Report | None,
        callbacks: Callbacks | None = None,
    ) -> None:
        self.session = session
        self.learners: list[Learner] = session.learners
        self.folder = folder
        self.accelerator = accelerator
        self.report = report
        self.callbacks = callbacks or Callbacks(None)
        self.saved: Path | None = None
        self.training = session.run.training
        self.total = max((learner.total for learner in self.learners), default=0)
        self.scores: dict[str, float] = {}
        self.kept = kept_steps(self.total, self.training.trajectory)
        self.stepper = Stepper(session, accelerator)
        self.seconds = 0.0

    def run(self) -> None:
        start = self._resume()
        log = Log(self.folder.log, self.session.run, self.accelerator, start)
        began = time.perf_counter() - self.seconds
        with log:
            tell(f"first of {self.total:,} steps")
            with interrupts() as asked:
                self._steps(start, log, began, asked)
            self.seconds = time.perf_counter() - began
            for learner in self.learners:
                learner.restore_best()
            results = finish(
                self.session,
                self.folder,
                self.accelerator,
                seconds=self.seconds,
                tokens=self.stepper.tokens,
            )
            log.final(self.total, results)
            for name, found in results.items():
                self.scores[name] = found.scores[self._metric(name)].value
            self.saved = None  # the run is complete, its checkpoints are gone
            self._tell("end", self.done, log)

    def _steps(self, start: int, log: Log, began: float, asked: list[int]) -> None:
        self.done = start
        for step in range(start, self.total):
            if all(learner.is_over for learner in self.learners):
                break
            losses = self.stepper.step(self.learners, step)
            self.seconds = time.perf_counter() - began
            self.done = done = step + 1
            if log.add(done, losses, self.stepper.tokens, self.learners):
                refuse_divergence(log.mean, self.learners, self.session.run, done)
            if done in self.kept and self.accelerator.is_main_process:
                self._keep(done)
            if self._is_due(done, self.training.eval_every, self.training.early_stopping):
                self._evaluate(done, log)
                self.seconds = time.perf_counter() - began
                self._tell("evaluation", done, log)
            if self.report and self.accelerator.is_main_process:
                self.report(self._event(done, log.mean))
            self._tell("step", done, log)
            interrupted, ended = self._any(bool(asked), self.callbacks.asked)
            if interrupted and done < self.total:
                self._save(done)
                raise Interrupted(
                    f"stopped after step {done} of {self.total}; go on with --resume {self.folder.path}"
                )
            if ended:
                break
            if done < self.total and self._is_due(done, self.training.checkpoint_every, 1):
                self._save(done)
                self._tell("checkpoint", done, log)

    def _resume(self) -> int:
        found = checkpointing.load(
            self.folder.checkpoints,
            self.learners,
            self.accelerator.process_index,
            self.session.device,
        )
        if found is None:
            return 0
        step, self.seconds, self.stepper.tokens = found
        return step

    def _is_due(self, done: int, every: int | None, otherwise: int | None) -> bool:
        """Whether something that happens every so many steps, or once an epoch, happens now."""
        if every is not None:
            return done % every == 0
        longest = max(self.session.streams, key=lambda stream: stream.total_steps)
        return bool(otherwise) and (done % longest.steps_per_epoch == 0 or done == self.total)

    def _evaluate(self, done: int, log: Log) -> None:
        """Score the selection rows and stop learners whose patience is over."""
        fresh: dict[str, float] = {}
        losses: dict[str, float] = {}
        on_loss = self.training.early_stopping_on == "loss"
        for learner in self.learners:
            if learner.is_over or learner.stopper.best_step >= learner.total:
                continue
            for stream in learner.streams:
                if stream.name not in fresh and stream.held is not None:
                    fresh[stream.name] = self._score(stream)
                    if on_loss:
                        losses[stream.name] = self._loss(stream)
            watched = losses if on_loss else fresh
            values = [watched[stream.name] for stream in learner.streams if stream.name in watched]
            if not values or self.training.early_stopping is None:
                continue
            if learner.stopper.better(sum(values) / len(values), done):
                learner.keep_best()
            if learner.stopper.is_over or done >= learner.total:
                learner.restore_best()
                learner.is_over = True
        self.scores |= fresh
        log.scores(done, fresh, losses)

    def _score(self, stream: Stream) -> float:
        assert stream.held is not None
        _, scores = score_rows(self.session, stream, *stream.held, self.accelerator, resamples=0)
        return scores[stream.task.metric].value

    def _loss(self, stream: Stream) -> float:
        assert stream.held is not None
        return mean_loss(self.session, stream, stream.held[1], self.accelerator)

    def _tell(self, moment: Moment, done: int, log: Log) -> None:
        """Call the user's function of a moment, on the first process."""
        if self.accelerator.is_main_process:
            self.callbacks.call(moment, lambda: self._event(done, dict(log.mean)))

    def _metric(self, name: str) -> str:
        return next(stream.task.metric for stream in self.session.streams if stream.name == name)

    def _event(self, done: int, loss: dict[str, float]) -> Event:
        longest = max(self.session.streams, key=lambda stream: stream.total_steps)
        return Event(
            step=done,
            total=self.total,
            epoch=done / longest.steps_per_epoch,
            loss=loss,
            score=dict(self.scores),
            tokens_per_second=self.stepper.tokens / max(self.seconds, 1e-9),
            seconds_left=self.seconds / max(1, done) * (self.total - done),
            folder=self.folder.path,
            checkpoint=self.saved,
        )

    def _any(self, *asked: bool) -> list[bool]:
        """Whether any process was asked to, of each; all must agree on the step."""
        if self.accelerator.num_processes == 1:
            return list(asked)
        flags = torch.tensor([float(one) for one in asked], device=self.accelerator.device)
        return (summed(self.accelerator, flags) > 0).tolist()

    def _keep(self, done: int) -> None:
        """Leave the expert as it is now in the run's trajectory."""
        expert, card = self.session.result(self.session.streams[0].name, {})
        folder = self.folder.trajectory / checkpointing.name_of(done)
        save_expert(expert, card, self.session.base, folder)

    def _save(self, done: int) -> None:
        states = [checkpointing.random_state(self.session.device)]
        if self.accelerator.num_processes > 1:
            states = gather_object(states)
        if self.accelerator.is_main_process:
            checkpointing.save(
                self.folder.checkpoints,
                self.learners,
                states,
                step=done,
                keep=self.training.keep_checkpoints,
                seconds=self.seconds,
                tokens=self.stepper.tokens,
            )
        self.saved = self.folder.checkpoints / checkpointing.name_of(done)
        self.accelerator.wait_for_everyone()
