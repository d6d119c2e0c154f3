"""The lowest versions that pyproject.toml allows, one a line, as constraints for pip.

    python tests/lowest.py NAME==VERSION ...

A package named with a version has that one instead: what no index here offers in its lowest.
"""

import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
WITHOUT = {"lint", "test", "docs", "quantised"}
"""Extras for work on weft, whose versions are those of whoever works on it; and what tests do without."""


def lowest(pyproject: str) -> dict[str, str]:
    """The lower bound of every package that weft or one of its extras asks for.

    Raises:
        ValueError: If one has no lower bound, or two different ones.
    """
    found: dict[str, str] = {}
    for one in _requirements(tomllib.loads(pyproject)["project"]):
        bounds = [part.version for part in one.specifier if part.operator == ">="]
        if len(bounds) != 1:
            raise ValueError(f"{one}: expected one bound `>=`, which the tests are run with")
        if found.setdefault(one.name, bounds[0]) != bounds[0]:
            raise ValueError(f"{one}: elsewhere its bound is {found[one.name]}; write one of them")
    return found


def _requirements(project: dict) -> Iterator[Requirement]:
    extras = project["optional-dependencies"]
    lists = [project["dependencies"], *(extras[name] for name in extras.keys() - WITHOUT)]
    yield from (Requirement(line) for lines in lists for line in lines)


if __name__ == "__main__":
    kept = {Requirement(line).name: line for line in sys.argv[1:]}
    for name, version in sorted(lowest(PYPROJECT.read_text(encoding="utf-8")).items()):
        print(kept.get(name, f"{name}=={version}"))
