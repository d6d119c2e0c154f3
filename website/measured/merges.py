"""What merges keep of the experts that they are made of, and what they take."""

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

from website.measured.files import NAMES, measured_on, read
from weft.reporting.document import Document, Section, Table
from weft.reporting.numbers import percent
from weft.reporting.writers import table_lines

KEPT = 0.95
TOGETHER = "trained together"
MERGES = ("cat", "ties", "soups")
"""What of the rows of parts is a merge."""
PEAKS = ("peft_peak_mib", "mergekit_peak_mib")
HEADINGS = {"tasks": "Experts of three tasks", "skills": "Two skills of one text"}
"""By the part of the result file whose rows are merges."""


def document() -> Document | None:
    """Sections for what was measured; None where nothing was."""
    scores, speed = read("merges"), read("merging-cpu")
    sections: list[Section] = []
    if scores is not None:
        sections.append(Section("short", "In short", notes=found_words(scores)))
        sections += [
            Section(key, heading, parts=(kept_table(scores[key]),))
            for key, heading in HEADINGS.items()
            if scores.get(key)
        ]
        if scores.get("parts"):
            parts = (parts_table(scores["parts"]),)
            sections.append(Section("parts", "Experts of parts of one set", parts=parts))
    if speed is not None:
        sections.append(_speed(speed))
    return Document("Merges", tuple(sections)) if sections else None


def found_words(scores: dict[str, Any]) -> tuple[str, ...]:
    """What the means over seeds say, a sentence for each of the three questions."""
    said = []
    if scores["tasks"]:
        kept = _means(scores["tasks"])
        best = max(kept, key=lambda way: min(kept[way].values()))
        worst = min(kept[best], key=kept[best].__getitem__)
        reaches = [way for way, own in kept.items() if min(own.values()) >= KEPT]
        many = "No way" if not reaches else ", ".join(reaches)
        said.append(
            f"Experts of three tasks in one: {many} of {len(kept)} keeps {percent(KEPT, 0)} % of every task. The most "
            f"that any keeps of the task that it keeps least of is {percent(kept[best][worst])} % ({best}, of {worst})."
        )
    if scores["skills"]:
        kept = _means(scores["skills"])
        together = min(kept.pop(TOGETHER).values())
        best = max(kept, key=lambda way: min(kept[way].values()))
        said.append(
            f"Two skills of one text: {best} keeps at least {percent(min(kept[best].values()))} % of both, trained "
            f"together {percent(together)} %."
        )
    if scores["parts"]:
        by_way = _parts(scores["parts"])
        merged = {key: own for key, own in by_way.items() if key[1] in MERGES}
        below = [own for own in merged.values() if own["difference"] < 0]
        best = max(merged, key=lambda key: merged[key]["score"])
        gap = merged[best]["difference"]
        said.append(
            f"Experts of parts of one set: {len(below)} of {len(merged)} merges score lower than one expert of all "
            f"rows; the best, {best[1]} of {best[0]} parts, by {100 * gap:+.1f} points."
        )
    return tuple(said)


def _means(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The share of its own expert's score that each way keeps of each task, mean over seeds."""
    shares: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        for own in row["tasks"]:
            shares.setdefault(_way(row), {}).setdefault(own["task"], []).append(own["share_of_own"])
    return {way: {task: fmean(all_) for task, all_ in own.items()} for way, own in shares.items()}


def _parts(rows: Sequence[dict[str, Any]]) -> dict[tuple[int, str], dict[str, float]]:
    """Score and difference to an expert of all rows by number of parts and way, means over seeds."""
    found: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["parts"], row["what"]), []).append(row)
    return {
        key: {
            "score": fmean(row["score"]["value"] for row in own),
            "difference": fmean(row["difference_to_all_rows"]["value"] for row in own),
        }
        for key, own in found.items()
    }


SHOWN = 5
"""Lines of README's table."""


def readme_lines() -> list[str]:
    """The merges of three tasks' experts that lose least of the expert that loses most."""
    scores = read("merges")
    if scores is None or not scores["tasks"]:
        return []
    means = _means(scores["tasks"])
    # What different names do alike here is one line.
    alike: dict[tuple[str, ...], list[str]] = {}
    for way in sorted(means, key=lambda way: -min(means[way].values())):
        alike.setdefault(tuple(percent(means[way][task]) for task in NAMES), []).append(way)
    lines = [(", ".join(ways), *cells) for cells, ways in list(alike.items())[:SHOWN]]
    seeds = len({row["seed"] for row in scores["tasks"]})
    headers = ("merged by", *(name.partition(",")[0] for name in NAMES.values()))
    return [
        f"The same three tasks' experts merged into one keep this much of their own score in % ({seeds} seeds at small "
        f"budgets;",
        f"[all {len(means)} ways](docs/results/merges.md)):",
        "",
        *table_lines(headers, lines, words=1),
    ]


def kept_table(rows: Sequence[dict[str, Any]]) -> Table:
    """A line for each way to merge, means over seeds.

    Args:
        rows: Of one part of the result file, a row a seed.
    """
    by_way: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_way.setdefault(_way(row), []).append(row)
    tasks = list(dict.fromkeys(own["task"] for row in rows for own in row["tasks"]))
    lines = []
    for way, seeds in by_way.items():
        shares = {
            task: [
                own["share_of_own"] for row in seeds for own in row["tasks"] if own["task"] == task
            ]
            for task in tasks
        }
        cells = [_spread(found) if all(found) else "" for found in shares.values()]
        errors = [row["error"] for row in seeds if row.get("error") is not None]
        sizes = [row["parameters"] for row in seeds if "parameters" in row]
        lines.append(
            (
                way,
                *cells,
                percent(fmean(errors)) if errors else "",
                f"{fmean(sizes):,.0f}" if sizes else "",
                str(len(seeds)),
            )
        )
    headers = (
        "merge",
        *(f"{task}, % of its own expert" for task in tasks),
        "distance from the sum, %",
        "parameters",
    )
    own = ", ".join(f"{task} {percent(_before(rows, task))} %" for task in tasks)
    caption = (
        f"Means over seeds, with the standard deviation between seeds. The own experts score {own}."
    )
    return Table(caption, (*headers, "seeds"), tuple(lines))


def _before(rows: Sequence[dict[str, Any]], task: str) -> float:
    """What a task's own expert scores, mean over seeds."""
    found = {
        row["seed"]: own["before"]["value"]
        for row in rows
        for own in row["tasks"]
        if own["task"] == task and "before" in own
    }
    return fmean(found.values())


def _spread(shares: Sequence[float]) -> str:
    """Mean and standard deviation in percent."""
    return percent(fmean(shares)) + (f" ± {percent(stdev(shares))}" if len(shares) > 1 else "")


def _way(row: dict[str, Any]) -> str:
    """A method, with what was said of its weights."""
    weights = row.get("weights") or []
    said = ", a sum" if weights and set(weights) == {1.0} else ""
    return f"{row['method']}{', searched' if row.get('searched') else said}"


def parts_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Experts of parts of the rows, joined, beside one that saw all of them; means over seeds."""
    by_way: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for row in rows:
        by_way.setdefault((row["parts"], row["what"]), []).append(row)
    lines = tuple(
        (
            str(parts),
            what,
            percent(fmean(row["score"]["value"] for row in seeds)),
            f"{100 * fmean(row['difference_to_all_rows']['value'] for row in seeds):+.1f}",
            str(len(seeds)),
        )
        for (parts, what), seeds in by_way.items()
    )
    headers = ("parts", "what", "score %", "minus an expert of all rows", "seeds")
    return Table("Means over seeds.", headers, lines, words=2)


def _speed(result: dict[str, Any]) -> Section:
    rows = tuple(
        (
            row["method"],
            f"{row['seconds']:.2f}",
            percent(row["relative_error"]),
            _times(row, "times_faster_than_peft"),
            _times(row, "times_faster_than_peft_svd"),
            _times(row, "times_faster_than_mergekit"),
            f"{row['peak_mib']:.0f}",
            *(f"{row[key]:.0f}" if key in row else "" for key in PEAKS),
        )
        for row in result["results"]
    )
    own = result["settings"]
    words = (
        f"{own['experts']} experts of rank {own['rank']} on {own['maps']}, {own['layers']} of {own['all_layers']} "
        f"layers, {own['seconds']}. Peaks are the {own['memory']}.",
        "mergekit merges the same experts as dense checkpoints, which it reads and writes, and is given one layer; its "
        "seconds are multiplied by the layers.",
    )
    headers = ("merge", "seconds", "distance from the sum, %", "times faster than PEFT's own")
    headers += ("than PEFT's svd", "than mergekit", "peak, MiB", "PEFT's", "mergekit's, one layer")
    table = Table(measured_on(result), headers, rows)
    return Section("speed", "Time", words, parts=(table,))


def _times(row: dict[str, Any], key: str) -> str:
    return f"{row[key]:.2f}" if row.get(key) is not None else ""
