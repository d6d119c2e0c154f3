"""The second half of a personal run: an expert for each user, one after another, beside the finished population's.

    population/expert ─ a user's rows ─> checkpoints/personal/<user>  ... ─> personal/ ─> scores

Each user is trained from the population as it lies on disk, from a seed of the user's own: neither who else there is,
nor the order, nor an interruption changes a bit of it. What is trained is on disk at once, so that a run that is
stopped goes on with the user that it was at.
"""

import hashlib
import json
import shutil
import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from safetensors import safe_open
from torch import Tensor

from weft.answering.evaluation import (
    Evaluation,
    evaluated,
    predictions,
    read_predictions,
    save_evaluation,
)
from weft.answering.inference import padding_id
from weft.answering.personal.rows import predictions_by_user
from weft.atomic import make_folder, write_tensors
from weft.config import RecipeSettings, Run, TrainingSettings
from weft.data.memory import given_by_task
from weft.data.rows import Rows, encode, load
from weft.data.users import by_user
from weft.methods.recipes import Recipe, resolve
from weft.model.expert import Expert
from weft.model.head import Head
from weft.runs import RunFolder
from weft.scoped import tell
from weft.storage.loading import LoadedRun, load_run_model
from weft.storage.personal.experts import (
    called,
    layout_of,
    members_of,
    new_expert,
    own_copy,
    read_expert,
    stored,
)
from weft.storage.personal.users import FOLDER, TENSORS, Index, Trained, Users, joined, write_users
from weft.tasks.contract import Record, Task
from weft.tasks.users import OVER_USERS, POPULATION, over_users
from weft.tasks.weights import class_weights
from weft.training.assembly import Session
from weft.training.callbacks import Event
from weft.training.learning import Learner, Stream
from weft.training.preparation.starting import prepare_model
from weft.training.stepping import Stepper
from weft.training.stopping import Diverged, Interrupted, interrupts

_ROW = "row"
_SAID = "weft"
TIMED = 100
"""Users whose loading is timed, to say how long one takes."""


@dataclass(frozen=True)
class _Ground:
    """What every user of a run is trained on.

    Attributes:
        loaded: The population's expert on its base.
        run: The run, its training as of a user.
        task: Of all of them.
        recipe: As a user's adapters are trained.
        class_weights: What each class counts, by the rows of everybody.
    """

    loaded: LoadedRun
    run: Run
    task: Task
    recipe: Recipe
    class_weights: tuple[float, ...] | None

    @property
    def population(self) -> Expert:
        return self.loaded.model.expert(self.loaded.name)

    @property
    def shared(self) -> bool:
        """Whether the population's adapters speak with a user's."""
        return self.run.experts == "shared+personal"


def train_users(
    folder: RunFolder,
    accelerator: Accelerator,
    *,
    data: Mapping[str, Any] | None = None,
    report: Any = None,
) -> None:
    """Train everybody who has no expert yet, write them as one file, score each row by its user's expert.

    Args:
        folder: A run whose population is trained.
        accelerator: Of one process.
        data: Rows in memory; None reads files.
        report: Called after each user with an `Event`, whose steps are users.

    Raises:
        ValueError: If a user's rows cannot be trained on.
        Interrupted: On SIGINT or SIGTERM; users who are done are on disk.
    """
    run = folder.run
    assert run.task is not None  # settings refuse a personal run of several
    given = given_by_task(data, [run.task.label])
    read = load(run, run.task, given.get(run.task.label))
    if read.settings.in_memory != run.task.in_memory:
        raise ValueError(
            f"task {run.task.label}: the rows given now are not those that the run began with; give the same"
        )
    loaded = load_run_model(
        folder.path, device=accelerator.device.type if run.device == "auto" else run.device
    )
    rows = encode(run.model_copy(update={"training": _of_user(run)}), read, loaded.model.base)
    examples = read.splits["train"]
    ground = _ground(run, loaded, rows.loaded.task, rows.train)
    owned = by_user(examples)
    wanted = {user: own for user, own in owned.items() if len(own) >= run.personal.least_rows}
    if not wanted:
        most = max(len(own) for own in owned.values())
        raise ValueError(
            f"personal.least_rows {run.personal.least_rows}: the {len(owned):,} users have {most} rows at most, so "
            "nobody would get an expert; lower it"
        )
    drafts = folder.checkpoints / FOLDER
    make_folder(drafts)
    if not (folder.path / FOLDER).is_dir():
        _train_all(
            ground,
            {user: [rows.train[at] for at in own] for user, own in wanted.items()},
            drafts,
            folder,
            report,
        )
        _gather(ground, list(wanted), drafts, folder.path)
    users = Users(folder.path)
    found = predictions_by_user(loaded, users, rows.loaded.task, *rows.final)
    split = run.training.evaluate_on
    result: Evaluation = evaluated(rows.loaded.task, split, found, rows.final[0], seed=run.seed)
    _keep_population(folder, ground, rows, split)
    save_evaluation(folder, result, run.seed)
    folder.write_training({**(folder.training or {}), "users": _summary(folder, users, ground)})
    shutil.rmtree(folder.checkpoints, ignore_errors=True)


def _keep_population(folder: RunFolder, ground: _Ground, rows: Rows, split: str) -> None:
    """What the population scores alone, under names of its own: what stands for the run is what users get."""
    task, (examples, records) = rows.loaded.task, rows.final
    if not folder.metrics:
        loaded = ground.loaded
        found = predictions(
            loaded.model.snapshot,
            task,
            examples,
            records,
            head=loaded.name,
            kind=loaded.card.head,
            members=loaded.members,
            pad_id=padding_id(loaded.model.base),
            device=loaded.device,
            precision=loaded.precision,
        )
        save_evaluation(
            folder, evaluated(task, split, found, examples, seed=ground.run.seed), ground.run.seed
        )
    kept = [row for row in folder.metrics if row["split"] == split]
    kept = [row for row in kept if not row["name"].startswith(OVER_USERS)]
    if any(row["name"].startswith(POPULATION) for row in kept):
        return  # a run that was killed between its last two files
    said = read_predictions(folder.path, split)
    own = over_users(task, [said[row["id"]] for row in examples], examples, seed=ground.run.seed)
    common = {"n": len(examples), "seed": ground.run.seed, "split": split}
    kept += [{"name": name, **asdict(value), **common} for name, value in own.items()]
    folder.write_metrics([{**row, "name": f"{POPULATION}{row['name']}"} for row in kept])


def _of_user(run: Run) -> TrainingSettings:
    """The training of a run as that of one user: nothing is stopped, searched or shared out."""
    own = run.personal
    return run.training.model_copy(
        update={
            "epochs": own.epochs,
            "max_steps": own.max_steps,
            "batch_size": own.batch_size,
            "learning_rate": own.learning_rate,
            "head_learning_rate": None,
            "early_stopping": None,
            "eval_every": None,
            "sampling": None,
        }
    )


def _ground(run: Run, loaded: LoadedRun, task: Task, records: list[Record]) -> _Ground:
    settings = RecipeSettings(
        name="lora",
        targets=list(loaded.card.targets),
        **{"rank": run.personal.rank, "alpha": run.personal.alpha, "dropout": 0.0},
    )
    run = run.model_copy(update={"training": _of_user(run)})
    prepare_model(loaded.model, run)
    loaded.model.train()
    assert run.task is not None
    wanted = run.task.class_weights
    weights = None if wanted is None else class_weights(task, wanted, records)
    return _Ground(loaded, run, task, resolve(settings), weights)


def _train_all(
    ground: _Ground,
    rows: Mapping[str, list[Record]],
    drafts: Path,
    folder: RunFolder,
    report: Any,
) -> None:
    done = sum(_draft(drafts, user).is_file() for user in rows)
    began, before = time.perf_counter(), done
    with torch.random.fork_rng(), interrupts() as asked:
        for user, records in rows.items():
            if _draft(drafts, user).is_file():
                continue
            tell("training experts of users", done, len(rows))
            row, trained = train_user(ground, user, records)
            said = json.dumps({"user": user, **asdict(trained)})
            write_tensors(_draft(drafts, user), {_ROW: row}, {_SAID: said})
            done += 1
            seconds = time.perf_counter() - began
            if report is not None:
                report(_event(done, len(rows), trained, seconds / (done - before), folder))
            if asked and done < len(rows):
                raise Interrupted(
                    f"stopped after user {done} of {len(rows)}; go on with --resume {folder.path}"
                )


def _event(done: int, total: int, trained: Trained, pace: float, folder: RunFolder) -> Event:
    return Event(
        step=done,
        total=total,
        epoch=0.0,
        loss={"users": trained.loss},
        score={},
        tokens_per_second=0.0,
        seconds_left=pace * (total - done),
        folder=folder.path,
    )


def train_user(ground: _Ground, user: str, records: list[Record]) -> tuple[Tensor, Trained]:
    """A user's expert as a row of numbers; nothing but the user, the population and the rows decides it.

    Raises:
        Diverged: If its numbers are none any more.
    """
    run, model = ground.run, ground.loaded.model
    seed = int(np.random.SeedSequence([run.seed, *user.encode()]).generate_state(1)[0])
    torch.manual_seed(seed)
    began = time.perf_counter()
    expert = new_expert(
        user,
        ground.population,
        model.base,
        run.personal,
        head=_head(ground),
        generator=torch.Generator().manual_seed(seed),
    ).to(ground.loaded.device)
    model.add(expert, trainable=True)
    try:
        stream = Stream(
            name=expert.name,
            task=ground.task,
            kind=ground.loaded.card.head,
            head=expert.name,
            members=members_of(ground.loaded.name, user, shared=ground.shared),
            records=records,
            held=None,
            training=run.training,
            seed=run.seed,
            class_weights=ground.class_weights,
        )
        learner = Learner([stream], [(expert, ground.recipe.again())], run.training)
        session = Session(
            run, model.base, model, [stream], [learner], ground.loaded.device, {}, ground.recipe
        )
        stepper = Stepper(session, Accelerator(cpu=ground.loaded.device.type == "cpu"))
        losses = [
            float(stepper.step([learner], step)[expert.name]) for step in range(learner.total)
        ]
        own_head = run.personal.head == "own"
        tensors = stored(expert, own_head=own_head)
        row = joined(tensors, layout_of(expert, own_head=own_head))
    finally:
        model.remove(expert.name)
    if not torch.isfinite(row).all():
        raise Diverged(
            f"the training of user {user} has diverged; train anew with a lower personal.learning_rate than "
            f"{run.personal.learning_rate:g}, or look for rows of that user that break the loss"
        )
    loss = statistics.fmean(losses[-stream.steps_per_epoch :])
    return row, Trained(len(records), learner.total, time.perf_counter() - began, loss)


def _head(ground: _Ground) -> Head | None:
    """What a user's answers come from: the population's head, a copy that learns on, or one from the start."""
    theirs = ground.population.head
    if theirs is None or ground.run.personal.head == "shared":
        return theirs
    own = own_copy(theirs)
    if not ground.shared:
        start = Head(
            theirs.kind_name, ground.loaded.model.base, ground.task.num_labels, ground.run.seed
        )
        own.load_state(start.state())
    trained = set(own.trained_names())
    for name, value in own.module.named_parameters():
        value.requires_grad_(name in trained)
    return own


def _draft(folder: Path, user: str) -> Path:
    """Where a user lies until all are done: a name says nothing that a file system could misread."""
    return folder / f"{hashlib.sha256(user.encode()).hexdigest()[:32]}.safetensors"


def _gather(ground: _Ground, users: list[str], drafts: Path, run: Path) -> None:
    rows: dict[str, Tensor] = {}
    trained: dict[str, Trained] = {}
    for user in users:
        with safe_open(_draft(drafts, user), framework="pt") as file:
            said = json.loads(file.metadata()[_SAID])
            rows[user] = file.get_tensor(_ROW)
        said.pop("user")
        trained[user] = Trained(**said)
    settings = ground.run.personal
    sample = new_expert(
        "",
        ground.population,
        ground.loaded.model.base,
        settings,
        head=_head(ground),
        generator=torch.Generator(),
    )
    own_head = settings.head == "own"
    index = Index(
        rank=settings.rank,
        alpha=settings.alpha,
        head=settings.head,
        shared=ground.shared,
        layout=layout_of(sample, own_head=own_head),
        users=trained,
    )
    write_users(run, index, rows)


def _summary(folder: RunFolder, users: Users, ground: _Ground) -> dict[str, Any]:
    """What users cost: numbers and bytes of each, seconds to train one, milliseconds to bring one into the model."""
    own = list(users.index.users.values())
    model, times = ground.loaded.model, []
    for user in users.names[:TIMED]:
        began = time.perf_counter()
        model.add(read_expert(users, user, ground.population).to(ground.loaded.device))
        times.append(1000 * (time.perf_counter() - began))
        model.remove(called(ground.loaded.name, user))
    size = (folder.path / FOLDER / TENSORS).stat().st_size
    return {
        "count": len(users),
        "rows": sum(one.rows for one in own),
        "numbers_per_user": users.index.numbers,
        "bytes_per_user": size / len(users),
        "seconds_per_user": statistics.fmean(one.seconds for one in own),
        "load_ms": statistics.median(times),
    }
