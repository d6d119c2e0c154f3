"""A folder of the user's own: recipes, sets and grids that have names while it is included.

    DIR/recipes/*.yaml    as `recipe: NAME`
    DIR/tasks/*.yaml      as `task: NAME`
    DIR/grids/*.yaml      as `weft compare NAME`

A run folder needs none of it again: a recipe's description goes into `run.yaml` and the expert's card, a set's too.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from weft.methods.recipes import recipes
from weft.registry import Registry, unknown
from weft.tasks.sets import sets

REGISTERED: dict[str, Registry[object]] = {"recipes": recipes, "tasks": sets}
"""By sub-folder where its files are registered."""
GRIDS = "grids"

_grids: dict[str, Path] = {}


@contextmanager
def including(*folders: str | Path) -> Iterator[None]:
    """Inside the block the files of some folders have names.

    Raises:
        ValueError: If a folder is missing or has no sub-folder that could hold anything, or a name is taken.
    """
    before = dict(_grids)
    try:
        with ExitStack() as included:
            for folder in map(Path, folders):
                parts = _parts(folder)
                for name in parts & REGISTERED.keys():
                    included.enter_context(REGISTERED[name].including(folder / name))
                for path in sorted((folder / GRIDS).glob("*.yaml")):
                    if path.stem in _grids:
                        raise ValueError(
                            f"{path}: grid {path.stem!r} is {_grids[path.stem]} already; rename the file"
                        )
                    _grids[path.stem] = path
            yield
    finally:
        _grids.clear()
        _grids.update(before)


def grid_file(name: str | Path) -> Path:
    """The file of a grid: itself, or the one that a name stands for.

    Raises:
        ValueError: If there is neither.
    """
    path = Path(name)
    if str(name) in _grids and not path.is_file():
        return _grids[str(name)]
    if not path.suffix and not path.is_file():
        raise ValueError(f"{unknown('grid', str(name), _grids)}; or give a grid's YAML file")
    return path


def grid_files() -> dict[str, Path]:
    """The grids that have names now."""
    return dict(_grids)


def _parts(folder: Path) -> set[str]:
    known = {*REGISTERED, GRIDS}
    if not folder.is_dir():
        raise ValueError(f"--include {folder}: no such folder")
    found = {path.name for path in folder.iterdir() if path.is_dir()} & known
    if not found:
        raise ValueError(
            f"--include {folder}: it has none of the folders {', '.join(sorted(known))}; put your YAML files there"
        )
    return found
