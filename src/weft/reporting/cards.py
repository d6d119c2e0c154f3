"""Model cards: `README.md` in an expert's folder, ready for the hub."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from weft.atomic import write_text
from weft.base.locate import ALIASES, Alias
from weft.config import validate
from weft.model.expert import Card
from weft.reporting.card_front import front_matter, title_of
from weft.reporting.card_loading import library_of, loading_lines
from weft.reporting.document import unit
from weft.reporting.run_report import Report
from weft.reporting.runs import TaskRun
from weft.reporting.tables import interval
from weft.reporting.writers import escaped, table_lines
from weft.storage.loading import task_of
from weft.tasks.contract import TaskSpec

NAME = "README.md"
MARK = "<!-- Written by `weft report --cards`, which replaces it; delete this line to keep your own text. -->"


def write_cards(report: Report, *, licence: str | None = None) -> list[Path]:
    """Write a model card into the folder of every expert of a report; mixtures and unfinished runs have none.

    Args:
        report: What `gather` returned.
        licence: The experts' licence, as the hub calls it; None leaves it open.

    Returns:
        The cards.

    Raises:
        ValueError: If no run holds an expert, or a folder has a README of somebody else.
    """
    runs = [run for section in report.sections for run in section.runs]
    owners = [run for run in runs if run.card is not None and run.folder.expert.is_dir()]
    if not owners:
        raise ValueError(
            "none of these runs holds an expert, so there is nothing to write a card of"
        )
    paths = [run.folder.expert / NAME for run in owners]
    for path in paths:
        if path.is_file() and MARK not in path.read_text(encoding="utf-8"):
            raise ValueError(f"{path} was not written by weft report; move it away to have a card")
    for run, path in zip(owners, paths, strict=True):
        write_text(path, card_text(run, licence=licence))
    return paths


def card_text(run: TaskRun, *, licence: str | None = None) -> str:
    """One expert's model card.

    Raises:
        ValueError: If the run has no expert.
    """
    card = run.card
    if card is None:
        raise ValueError(f"{run.run} holds no expert, so it has no card")
    spec = task_of(card).spec
    library = library_of(run.folder.expert)
    front = yaml.safe_dump(
        front_matter(run, card, spec, library, licence), sort_keys=False, allow_unicode=True
    )
    base = f"{card.source}" + (f", revision {card.revision}" if card.revision else "")
    lines = [
        f"---\n{front}---",
        MARK,
        f"# {title_of(run, card)}",
        f"{_what(run, card)} {escaped(spec.description)}".strip(),
        "## Scores",
        _table(
            ("score", "value (95 % interval)", "rows", "split"),
            [
                (unit(row["name"]), interval(row["name"], row), f"{row['n']:,}", row["split"])
                for row in run.folder.metrics
            ],
            empty="Not scored yet.",
        ),
        "Intervals are bootstrap percentiles over rows: what other rows might give, not what another training might.",
        "## How to load it",
        *loading_lines(card, library),
        "## What it is",
        _table(
            ("what", "value"),
            [
                ("base", base),
                ("digest of the base", card.digest),
                ("task", f"{spec.name} ({spec.kind.replace('_', ' ')})"),
                ("classes, in the head's order", ", ".join(card.labels) or "none"),
                *((f"recipe: {key}", _plain(value)) for key, value in card.recipe.items()),
                ("seed", str(run.seed)),
                *((f"training: {key}", _plain(v)) for key, v in run.settings["training"].items()),
                *((f"cost: {key}", _plain(v)) for key, v in (run.cost or {}).items()),
                *((f"version: {key}", value) for key, value in card.versions.items()),
            ],
        ),
        "## Data and licences",
        "\n".join(f"- {line}" for line in _rights(card, spec, licence)),
    ]
    return "\n\n".join(lines) + "\n"


def _what(run: TaskRun, card: Card) -> str:
    cost = run.cost or {}
    trained: int | None = cost.get("trainable_parameters")
    base: int | None = cost.get("base_parameters")
    size = f" It has {trained:,} trained parameters" if trained is not None else ""
    share = (
        f", {100 * trained / base:.2g} % of the base's {base:,}"
        if trained is not None and base
        else ""
    )
    what = {
        "base": f"All of {card.source}, trained further with a head",
        "head": f"A head on {card.source}",
    }.get(run.family, f"Low-rank adapters and a head for {card.source}")
    return f"{what}, for {escaped(run.task)}.{size}{share}{'.' if size else ''}"


def _rights(card: Card, spec: TaskSpec, licence: str | None) -> list[str]:
    base = "see its own card"
    if card.base in ALIASES.names():
        base = validate(Alias, ALIASES.read(card.base), f"base {card.base}").licence
    return [
        f"This expert: {escaped(licence) if licence else 'not stated; its author chooses'}.",
        f"Base {escaped(card.source)}: {escaped(base)}.",
        f"Data {escaped(spec.name)}, version {escaped(spec.version)}: {escaped(spec.licence or 'not stated')}.",
        *(f"Source of the data: {escaped(spec.source)}" for _ in [0] if spec.source),
        *(f"Cite the data as: {escaped(spec.citation)}" for _ in [0] if spec.citation),
    ]


def _table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], *, empty: str = "Nothing known."
) -> str:
    return "\n".join(table_lines(headers, rows, words=len(headers))) if rows else empty


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_plain, value)) or "none"
    return "default" if value is None else str(value)
