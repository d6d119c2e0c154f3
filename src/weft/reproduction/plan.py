"""From a profile to what is run: two grids a base, and mixtures and merges of the experts they leave.

    study   full fine-tuning and LoRA at the settings of table 1; these fill the published cells
    own     every recipe at its own rate, searched on a held-out tenth of train; validation is met once

Differences from the study: a set it stopped early on validation does so here too in `study`, never in `own`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weft.comparison.comparing import Grid
from weft.comparison.grid import label_of
from weft.config import MixtureSettings, Run, TrainingSettings, validate
from weft.methods.merges import merges
from weft.reproduction.profiles import MergeRow, MixtureRow, Profile, SetEntry, profile
from weft.reproduction.published import Address, Study, published

STUDY, OWN = "study", "own"


@dataclass(frozen=True)
class Stage:
    """One grid of one base, for `weft.comparison.comparing.compare`."""

    name: str
    base: str
    grid: Grid
    folder: Path


@dataclass(frozen=True)
class MixtureRun:
    """A mixture that is trained once its experts are there."""

    name: str
    base: str
    seed: int
    row: MixtureRow
    folder: Path

    def run(self, experts: Sequence[Path], training: Mapping[str, Any], device: str) -> Run:
        """Its settings.

        Args:
            experts: The run folder of each task's expert, trained with the same seed.
            training: Training settings of every run.
            device: As in a run.
        """
        runs = [str(path) for path in experts]
        values = {
            "base": self.base,
            "mixture": {"name": self.name, **self.row.settings, "runs": runs},
            "training": {**training, **self.row.training},
            "seed": self.seed,
            "device": device,
        }
        return validate(Run, values, f"mixture {self.name}")


@dataclass(frozen=True)
class MergeRun:
    """A merge that is made once its experts are there."""

    name: str
    base: str
    seed: int
    row: MergeRow
    folder: Path


@dataclass(frozen=True)
class Plan:
    """Everything that a profile runs."""

    name: str
    profile: Profile
    study: Study
    seeds: tuple[int, ...]
    out: Path
    """Folder of the run folders."""
    stages: tuple[Stage, ...]
    mixtures: tuple[MixtureRun, ...]
    merges: tuple[MergeRun, ...] = ()

    def stage(self, name: str, base: str) -> Stage:
        """The grid called `name` of one base."""
        return next(own for own in self.stages if (own.name, own.base) == (name, base))

    def published_base(self, base: str) -> str:
        """The published base whose place one takes."""
        return self.profile.bases[base].stands_for or base

    def set_name(self, task: str) -> str:
        """What the rows of a published task are called, which may be another set."""
        entry = self.profile.tasks.get(task)
        return entry.called if entry and entry.called else self.study.tasks[task]


def make_plan(
    name: str,
    out: str | Path,
    *,
    data: str | Path | None = None,
    seeds: int | None = None,
    own: Profile | None = None,
) -> Plan:
    """What the profile `name` runs under `out`; nothing is read or written.

    Args:
        name: A file of `profiles/`.
        out: Folder of the run folders.
        data: Folder with one sub-folder for each task.
        seeds: How many seeds, counted from 0; None takes the profile's.
        own: A profile that takes the place of the file's.

    Raises:
        KeyError: If there is no such profile.
        ValueError: If it needs a folder of data, or takes none.
    """
    own = profile(name) if own is None else own
    study, out = published(), Path(out)
    folder = _data(name, own, out, data)
    chosen = tuple(range(own.seeds if seeds is None else seeds))
    if not chosen:
        raise ValueError(f"seeds must be at least 1, got {seeds}")
    stages = [
        Stage(kind, base, make(own, study, base, folder, chosen), out / label_of(base) / kind)
        for base in own.bases
        for kind, make in ((STUDY, study_grid), (OWN, own_grid))
    ]
    mixed = [
        MixtureRun(
            mixture, base, seed, row, out / label_of(base) / "mixtures" / f"{mixture}-seed{seed}"
        )
        for base in own.bases
        for mixture, row in own.mixtures.items()
        for seed in chosen
    ]
    for one in mixed:
        MixtureSettings.model_validate({"name": one.name, **one.row.settings})
        validate(TrainingSettings, {**own.training, **one.row.training}, f"mixture {one.name}")
    for method, row in own.merges.items():
        validate(merges.load(method).settings_type, row.settings, f"merge {method}")
    return Plan(
        name, own, study, chosen, out, tuple(stages), tuple(mixed), _merges(own, chosen, out)
    )


def _merges(own: Profile, seeds: Sequence[int], out: Path) -> tuple[MergeRun, ...]:
    return tuple(
        MergeRun(name, base, seed, row, out / label_of(base) / "merges" / f"{name}-seed{seed}")
        for base in own.bases
        for name, row in own.merges.items()
        for seed in seeds
    )


def _data(name: str, own: Profile, out: Path, data: str | Path | None) -> Path | None:
    if own.sets == "generated":
        if data is not None:
            raise ValueError(f"profile {name} makes its own sets; remove --data {data}")
        return out / "data"
    if data is None and own.sets == "folder":
        sets = ", ".join(sorted(own.tasks))
        raise ValueError(
            f"profile {name} reads its sets from a folder; give --data with {sets} in it"
        )
    return None if data is None else Path(data)


def _task(task: str, entry: SetEntry, folder: Path | None) -> dict[str, Any]:
    if entry.generated is not None and folder is not None:
        files = str(folder / entry.generated)
        return {"name": str(folder / f"demo_{entry.generated}.yaml"), "data": files, **entry.task}
    return {"name": task, "data": None if folder is None else str(folder / task), **entry.task}


def _printed(study: Study, task: str, metric: str) -> float:
    return float(study.figure(Address(1, None, None, task, metric)).value)


def _same(study: Study, metric: str) -> float:
    """What table 1 says of every task alike."""
    (value,) = {_printed(study, task, metric) for task in study.tasks}
    return value


def _times(study: Study, task: str) -> dict[str, Any]:
    """Table 1's epochs and batch."""
    return {
        "epochs": _printed(study, task, "epochs"),
        "batch_size": int(_printed(study, task, "batch_size")),
    }


def study_grid(
    own: Profile, study: Study, base: str, folder: Path | None, seeds: Sequence[int]
) -> Grid:
    """Full fine-tuning and LoRA at the settings of table 1."""
    tasks = {}
    for task, entry in own.tasks.items():
        patience = study.settings.early_stopping.get(task)
        stop: dict[str, Any] = {"early_stopping": patience, "select_on": "validation"}
        if patience is not None:
            stop["early_stopping_on"] = study.settings.early_stopping_on
        training = {**_times(study, task), **stop, **entry.study}
        tasks[task] = {"task": _task(task, entry, folder), "training": training}
    lora = {"name": "lora", "rank": int(_same(study, "rank")), "targets": study.settings.targets}
    rates = [_same(study, "learning_rate")]
    recipes = {"full": {"name": "full"}, "lora": lora}
    return _grid(
        own,
        base,
        seeds,
        tasks,
        {name: {"recipe": recipe, "learning_rates": rates} for name, recipe in recipes.items()},
    )


def own_grid(
    own: Profile, study: Study, base: str, folder: Path | None, seeds: Sequence[int]
) -> Grid:
    """Every recipe at a rate of its own."""
    tasks = {
        task: {
            "task": _task(task, entry, folder),
            "training": {**_times(study, task), **entry.own},
            "search": entry.search,
            "search_examples": entry.search_examples,
        }
        for task, entry in own.tasks.items()
    }
    recipes = {name: row.model_dump() for name, row in own.recipes.items()}
    return _grid(own, base, seeds, tasks, recipes)


def _grid(
    own: Profile, base: str, seeds: Sequence[int], tasks: Any, recipes: Mapping[str, Any]
) -> Grid:
    values = {
        "base": base,
        "tasks": tasks,
        "recipes": recipes,
        "seeds": list(seeds),
        "training": own.training,
        "device": own.device,
    }
    return validate(Grid, values, f"grid of {base}")
