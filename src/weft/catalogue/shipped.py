"""Files that come with weft to be changed: configs of runs, and examples. A wheel carries them; a checkout has them."""

import shutil
from importlib import resources
from pathlib import Path

from weft.atomic import atomic_folder, make_folder

PARTS = ("configs", "examples")


def shipped() -> Path:
    """The folder that holds `PARTS`: in an installed package, or the checkout that is worked on.

    Raises:
        ValueError: If this installation has neither.
    """
    package = Path(str(resources.files("weft")))
    for folder in (package / "shipped", package.parents[1]):
        if all((folder / part).is_dir() for part in PARTS):
            return folder
    raise ValueError(
        f"{package} was installed without configs and examples; install the wheel anew"
    )


def lay_out(folder: Path) -> list[Path]:
    """Copy `PARTS` into a folder, where they are whole or not at all.

    Args:
        folder: Made if it is not there.

    Returns:
        The folders that were made.

    Raises:
        ValueError: If one of them stands there already.
    """
    places = [folder / part for part in PARTS]
    for place in places:
        if place.exists():
            raise ValueError(f"{place} is there already; give another folder, or move it away")
    source = shipped()
    make_folder(folder)
    for place in places:
        with atomic_folder(place) as draft:
            shutil.copytree(
                source / place.name,
                draft,
                dirs_exist_ok=True,
                ignore=shutil.ignore_patterns("__pycache__", ".*"),
            )
    return places
