"""Which published cell is filled by what: runs, settings, or counts; and which by nothing, and why."""

from dataclasses import dataclass
from typing import Literal

from weft.comparison.grid import label_of
from weft.reproduction.figures import Address
from weft.reproduction.plan import Plan


@dataclass(frozen=True)
class Filling:
    """How one cell is filled."""

    how: Literal["runs", "settings", "count", "nothing"]
    base: str | None = None
    """The base of the runs."""
    differences: tuple[str, ...] = ()
    """In what base and set are not the published ones."""
    why: str = ""
    """how nothing: the reason."""


def fillings(plan: Plan) -> dict[Address, Filling]:
    """For every published cell, in order, how it is filled."""
    return {figure.address: _filling(plan, figure.address) for figure in plan.study.figures()}


def _filling(plan: Plan, address: Address) -> Filling:
    if address.table == 1:
        assert address.task is not None  # the table has a row a task
        return _of_task(plan, address.task, Filling("settings"))
    if address.task is None:
        return Filling("count", address.base)
    base = _base(plan, address.base)
    if base is None:
        return Filling("nothing", why=_missing(plan, address.base))
    own = plan.profile.bases[base].difference
    return _of_task(plan, address.task, Filling("runs", base, (own,) if own else ()))


def _base(plan: Plan, published: str | None) -> str | None:
    """The base that is trained in a published one's place."""
    return next((b for b in plan.profile.bases if plan.published_base(b) == published), None)


def _missing(plan: Plan, base: str | None) -> str:
    name = plan.study.bases.get(str(base), base)
    have = ", ".join(map(label_of, plan.profile.bases))
    return (
        f"profile {plan.name} does not train {name}, only {have}; profile paper does, from the hub"
    )


def _of_task(plan: Plan, task: str, found: Filling) -> Filling:
    entry = plan.profile.tasks.get(task)
    if entry is None:
        name = plan.study.tasks[task]
        return Filling("nothing", why=f"profile {plan.name} has nothing in the place of {name}")
    more = (entry.difference,) if entry.difference else ()
    return Filling(found.how, found.base, found.differences + more)
