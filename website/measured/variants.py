"""The LoRA variants beside plain LoRA: scores, and what a step costs."""

from typing import Any

from website.measured.files import NAMES, by_set, in_single, measured_on, read
from website.measured.points import Point, points_figure
from weft.methods.recipes import recipe_file
from weft.reporting.document import Document, Figure, Section, Table
from weft.reporting.numbers import interval, percent

NOISE = 0.05
"""Corrected p below which a difference is called one."""


def document() -> Document | None:
    """A section for each set, and one of costs; None where nothing was measured."""
    found = by_set("variants")
    if not found:
        return None
    words = (
        "2,000 training rows, rank 8 on query and value where the rank is free, each recipe at its own searched rate, "
        "three seeds. The difference from plain LoRA is paired by row and seed; p after Holm's correction, by a normal "
        "distribution as wide as the interval where it is below what 1,000 resamples can tell.",
    )
    sections = [Section("short", "In short", words, tuple(_short(found)))]
    sections += [
        Section(
            task,
            NAMES[task],
            (measured_on(result), *_precisions(result)),
            parts=_parts(task, result),
        )
        for task, result in found.items()
    ]
    symptoms = read("symptoms")
    if symptoms is not None:
        sections.append(_symptoms(symptoms))
    costs = read("variants-cost-cpu")
    if costs is not None:
        sections.append(_costs(costs))
    return Document("Variants beside plain LoRA", tuple(sections))


def _precisions(result: dict[str, Any]) -> list[str]:
    """Which rows were trained in which precision, where they differ."""
    whole = result["grid"]["training"]["precision"]
    found = {row["recipe"]: row.get("precision", whole) for row in result["rows"]}
    return in_single(found, "Each difference is from plain LoRA trained in the same precision.")


def _apart(row: dict[str, Any]) -> bool:
    return (row["from_lora"] or {}).get("p_corrected", 1) < NOISE


def _short(found: dict[str, dict[str, Any]]) -> list[str]:
    lines = []
    for task, result in found.items():
        apart = [row for row in result["rows"] if _apart(row)]
        said = [
            f"{word} {', '.join(names)}"
            for word, sign in (("higher", 1), ("lower", -1))
            if (names := [row["recipe"] for row in apart if sign * row["from_lora"]["value"] > 0])
        ]
        steps = result["rows"][0]["steps"]
        lines.append(
            f"{NAMES[task]}, {steps:,} steps: beyond noise (p < {NOISE}) {'; '.join(said) or 'none differs'}."
        )
    return lines


def _parts(task: str, result: dict[str, Any]) -> tuple[Table | Figure, ...]:
    rows, points = [], []
    for row in result["rows"]:
        score, apart = row["scores"][row["metric"]], row["from_lora"]
        rows.append(
            (
                row["recipe"],
                f"{row['adapter_parameters']:,}",
                f"{row['learning_rate']:g}",
                interval(row["metric"], score),
                percent(row["deviation"]),
                "" if apart is None else f"{100 * apart['value']:+.1f}",
                "" if apart is None else f"{apart['p_corrected']:.2f}",
            )
        )
        kind = "lora" if apart is None else "apart" if _apart(row) else "within noise"
        own = {key: 100 * value for key, value in score.items()}
        points.append(Point(row["recipe"], **own, kind=kind))
    plain = next(point.value for point in points if point.kind == "lora")
    headers = ("recipe", "adapters", "rate", "score % (95 % interval)", "± seeds", "from lora", "p")
    table = Table("Means over seeds; intervals over rows.", headers, tuple(rows))
    figure = points_figure(
        f"variants-{task}",
        points,
        title=NAMES[task],
        axis="score (%)",
        caption=(
            "Scores with 95 % bootstrap intervals over rows; the dotted line is plain LoRA. A difference that is "
            "beyond noise has a colour and a marker of its own."
        ),
        mark=plain,
    )
    return figure, table


NOLA, SQUAD = "NOLA on WNUT17", "LoRA on SQuAD, 188 steps of 8 rows"
SYMPTOMS = {
    "nola-was": (NOLA, "as it was"),
    "nola-was-warm": (NOLA, "as it was, 30 % of it warm-up"),
    "nola-9e-3": (NOLA, "on all maps, at a higher rate"),
    "nola-now": (NOLA, "as a config that says nothing"),
    "lora-squad-was": (SQUAD, "as it was"),
    "slora-squad-was": ("SLoRA, the same", "as LoRA was"),
    "lora-squad-qv-4.5e-3": (SQUAD, "on query and value, at a lower rate"),
    "lora-squad-qv": (SQUAD, "on query and value, at the rate of its recipe"),
    "lora-squad-now": (SQUAD, "as a config that says nothing"),
}
"""What was a symptom and no result, and how it was trained."""


def _symptoms(result: dict[str, Any]) -> Section:
    """What these were with the rate that a search with one seed found, and what they are with nothing said."""
    own = {row["what"]: row for row in result["rows"]}
    words = (
        "Two figures were symptoms and no results: NOLA on WNUT17, of which two seeds of three learnt nothing, and "
        "LoRA on SQuAD. Their rates were the largest that the one seed of a search survived. There the change of a map "
        "is about twice as large as the frozen map itself, and a longer warm-up makes it no smaller; at the rate and "
        "on the maps of a config that says neither, all linear ones, it is a fraction of the map.",
    )
    rows = tuple(
        (
            *words,
            f"{own[what]['learning_rate']:g}",
            ", ".join(percent(score["value"]) for score in own[what]["scores"]),
            f"{own[what]['change_over_weight']['median']:.2f}",
        )
        for what, words in SYMPTOMS.items()
    )
    headers = ("what", "trained", "rate", "score % by seed", "change over weight")
    return Section(
        "symptoms",
        "Rates next to a cliff",
        words,
        parts=(
            Table(
                f"{measured_on(result)} Change over weight: the largest singular value of a map's change by that of "
                "the frozen weight, median over maps and seeds.",
                headers,
                rows,
                words=2,
            ),
        ),
    )


def _costs(costs: dict[str, Any]) -> Section:
    rows = tuple(
        (
            row["recipe"],
            f"{row['adapter_parameters']:,}",
            f"{row['step_over_lora']:.2f}",
            f"{row['sum_over_lora']:.2f}",
            f"{row['memory_over_lora']:.2f}",
        )
        for row in sorted(costs["results"], key=lambda row: -row["step_over_lora"])
    )
    reasons = {row["recipe"]: recipe_file(row["recipe"]).cost for row in costs["results"]}
    settings = costs["settings"]
    words = (
        f"A training step beside plain LoRA's: CPU, {settings['precision']}, batches of {settings['batch_size']}; "
        "steps of both take turns. The median says what a step costs as a rule, the sum has its share of steps that "
        "are seldom: a rank that grows, singular values taken anew.",
        *(f"{name}: {reason}." for name, reason in reasons.items() if reason),
        measured_on(costs),
    )
    table = Table(
        "Times what plain LoRA takes.",
        ("recipe", "adapters", "time of a step", "of all steps", "peak memory"),
        rows,
    )
    return Section("costs", "What a step costs", words, parts=(table,))
