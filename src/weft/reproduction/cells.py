"""The six tables as published and as measured, cell by cell; a cell without a number says why."""

from collections.abc import Mapping
from dataclasses import dataclass

from weft.comparison.grid import label_of
from weft.reproduction.counts import count, mixture_count
from weft.reproduction.figures import Address, Figure
from weft.reproduction.filling import Filling, fillings
from weft.reproduction.measuring import measured
from weft.reproduction.plan import STUDY, Plan


@dataclass(frozen=True)
class Cell:
    """A published figure and ours, in the figure's unit."""

    figure: Figure
    filling: Filling
    measured: float | None
    deviation: float = 0.0
    """Standard deviation over seeds; 0 for one seed and for what is not random."""
    seeds: int = 0
    """Finished runs behind the number."""
    remarks: tuple[str, ...] = ()
    """Stand-ins, explanations, and why there is no number."""


def cells(plan: Plan) -> list[Cell]:
    """Every published cell with what the finished runs under the plan's folder say."""
    found = fillings(plan)
    return [_cell(plan, figure, found) for figure in plan.study.figures()]


def _cell(plan: Plan, figure: Figure, found: Mapping[Address, Filling]) -> Cell:
    own, address = found[figure.address], figure.address
    if own.how == "nothing":
        return Cell(figure, own, None, remarks=(f"not measured: {own.why}",))
    if own.how == "settings":
        return Cell(figure, own, _setting(plan, address), remarks=own.differences)
    if own.how == "count":
        number = count(address) / 1e6
        return Cell(figure, own, number, remarks=_counted(plan, address))
    assert own.base is not None
    ours = measured(plan, own.base, address)
    if ours is None:
        why = f"not measured: no finished run in {label_of(own.base)}/{STUDY}/final yet"
        return Cell(figure, own, None, remarks=(*own.differences, why))
    remarks = own.differences
    if ours.seeds < len(plan.seeds):
        remarks += (f"{ours.seeds} of {len(plan.seeds)} seeds are finished",)
    if figure.machine is not None and address.metric != "epochs":
        remarks += (f"published on {figure.machine}, measured on {ours.device}",)
    return Cell(figure, own, ours.value, ours.deviation, ours.seeds, remarks)


def _setting(plan: Plan, address: Address) -> float:
    """What the runs at the study's settings have where table 1 has a figure."""
    grid = plan.stage(STUDY, next(iter(plan.profile.bases))).grid
    assert address.task is not None
    if address.metric == "rank":
        return float((grid.recipes["lora"].recipe.model_extra or {})["rank"])
    if address.metric == "learning_rate":
        return grid.recipes["lora"].learning_rates[0]
    return float(grid.tasks[address.task].training[address.metric])


def _counted(plan: Plan, address: Address) -> tuple[str, ...]:
    base = plan.study.bases[str(address.base)]
    exact = f"{base}: {count(address):,}"
    if address.method != "xlora":
        where = f"{exact} counted in its architecture, without pooler and head"
        return (where,)
    assert address.base is not None
    whole, trained = mixture_count(address.base).printed
    twice = whole if address.metric == "parameters" else trained
    said = f"{exact} counted; {twice:,} with the head twice"
    return (said, plan.study.reconstruction.says)
