"""Whether a folder holds runs of the same settings, so that going on with them is right.

More or fewer seeds and recipes leave the runs that are there as they are.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from weft.comparison.grid import Grid
from weft.config import read_yaml, validate
from weft.reproduction.plan import Plan, Stage
from weft.training.tracking import flat


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
