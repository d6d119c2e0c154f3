"""The report's sections as words and tables; page, Markdown and terminal show the same ones."""

from weft.reporting.document import NONE, Table
from weft.reproduction.claim_tables import claims
from weft.reproduction.claims import verdicts
from weft.reproduction.cost_tables import cost
from weft.reproduction.gap_tables import gap, mixtures
from weft.reproduction.layout import Block, Section
from weft.reproduction.result import Reproduction
from weft.reproduction.tables import ShownTable, six_tables

RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def title(found: Reproduction) -> str:
    """What the report is called."""
    plan = found.outcome.plan
    return f"The study's six tables, reproduced with profile {plan.name}"


def sections(found: Reproduction) -> list[Section]:
    """All of them, in order."""
    return [summary(found), tables(found), claims(found), gap(found), mixtures(found), cost(found)]


def summary(found: Reproduction) -> Section:
    """What was measured where, what stands in for what, what is not there, and what came out."""
    plan = found.outcome.plan
    said = [f"{plan.profile.summary} Seeds {', '.join(map(str, plan.seeds))}."]
    said += [
        f"{place['runs']} runs on {place['device']} ({place['machine']}, {place['threads']} threads), "
        f"torch {place['torch']}."
        for place in found.machines
    ]
    notes = [f"Stand-in: {difference}." for difference in _differences(found)]
    notes += [f"Not measured: {why}." for why in _unmeasured(found)]
    notes += [f"Failed: {failure.run}: {failure.error}" for failure in found.outcome.failed]
    return Section("summary", "In short", (*said, *_came_out(found)), notes=tuple(notes))


def tables(found: Reproduction) -> Section:
    """The six tables."""
    study = found.outcome.plan.study
    said = (
        f"{study.title} ({' and '.join(study.authors)}): every cell as published / as measured. "
        "± is the standard deviation over seeds; raised numbers are those of the notes below a table.",
    )
    return Section(
        "tables", "The six tables", said, tuple(_block(t) for t in six_tables(study, found.cells))
    )


def _block(table: ShownTable) -> Block:
    rows = []
    for row in table.rows:
        cells = [
            f"{cell.published} / {cell.measured or NONE}{_raised(cell.notes)}" for cell in row.cells
        ]
        rows.append((row.name + _raised(row.notes), *cells))
    caption = f"Table {table.number}. {table.caption}. Published / measured."
    first = "set" if table.number == 1 else "base (method)"
    shown = Table(caption, (first, *table.headers), tuple(rows))
    return Block(shown, tuple(f"{note}." for note in table.notes), table.remarks)


def _raised(notes: tuple[int, ...]) -> str:
    marks = " ".join(str(note).translate(RAISED) for note in notes)
    return f" {marks}" if marks else ""


def _came_out(found: Reproduction) -> list[str]:
    plan = found.outcome.plan
    lines = verdicts(plan, found.kept, found.faster)
    lines += [f"{plan.set_name(own.task)} on {own.base}: {own.says}." for own in found.goals]
    return lines


def _differences(found: Reproduction) -> list[str]:
    profile = found.outcome.plan.profile
    entries = [*profile.bases.values(), *profile.tasks.values()]
    return [entry.difference for entry in entries if entry.difference]


def _unmeasured(found: Reproduction) -> list[str]:
    """Why cells have no number, each reason once."""
    return list(dict.fromkeys(cell.filling.why for cell in found.cells if cell.filling.why))
