"""What generated experts are worth beside what costs as little."""

from typing import Any

from website.measured.files import measured_on, read
from weft.reporting.document import Document, Section, Table
from weft.reporting.numbers import percent

MEANS = {
    "trained": "its own expert, trained on all rows",
    "rows": "trained as long on the rows told",
    "seconds": "trained on them for the seconds of generating",
    "nearest": "the nearest task's expert",
    "mean": "the mean expert",
    "population": "one expert for all other readers (readers alone)",
    "generated": "generated",
    "trained_form": "generated, factors as trained",
    "own": "generated, statistics of the nearest expert",
    "leak": "generated, statistics of the task's own expert (a leak)",
}


def document() -> Document | None:
    """The tables; None where nothing was measured."""
    result = read("generated/experts")
    if result is None:
        return None
    config, methods, apart = result["config"], result["methods"], result["differences"]
    words = (
        f"{config['tasks']} small tasks (is a word of this class?) on all-MiniLM-L6-v2, each held out once from the "
        f"generator, with {len(config['seeds'])} seeds; F1 in percent, mean and 95 % bootstrap interval over tasks.",
        f"Generated from {config['rows']} rows in {result['seconds']:.1f} s: {_said(methods['generated'])}. "
        f"The nearest task's expert: {_said(methods['nearest'])}; the difference is {_said(apart['nearest'])}. "
        f"The task's own expert, in {result['trained_seconds']:.1f} s: {_said(methods['trained'])}.",
        f"What the published normalisation gives away: with the statistics of the task's own expert "
        f"{_said(methods['leak'])}, of the nearest one {_said(methods['own'])}.",
    )
    lines = tuple(
        (MEANS[name], _said(own), "" if name == "generated" else _said(apart[name]), str(own["n"]))
        for name, own in methods.items()
    )
    headers = ("", "F1 % [95 % interval]", "generated minus it", "tasks")
    sources = result["sources"]
    shown = [name for name in MEANS if name in methods]
    by_source = tuple(
        (
            MEANS[name],
            *(percent(own[name]["value"]) if name in own else "" for own in sources.values()),
        )
        for name in shown
    )
    return Document(
        "Generated experts",
        (
            Section("short", "In short", words),
            Section("table", "The table", parts=(Table(measured_on(result), headers, lines),)),
            Section(
                "sources",
                "By source",
                parts=(Table("F1 %, mean over the tasks of a source", ("", *sources), by_source),),
            ),
        ),
    )


def _said(own: dict[str, Any]) -> str:
    return f"{percent(own['value'])} [{percent(own['low'])}, {percent(own['high'])}]"
