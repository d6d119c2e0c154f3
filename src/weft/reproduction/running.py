"""A plan brought to its end: two comparisons a base, then the mixtures and merges of the experts they leave.

More or fewer seeds and recipes leave the runs that are there as they are; other settings are refused.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from weft.comparison.comparing import Row, Runner, Unfinished, compare
from weft.comparison.grid import Grid
from weft.comparison.jobs import Job, run_job
from weft.config import read_yaml, validate
from weft.merging.merge import merge
from weft.merging.record import read_record
from weft.reproduction.plan import MergeRun, MixtureRun, Plan, Stage
from weft.reproduction.work import experts_of, mixture_job
from weft.runs import RunFolder
from weft.scoped import tell
from weft.training.tracking import flat

One = TypeVar("One", MixtureRun, MergeRun)

NOT_FINISHED = "not finished"
UNFINISHED_EXPERTS = "its experts are not finished"


@dataclass(frozen=True)
class Failure:
    """A run that did not come to its end; the same call tries it again."""

    run: str
    """Its folder below that of the plan."""
    error: str


@dataclass(frozen=True)
class Outcome:
    """What has come of a plan."""

    plan: Plan
    rows: dict[tuple[str, str], list[Row]]
    """Complete cells by stage and base."""
    mixtures: tuple[MixtureRun, ...]
    """Complete ones."""
    failed: tuple[Failure, ...]
    merges: tuple[MergeRun, ...] = ()
    """Complete ones."""

    @property
    def merge_seeds(self) -> dict[tuple[str, str], list[MergeRun]]:
        """The complete merges by base and name."""
        return _by_name(self.merges)

    @property
    def mixture_seeds(self) -> dict[tuple[str, str], list[MixtureRun]]:
        """The complete mixtures by base and name."""
        return _by_name(self.mixtures)


def _by_name(runs: Sequence[One]) -> dict[tuple[str, str], list[One]]:
    found: dict[tuple[str, str], list[One]] = {}
    for one in runs:
        found.setdefault((one.base, one.name), []).append(one)
    return found


def run(plan: Plan, runner: Runner | None = None) -> Outcome:
    """Run what is missing of a plan.

    Args:
        plan: What to run; its sets and bases are there (`weft.reproduction.needs.ready`).
        runner: As in `weft.comparison.comparing.compare`; without one, what a run raises is raised.

    Raises:
        ValueError: If the plan's folder holds runs of other settings.
        Interrupted: On SIGINT or SIGTERM, after the state of the runs in progress was saved.
    """
    refuse_other(plan)
    rows, failed = {}, []
    for stage in plan.stages:
        try:
            # Only seeds and recipes may differ from what is there, which `refuse_other` has seen to.
            found = compare(stage.grid, stage.folder, extend=True, runner=runner)
        except Unfinished as stopped:
            found = stopped.rows
            failed += [_failure(plan, job) for job in stopped.failed]
        rows[stage.name, stage.base] = found
    able, unable = _mixtures(plan)
    (runner or _Here()).run([job for _, job in able])
    failed += unable + [_failure(plan, job) for _, job in able if not job.is_complete]
    done = tuple(mixture for mixture, job in able if job.is_complete)
    merged, unmerged = _merges(plan)
    return Outcome(plan, rows, done, tuple(failed + unmerged), merged)


def _merges(plan: Plan) -> tuple[tuple[MergeRun, ...], list[Failure]]:
    """Make the merges that are not there: in this process, since one takes seconds."""
    done, failed = [], []
    for own in plan.merges:
        where = own.folder.relative_to(plan.out).as_posix()
        experts = _finished(plan, own)
        if experts is None:
            failed.append(Failure(where, UNFINISHED_EXPERTS))
            continue
        record = read_record(own.folder) if own.folder.is_dir() else None
        if record is None:
            tell(f"merging {where}")
            try:
                merge(
                    [job.folder for job in experts],
                    own.name,
                    weights=own.row.weights,
                    rank=own.row.rank,
                    settings=own.row.settings,
                    out=own.folder,
                    seed=own.seed,
                    device=plan.profile.device,
                )
            except ValueError as error:
                failed.append(Failure(where, without_places(str(error))))
                continue
        elif not _are([made.run for made in record.experts], experts):
            failed.append(Failure(where, "it merges other experts than these; remove that folder"))
            continue
        done.append(own)
    return tuple(done), failed


def _mixtures(plan: Plan) -> tuple[list[tuple[MixtureRun, Job]], list[Failure]]:
    """Mixtures that can be trained, or are; and why the others cannot."""
    able, unable = [], []
    for mixture in plan.mixtures:
        experts, job = _finished(plan, mixture), mixture_job(plan, mixture)
        where = mixture.folder.relative_to(plan.out).as_posix()
        if experts is None or job is None:
            unable.append(Failure(where, UNFINISHED_EXPERTS))
        elif job.is_complete and not _are(_mixed(job.folder), experts):
            unable.append(Failure(where, "it mixes other experts than these; remove that folder"))
        else:
            able.append((mixture, job))
    return able, unable


def _finished(plan: Plan, one: MixtureRun | MergeRun) -> list[Job] | None:
    """The runs whose experts are combined; None where one is not finished."""
    experts = experts_of(plan, one)
    return experts if experts and all(job.is_complete for job in experts) else None


def _mixed(folder: Path) -> list[str]:
    """The runs that a mixture was made of."""
    settings = RunFolder.open(folder).run.mixture
    return list(settings.runs) if settings else []


def _are(runs: Sequence[str], experts: Sequence[Job]) -> bool:
    """Whether runs are of the same task, recipe, rate and seed as some experts, wherever they lay."""
    return [Path(run).parts[-3:] for run in runs] == [job.folder.parts[-3:] for job in experts]


def _failure(plan: Plan, job: Job) -> Failure:
    where = job.folder.relative_to(plan.out).as_posix()
    return Failure(where, without_places(job.failure or NOT_FINISHED))


def without_places(text: str) -> str:
    """Text without the folders that files lie in, which say more of a machine than of a failure."""
    return re.sub(r"(?<![\w.:/])/(?:[^\s/'\":]+/)+", ".../", text)


class _Here:
    """One after the other, in this process."""

    def run(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            if not job.is_complete:
                run_job(job)


def refuse_other(plan: Plan) -> None:
    """Refuse a plan whose folder holds runs of other settings.

    Raises:
        ValueError: If it does; names the first setting.
    """
    for stage in plan.stages:
        path = stage.folder / "grid.yaml"
        if path.is_file():
            _refuse(plan, stage, path)


def _refuse(plan: Plan, stage: Stage, path: Path) -> None:
    there = validate(Grid, read_yaml(path), str(path))
    both = there.recipes.keys() & stage.grid.recipes.keys()
    before, now = (_settings(grid, plan.profile.sets, both) for grid in (there, stage.grid))
    for key in {**before, **now}:
        if before.get(key) != now.get(key):
            raise ValueError(
                f"{stage.folder} holds runs of other settings: {key} is {before.get(key)!r} there and {now.get(key)!r} "
                "here; choose another --out, or give what was given then"
            )


def _settings(grid: Grid, sets: str, recipes: Collection[str]) -> dict[str, Any]:
    """All but the seeds, with these recipes alone; files and folders wherever they are called from."""
    values = grid.model_dump(mode="json", exclude={"seeds"})
    values["recipes"] = {name: values["recipes"][name] for name in sorted(recipes)}
    for entry in values["tasks"].values():
        for key in ("name", "data"):
            said = entry["task"][key]
            if said is not None and (key == "data" or said.endswith((".yaml", ".yml"))):
                # Generated sets are the same wherever they lie.
                path = Path(said)
                entry["task"][key] = (
                    path.name if sets == "generated" else str(path.expanduser().resolve())
                )
    if Path(values["base"]).is_dir():
        values["base"] = str(Path(values["base"]).resolve())
    return flat(values)
