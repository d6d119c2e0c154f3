"""Model cards: `README.md` in an expert's folder, ready for the hub."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from weft.atomic import write_text
from weft.base.locate import ALIASES, Alias
from weft.config import validate
from weft.lowrank.peft.writing import CONFIG as PEFT_CONFIG
from weft.model.card import Card
from weft.model.heads import kind_of
from weft.reporting.numbers import interval, unit
from weft.reporting.run_report import Report
from weft.reporting.runs import TaskRun
from weft.reporting.writers import escaped, table_lines
from weft.storage.card import task_of
from weft.storage.experts import HEAD
from weft.tasks.contract import TaskSpec

NAME = "README.md"
MARK = "<!-- Written by `weft report --cards`, which replaces it; delete this line to keep your own text. -->"
UNSTATED = "unknown"
"""The hub's name for a licence that nobody has said."""
HERE = "path/to/this/folder"
"""Stands for the expert's folder in the lines that load it."""


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
    runs = [run for group in report.groups for run in group.runs]
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
    library = _library_of(run.folder.expert)
    front = _front_matter(run, card, spec, library, licence).to_yaml()
    base = f"{card.source}" + (f", revision {card.revision}" if card.revision else "")
    lines = [
        f"---\n{front}\n---",
        MARK,
        f"# {_title_of(run, card)}",
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
        *_loading_lines(card, library),
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
                *_how(run),
                *((f"cost: {key}", _plain(v)) for key, v in (run.cost or {}).items()),
                *((f"version: {key}", value) for key, value in card.versions.items()),
            ],
        ),
        "## Data and licences",
        "\n".join(f"- {line}" for line in _rights(card, spec, licence)),
    ]
    return "\n\n".join(lines) + "\n"


def _how(run: TaskRun) -> list[tuple[str, str]]:
    """The settings of its training, or of the merge that it came from."""
    what = "merge" if run.merged else "training"
    # Where the merged experts lie on this disk says nothing to others.
    values = {k: value for k, value in run.settings[what].items() if k not in ("runs", "head")}
    return [(f"{what}: {key}", _plain(value)) for key, value in values.items()]


def _what(run: TaskRun, card: Card) -> str:
    cost = run.cost or {}
    if run.merged:
        numbers = cost.get("adapter_parameters", 0)
        return (
            f"Low-rank experts for {card.source} merged into one ({run.method}), with the head for "
            f"{escaped(run.task)}. Its adapters hold {numbers:,} numbers, none of them trained together."
        )
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


def _on_the_hub(card: Card) -> bool:
    return not Path(card.source).is_absolute()


def _front_matter(
    run: TaskRun, card: Card, spec: TaskSpec, library: str, licence: str | None
) -> ModelCardData:
    """What the hub reads of a card: licence, base, library, tags, and a model index of every score."""
    kind, rows = kind_of(spec.kind).pipeline, run.folder.metrics
    return ModelCardData(
        license=licence or UNSTATED,
        base_model=card.source if _on_the_hub(card) else None,
        library_name=library,
        pipeline_tag=kind,
        tags=["weft", run.method.replace(" ", "-"), spec.name],
        datasets=[spec.hub.path] if spec.hub else None,
        model_name=_title_of(run, card) if rows else None,
        eval_results=[
            EvalResult(
                task_type=kind,
                dataset_name=spec.name,
                dataset_type=spec.hub.path if spec.hub else spec.name,
                dataset_split=row["split"],
                metric_type=row["name"],
                metric_value=row["value"],
                metric_name=f"{row['name']} ({row['n']} rows, 95 % interval {row['low']:.4g} to {row['high']:.4g})",
            )
            for row in rows
        ]
        or None,
    )


def _title_of(run: TaskRun, card: Card) -> str:
    """What the hub and the card call the expert."""
    return f"{run.method} on {Path(card.base).name} for {run.task}"


def _library_of(folder: Path) -> str:
    """Which library opens the folder: PEFT, transformers where every weight was trained, or weft alone."""
    if (folder / PEFT_CONFIG).is_file():
        return "peft"
    return "weft" if (folder / HEAD).is_file() else "transformers"


def _loading_lines(card: Card, library: str) -> list[str]:
    """Paragraphs and blocks of code, one of each for every library that opens the folder."""
    kind = kind_of(card.head)
    revision = f", revision={card.revision!r}" if card.revision else ""
    labels = f", num_labels={task_of(card).num_labels}" if kind.has_classes else ""
    auto = f"from transformers import {kind.auto}, AutoTokenizer"
    found = []
    if library == "peft":
        found += [
            "With PEFT:",
            _code(
                "from peft import PeftModel",
                auto,
                "",
                f'base = {kind.auto}.from_pretrained("{card.source}"{labels}{revision})',
                f'model = PeftModel.from_pretrained(base, "{HERE}")',
                f'tokenizer = AutoTokenizer.from_pretrained("{card.source}"{revision})',
            ),
        ]
    if library == "transformers":
        found += [
            "With transformers:",
            _code(
                auto,
                "",
                f'model = {kind.auto}.from_pretrained("{HERE}")',
                f'tokenizer = AutoTokenizer.from_pretrained("{HERE}")',
            ),
        ]
        own = [
            "from weft.storage import load_full",
            "",
            f'model, expert, card = load_full("{HERE}")',
        ]
    else:
        own = [
            "from weft.base import load_base",
            "from weft.model import Model",
            "from weft.storage import load_expert",
            "",
            f'base = load_base("{card.base}"{revision})',
            f'expert, card = load_expert("{HERE}", base)',
            "model = Model(base)",
            "model.add(expert)",
        ]
    if kind.is_trunk:
        found.append("A text's vector is the mean of its tokens' last states.")
    return [*found, "With weft:", _code(*own)]


def _code(*lines: str) -> str:
    return "\n".join(["```python", *lines, "```"])
