"""Runs that differ in their seed alone, told as one: means over seeds, and how far seeds are apart."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from weft.analysis.figures import Line
from weft.analysis.intervals import Number
from weft.analysis.subjects import Found
from weft.runs import RunFolder
from weft.tasks.scoring import Score

_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""The 97.5 % points of Student's t with 1 to 9 degrees of freedom; more than 10 seeds take the last, a little wide."""
_JOINTS = (" and ", " on ")
"""What stands between the two names where a number is of two runs."""


class Seeds:
    """Which runs are one method with several seeds.

    Args:
        found: All runs of a report.
    """

    def __init__(self, found: Sequence[Found]) -> None:
        grouped: dict[str, list[Found]] = {}
        for one in found:
            grouped.setdefault(_settings(one), []).append(one)
        self.groups: dict[str, tuple[str, ...]] = {}
        """By what they are called together, the names of runs; those of one seed stand alone under their own."""
        alike: dict[tuple[str, str], list[Found]] = {}
        for own in grouped.values():
            if len(own) > 1:
                alike.setdefault((own[0].task, own[0].method), []).append(own[0])
        for own in grouped.values():
            name = own[0].name
            if len(own) > 1:
                apart = _apart(own[0], alike[own[0].task, own[0].method])
                name = f"{own[0].task} {own[0].method}{apart} ({len(own)} seeds)"
                if name in self.groups:
                    name = f"{name}, {len(self.groups)}"
            self.groups[name] = tuple(one.name for one in own)
        self._group = {name: group for group, names in self.groups.items() for name in names}
        for own in grouped.values():
            # What a question says of a whole mixture goes by the mixture's folder.
            mixtures = dict.fromkeys(mixture_name(one) for one in own if one.mixes)
            fresh = [name for name in mixtures if name not in self._group]
            together = f"{own[0].method} ({len(fresh)} seeds)"
            if together in self._group.values():
                together = f"{together}, {len(self._group)}"
            self._group |= {name: together if len(fresh) > 1 else name for name in fresh}

    @property
    def several(self) -> dict[str, tuple[str, ...]]:
        """Those groups that have more than one seed."""
        return {name: own for name, own in self.groups.items() if len(own) > 1}

    def together(self, one: str, other: str) -> bool:
        """Whether two runs differ in their seed alone."""
        return self._group.get(one, one) == self._group.get(other, other)

    def numbers(self, found: Sequence[Number]) -> tuple[Number, ...]:
        """One number for several seeds: their mean, the deviation, and the interval that Student's t gives seeds.

        Of two runs it has no interval: each run is in several pairs.
        """
        grouped: dict[tuple[str, str], list[Number]] = {}
        for number in found:
            grouped.setdefault((self._of(number.of), number.what), []).append(number)
        return tuple(
            _over(of, own, paired=of not in self._group.values())
            for (of, _), own in grouped.items()
        )

    def lines(self, drawn: Sequence[Line]) -> list[Line]:
        """One line for several seeds, with their deviation; what has another name, or is chance, stays as it is."""
        grouped: dict[str, list[Line]] = {}
        for at, line in enumerate(drawn):
            name = f"chance {at}" if line.chance else self._of(line.name)
            grouped.setdefault(name, []).append(line)
        return [own[0] if len(own) == 1 else _line(name, own) for name, own in grouped.items()]

    def _of(self, name: str) -> str:
        """What runs are called together, one or two of them."""
        if name in self._group:
            return self._group[name]
        for joint in _JOINTS:
            one, _, other = name.partition(joint)
            if one in self._group and other in self._group:
                mine, theirs = self._group[one], self._group[other]
                if mine == theirs:
                    return name if mine == one else f"{mine}, two of them"
                # A pair has no order where "and" joins it.
                sides = sorted((mine, theirs)) if joint == " and " else (mine, theirs)
                return joint.join(sides)
        return name


def mixture_name(found: Found) -> str:
    """What a mixture is called whose tasks are runs of their own: their folder."""
    if not found.folder.run.task or found.folder.mixture.parent == found.folder.path:
        return found.name
    return found.name.rpartition("/")[0] or found.folder.mixture.parent.name


def _over(of: str, own: Sequence[Number], *, paired: bool) -> Number:
    if len(own) == 1:
        return own[0] if own[0].of == of else replace(own[0], of=of)
    values = [number.score.value for number in own if math.isfinite(number.score.value)]
    known = [number.chance for number in own if number.chance is not None]
    chance = fmean(known) if known else None
    if len(values) < 2:
        return replace(own[0], of=of, chance=chance)
    mean, deviation = fmean(values), stdev(values)
    error = _T[min(len(values) - 2, len(_T) - 1)] * deviation / math.sqrt(len(values))
    low, high = (math.nan, math.nan) if paired else (mean - error, mean + error)
    return Number(of, own[0].what, Score(mean, low, high), chance, deviation)


def _line(name: str, own: Sequence[Line]) -> Line:
    by_place: dict[float, list[float]] = {}
    for line in own:
        for at, value in line.points:
            if math.isfinite(value):
                by_place.setdefault(at, []).append(value)
    points = tuple((at, fmean(values)) for at, values in sorted(by_place.items()))
    spread = tuple(
        stdev(values) if len(values) > 1 else 0.0 for _, values in sorted(by_place.items())
    )
    return Line(name, points, spread=spread)


def _apart(one: Found, alike: Sequence[Found]) -> str:
    """What of a run's recipe is not so in all runs of the same task and method: ", targets all-linear"."""
    recipes = [own.folder.run.recipe.model_dump(mode="json") for own in alike]
    mine = one.folder.run.recipe.model_dump(mode="json")
    other = [key for key, value in mine.items() if any(own.get(key) != value for own in recipes)]
    return "".join(f", {key} {_shown(mine[key])}" for key in other if mine[key] is not None)


def _shown(value: Any) -> str:
    return " + ".join(map(str, value)) if isinstance(value, list) else str(value)


def _settings(found: Found) -> str:
    """All that decides a run but its seed."""
    return repr(_without_seed(found.folder.run.model_dump(mode="json")))


def _without_seed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without the seed, and with runs that they name by those runs' settings."""
    found = {key: value for key, value in values.items() if key not in ("seed", "device")}
    if found.get("init_from"):
        found["init_from"] = _named(found["init_from"])
    for made in ("mixture", "merge"):
        if found.get(made) and found[made].get("runs"):
            own = {key: value for key, value in found[made].items() if key != "seed"}
            found[made] = {**own, "runs": [_named(run) for run in own["runs"]]}
    return found


def _named(run: Any) -> Any:
    """A run by its settings; where it no longer is, by its place."""
    folder = RunFolder(Path(str(run)).expanduser())
    if not (folder.path / "run.yaml").is_file():
        return run
    return _without_seed(folder.run.model_dump(mode="json"))
