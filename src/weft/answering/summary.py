"""What a predictor holds, in words: for a prompt and for a notebook."""

from collections.abc import Mapping, Sequence
from html import escape
from itertools import chain

from weft.runs import RunFolder
from weft.storage.loading import LoadedRun

_SHOWN = 8
"""Labels that a row lists."""


def row_of(name: str, run: LoadedRun, folder: RunFolder | None) -> dict[str, str]:
    """One expert: its name, kind, method, labels, score and parameters.

    Args:
        name: What it is called.
        run: The expert.
        folder: Where its scores are; None if nowhere.
    """
    labels = list(run.card.labels)
    mixed = "" if run.members == (run.name,) else f" by {', '.join(run.members)}"
    method = run.run.mixture.name if run.run.mixture else str(run.card.recipe["name"])
    return {
        "expert": f"{name}{mixed}",
        "kind": run.task.spec.kind,
        "method": method,
        "labels": (", ".join(labels[:_SHOWN]) + (", ..." if len(labels) > _SHOWN else ""))
        or "none",
        "score": _score(run.task.metric, folder),
        "parameters": f"{parameters(run):,}",
    }


def as_text(title: str, rows: Sequence[Mapping[str, str]]) -> str:
    """A line for the title and one for each row, in columns."""
    widths = {key: max(len(row[key]) for row in rows) for key in rows[0]}
    lines = [
        "  " + "  ".join(f"{value:{widths[key]}}" for key, value in row.items()).rstrip()
        for row in rows
    ]
    return "\n".join([title, *lines])


def as_html(title: str, rows: Sequence[Mapping[str, str]]) -> str:
    """The same as a table; whatever names and labels hold is text."""
    head = "".join(f"<th>{escape(key)}</th>" for key in rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(value)}</td>" for value in row.values()) + "</tr>"
        for row in rows
    )
    return (
        f"<div><b>{escape(title)}</b>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def parameters(run: LoadedRun) -> int:
    """Numbers that are the expert's own: adapters or mixture, copies, and what its head trained."""
    experts = [run.model.expert(name) for name in dict.fromkeys((*run.members, run.name))]
    heads = [own.head for own in experts if own.head is not None]
    inside = {id(value) for own in heads for value in own.parameters()}
    rest = {id(v): v for v in chain.from_iterable(own.parameters() for own in experts)}
    trained = chain.from_iterable(own.state().values() for own in heads)
    outside = [value for key, value in rest.items() if key not in inside]
    return sum(value.numel() for value in (*outside, *trained))


def _score(metric: str, folder: RunFolder | None) -> str:
    scored = [row for row in folder.metrics if row["name"] == metric] if folder else []
    if not scored:
        return "not scored"
    row = scored[-1]
    between = f" [{row['low']:.4g}, {row['high']:.4g}]" if {"low", "high"} <= row.keys() else ""
    return f"{metric} {row['value']:.4g}{between} on {row['split']}"
