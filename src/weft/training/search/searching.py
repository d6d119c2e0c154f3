"""`training.learning_rate: search`: trying rates on rows of train that are held out, before a training begins.

    run ─ trials, each in search/<round>-<rate> ─> search.json ─ the best ─> run.yaml ─> the training

The validation split is never looked at. `search.json` holds all that was tried and grows by a trial at a time; the
folder of a trial goes when its outcome is there. Whatever ends the process, `--resume` of the run goes on.
"""

import json
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from accelerate import Accelerator

from weft.atomic import write_text
from weft.config import SEARCH, RateSource, Run
from weft.data.rows import HOLDOUT
from weft.guard import read_json
from weft.runs import CONFIG, RunFolder
from weft.scoped import announce
from weft.training.assembly import assemble
from weft.training.callbacks import Event
from weft.training.search.halving import Halving, Outcome, Trial, Tried
from weft.training.settings import Complete, completed, own_rate
from weft.training.stopping import Diverged, Interrupted
from weft.training.tracking import log_lines

FOLDER = "search"
"""Run folders of the trial at hand."""
FEW = 50
"""Held rows under which a score is mostly chance."""
FILE = "search.json"
"""Everything tried, and what was found."""

Report = Callable[[Event], None]


class Trains(Protocol):
    """`weft.train`, as far as a trial needs it."""

    def __call__(
        self,
        config: Run | None = None,
        *,
        out: Path | None = None,
        resume: Path | None = None,
        report: Report | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> RunFolder: ...


def is_searched(run: Run) -> bool:
    """Whether a run is to find its rate."""
    return run.training.learning_rate == SEARCH


@dataclass(frozen=True)
class Search:
    """The search of one run.

    Args:
        complete: The run that wants a rate.
        folder: Its run folder.
        accelerator: Shares the work out; its main process writes.
        train: Trains one trial.
        data: Rows in memory; None reads files.
        report: Told after every step how far the search is.
    """

    complete: Complete
    folder: RunFolder
    accelerator: Accelerator
    train: Trains
    data: Mapping[str, Any] | None = None
    report: Report | None = None

    def found(self, *, begun: bool) -> Complete:
        """The run with the best rate, which its folder says too.

        Args:
            begun: Whether the folder is there, of a search that was interrupted.

        Raises:
            ValueError: If nothing is trained, or as training raises; before the first trial.
            Interrupted: On SIGINT or SIGTERM, after the state of the trial was saved.
        """
        middle = own_rate(self.complete.run, self.complete.recipe).value
        session = assemble(_at(self.complete, middle), self.accelerator.device, self.data)
        if not session.learners:
            raise ValueError(
                "training.learning_rate: search has nothing to try: this run trains nothing; leave it away"
            )
        signs = {s.name: 1.0 if s.task.higher_is_better else -1.0 for s in session.streams}
        steps = max(learner.total for learner in session.learners)
        # What a folder says of rows in memory stays: those of now are held against it.
        run = self.complete.run if begun else _with_rate(session.run, SEARCH, None)
        held = min(round(HOLDOUT * len(stream.records)) for stream in session.streams)
        del session
        self.accelerator.wait_for_everyone()
        if not begun and self.accelerator.is_main_process:
            RunFolder.create(self.folder.path, run)
        self.accelerator.wait_for_everyone()
        plan = Halving(middle, steps)
        announce(
            f"searching the learning rate around {middle:g}: {plan.trials} trainings, {plan.cost:,} steps in all "
            f"before the {steps:,} of the training itself; more where the best is an end of what is tried"
        )
        if held < FEW:
            announce(
                f"only about {max(1, held)} rows are held out of train, and tell rates apart by chance"
            )
        tried = _read(self.folder)
        while (trial := plan.next(tried)) is not None:
            outcome = self._tried(plan, trial, run, signs, done=_steps(plan, tried))
            tried = {**tried, trial: outcome}
            self._write(plan, tried, trial)
        return self._taken(plan, tried, run)

    def _tried(
        self, plan: Halving, trial: Trial, run: Run, signs: Mapping[str, float], done: int
    ) -> Outcome:
        """Train one trial, or what is left of it."""
        place = self.folder.path / FOLDER / _name(trial)
        whole = max(plan.cost, done + plan.budget(trial.round))

        def report(event: Event) -> None:
            if self.report is not None:
                self.report(replace(event, step=done + event.step, total=whole, folder=None))

        try:
            if (place / CONFIG).is_file():
                self.train(resume=place, report=report, data=self.data)
            else:
                place.parent.mkdir(exist_ok=True)
                own = _trial_of(run, trial.rate, plan.budget(trial.round))
                self.train(own, out=place, report=report, data=self.data)
        except Diverged:
            return Outcome(math.nan, math.nan)
        except Interrupted:
            raise Interrupted(
                f"stopped while searching the learning rate, {done} of {whole} steps done; go on with --resume "
                f"{self.folder.path}"
            ) from None
        return _outcome(place, signs)

    def _write(self, plan: Halving, tried: Tried, trial: Trial) -> None:
        """Keep what was tried, and let go of the last trial's folder."""
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            write_text(self.folder.path / FILE, _as_json(plan, tried, None))
            shutil.rmtree(self.folder.path / FOLDER / _name(trial))
        self.accelerator.wait_for_everyone()

    def _taken(self, plan: Halving, tried: Tried, run: Run) -> Complete:
        rate = plan.best(tried)
        said = (
            f"found by a search over {len({trial.rate for trial in tried})} rates on rows of train held out "
            f"({_steps(plan, tried):,} steps; {FILE})"
        )
        run = _with_rate(run, rate, RateSource(rate=rate, said=said))
        if self.accelerator.is_main_process:
            write_text(self.folder.path / FILE, _as_json(plan, tried, rate))
            shutil.rmtree(self.folder.path / FOLDER, ignore_errors=True)
            # Last: from here on the folder is that of a training like any other.
            self.folder.write_config(run)
        self.accelerator.wait_for_everyone()
        announce(f"learning rate {rate:g}, {said}")
        return completed(run)


def _with_rate(run: Run, rate: float | str, source: RateSource | None) -> Run:
    values = {"learning_rate": rate, "rate_from": source}
    return run.model_copy(update={"training": run.training.model_copy(update=values)})


def _at(complete: Complete, rate: float) -> Complete:
    return replace(complete, run=_with_rate(complete.run, rate, None))


def _trial_of(run: Run, rate: float, steps: int) -> Run:
    """The run, shortened and scored on rows of train; its last rows are looked at once, for score and loss."""
    values = {
        "learning_rate": rate,
        "rate_from": None,
        "max_steps": steps,
        "evaluate_on": "holdout",
        "select_on": "holdout",
        "early_stopping": None,
        "early_stopping_on": "loss",
        "eval_every": steps,
        "tracker": None,
    }
    return run.model_copy(update={"training": run.training.model_copy(update=values)})


def _outcome(place: Path, signs: Mapping[str, float]) -> Outcome:
    """Score and loss of a trial that is complete, from its log."""
    lines = [json.loads(line) for line in log_lines(place / "log.jsonl")]
    last = next(line for line in reversed(lines) if "held_loss" in line)
    scores = [sign * last["score"][name] for name, sign in signs.items()]
    losses = list(last["held_loss"].values())
    return Outcome(sum(scores) / len(scores), sum(losses) / len(losses))


def _name(trial: Trial) -> str:
    return f"{trial.round + 1}-{trial.rate:g}"


def _steps(plan: Halving, tried: Tried) -> int:
    return sum(plan.budget(trial.round) for trial in tried)


def _as_json(plan: Halving, tried: Tried, best: float | None) -> str:
    rows = [
        {
            "round": trial.round + 1,
            "steps": plan.budget(trial.round),
            "learning_rate": trial.rate,
            "score": _finite(outcome.score),
            "loss": _finite(outcome.loss),
        }
        for trial, outcome in tried.items()
    ]
    values = {"around": plan.middle, "steps": _steps(plan, tried), "best": best, "tried": rows}
    return json.dumps(values, indent=1) + "\n"


def _finite(value: float) -> float | None:
    """A number that JSON has; None where training diverged."""
    return value if math.isfinite(value) else None


def _read(folder: RunFolder) -> dict[Trial, Outcome]:
    """What was tried before.

    Raises:
        ValueError: If the file is damaged.
    """
    path = folder.path / FILE
    if not path.is_file():
        return {}
    try:
        return {
            Trial(row["round"] - 1, row["learning_rate"]): Outcome(
                *(math.nan if row[key] is None else row[key] for key in ("score", "loss"))
            )
            for row in read_json(path)["tried"]
        }
    except (KeyError, TypeError):
        raise ValueError(
            f"{path} is damaged: expected what a search wrote; remove it to begin the search anew"
        ) from None
