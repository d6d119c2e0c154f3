"""The verb: put the study's tables beside ours, by running what is missing."""

from pathlib import Path

from weft.comparison.comparing import Runner
from weft.comparison.grid import label_of
from weft.reporting.writers import write
from weft.reproduction.costs import PRICE
from weft.reproduction.needs import ready
from weft.reproduction.plan import Plan, make_plan
from weft.reproduction.profiles import Profile, profile
from weft.reproduction.report import VALUES, Reproduction, document, gather
from weft.reproduction.running import run


def reproduce(
    name: str,
    out: str | Path | None = None,
    *,
    data: str | Path | None = None,
    bases: str | Path | None = None,
    seeds: int | None = None,
    price: float = PRICE,
    own: Profile | None = None,
    runner: Runner | None = None,
) -> Reproduction:
    """Run what is missing of a profile and write `report.html`, `report.md` and `reproduction.json` beside the runs.

    Finished runs are not repeated, so the same call goes on where it stopped and ends in the same tables.

    Args:
        name: A file of `profiles/` (paper, small, demo), or the path of a YAML file of that form.
        out: Folder of everything; None is `runs/reproduce-<name>`.
        data: Folder with a sub-folder for each set, in place of the hub.
        bases: Folder with a sub-folder for each base, in place of the hub.
        seeds: How many, counted from 0; None takes the profile's.
        price: USD for an hour of the machine.
        own: A profile that takes the place of the file's.
        runner: Runs several at once and goes on where one fails, as in `weft.compare`; None runs one after the other in
            this process and raises what a run raises.

    Returns:
        All numbers; `outcome.failed` names the runs that failed.

    Raises:
        KeyError: If there is no such profile.
        ValueError: If something that it needs is missing (says what to bring and where to put it), or the folder holds
            runs of other settings.
        Interrupted: On SIGINT or SIGTERM, after the state of the runs in progress was saved.
    """
    plan = plan_for(name, out, data=data, bases=bases, seeds=seeds, own=own)
    plan, _ = ready(plan)
    found = gather(run(plan, runner), price)
    write(document(found), plan.out, values=VALUES)
    return found


def plan_for(
    name: str,
    out: str | Path | None = None,
    *,
    data: str | Path | None = None,
    bases: str | Path | None = None,
    seeds: int | None = None,
    own: Profile | None = None,
) -> Plan:
    """What `reproduce` runs; nothing is read or written but the profile."""
    own = with_bases(profile(name) if own is None else own, bases)
    called = Path(name).stem if name.endswith((".yaml", ".yml")) else name
    folder = Path(out) if out is not None else Path("runs") / f"reproduce-{called}"
    return make_plan(called, folder, data=data, seeds=seeds, own=own)


def with_bases(own: Profile, folder: str | Path | None) -> Profile:
    """A profile whose bases are read from the sub-folders of one folder; a base that has none there stays as it is.

    Raises:
        ValueError: If there is no such folder.
    """
    if folder is None:
        return own
    if not Path(folder).is_dir():
        raise ValueError(f"{folder}: no such folder; --bases holds a sub-folder for each base")
    bases = {}
    for name, entry in own.bases.items():
        path = Path(folder) / label_of(name)
        here = entry.model_copy(update={"stands_for": entry.stands_for or name})
        bases |= {str(path): here} if path.is_dir() else {name: entry}
    return own.model_copy(update={"bases": bases})
