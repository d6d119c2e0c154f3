"""A report as files: `report.html`, `report.md` and the figures it shows; and as JSON values."""

from pathlib import Path
from typing import Any

from weft.atomic import make_folder, write_text
from weft.reporting.contents import Report
from weft.reporting.drawing import Figure
from weft.reporting.figures import figures_of
from weft.reporting.gate_figures import gate_figures
from weft.reporting.markdown import FIGURES, markdown
from weft.reporting.page import page
from weft.reporting.runs import TaskRun

PAGE = "report.html"
TEXT = "report.md"


def write_report(report: Report, folder: str | Path) -> list[Path]:
    """Write the page, the Markdown and the figures into a folder; files of these names are replaced.

    Args:
        report: What `gather` returned.
        folder: Made where it does not exist.

    Returns:
        The page and the Markdown.

    Raises:
        ValueError: If matplotlib or jinja2 is not installed.
    """
    folder = Path(folder)
    figures = drawn(report)
    texts = {PAGE: page(report, figures), TEXT: markdown(report, figures)}
    for own in figures.values():
        texts |= {f"{FIGURES}/{figure.name}.svg": figure.file for figure in own}
    for name, text in texts.items():
        make_folder((folder / name).parent)
        write_text(folder / name, text)
    return [folder / PAGE, folder / TEXT]


def drawn(report: Report) -> dict[str, list[Figure]]:
    """Every figure, by the key of the section or mixture it belongs to."""
    found = {section.key: figures_of(section) for section in report.sections}
    return found | {mixture.key: gate_figures(mixture) for mixture in report.mixtures}


def as_json_value(report: Report) -> dict[str, Any]:
    """All numbers of the report, unrounded."""
    return {
        "sections": [
            {
                "task": section.task,
                "split": section.split,
                "metric": section.metric,
                "remarks": list(section.remarks),
                "methods": [
                    {
                        "name": entry.name,
                        "score": entry.score,
                        "interval": entry.interval,
                        "spread": entry.spread,
                        "runs": [_run(run) for run in entry.runs],
                    }
                    for entry in section.entries
                ],
            }
            for section in report.sections
        ],
        "mixtures": [
            {
                "run": mixture.run,
                "mixture": mixture.method,
                "beside": list(mixture.standings),
                "gates": [
                    {
                        "task": t.task,
                        "split": t.split,
                        "gates": dict(zip(t.columns, t.averages, strict=True)),
                    }
                    for t in mixture.gates
                ],
            }
            for mixture in report.mixtures
        ],
        "missing": report.missing,
    }


def _run(run: TaskRun) -> dict[str, Any]:
    cost = dict(run.cost) if run.cost else None
    return {
        "run": str(run.folder.path),
        "seed": run.seed,
        "metrics": [dict(row) for row in run.scores],
        "training": cost,
    }
