"""An expert's mistakes: what kinds there are, the worst rows with their text, and what its confidence is worth."""

from typing import TYPE_CHECKING

from weft.answering.evaluation import read_mistakes
from weft.reporting.document import Figure, Marked, Table
from weft.reporting.drawing import INK, PALETTE, axes, draw
from weft.reporting.groups import Group
from weft.reporting.numbers import percent, share
from weft.tasks.cases import BINS, Case, Mistakes, Reliability
from weft.tasks.scoring import share as share_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

KINDS = 12
"""Kinds of mistakes that are named; the commonest."""


def mistake_parts(group: Group) -> tuple[Table | Figure, ...]:
    """The mistakes of the best entry's first run; nothing where its folder keeps none."""
    if not group.scored:
        return ()
    entry = group.scored[0]
    run = entry.runs[0]
    found = read_mistakes(run.folder, group.split or "validation")
    if found is None:
        return ()
    which = f"{group.heading}, {entry.name}, seed {run.seed}"
    parts: list[Table | Figure] = []
    if found.worst:
        parts += [_kinds(found, which), _worst(found, which)]
    if found.reliability is not None:
        parts += [
            _curve(found.reliability, f"{group.key}-reliability", group.heading, which),
            _bins(found.reliability, which),
        ]
    return tuple(parts)


def _kinds(found: Mistakes, which: str) -> Table:
    named = list(found.kinds.items())[:KINDS]
    rows = [(word, f"{count:,}") for word, count in named]
    rest = sum(found.kinds.values()) - sum(count for _, count in named)
    if rest:
        rows.append((f"{len(found.kinds) - len(named)} other kinds", f"{rest:,}"))
    caption = (
        f"{which}: {found.wrong:,} of {found.n:,} rows have a mistake ({percent(found.wrong / found.n)} %): what is "
        "wrong, and how often."
    )
    return Table(caption, ("mistake", "times"), tuple(rows), brief=False)


def _worst(found: Mistakes, which: str) -> Table:
    caption = (
        f"{which}: the worst {len(found.worst)} of the rows with a mistake, by how sure it was of what is wrong and "
        "how little it gave to what is right."
    )
    asks = any(case.asked for case in found.worst)
    headers = ("row", *(("question",) if asks else ()), "text", "said", "right", "what is wrong")
    rows = tuple(
        (
            case.id,
            *((case.asked,) if asks else ()),
            Marked(case.text, case.marks),
            _said(case),
            case.right,
            "; ".join(dict.fromkeys(case.wrong)),
        )
        for case in found.worst
    )
    return Table(caption, headers, rows, words=len(headers), prose=True, brief=False)


def _said(case: Case) -> str:
    """The answer; of several options, each that got more than a trace, with its probability."""
    if not case.options:
        sure = max((claim.confidence for claim in case.claims), default=None)
        return case.said if sure is None else f"{case.said} ({percent(sure, 0)} %)"
    best = sorted(case.options, key=lambda option: -option.probability)[:5]
    return "\n".join(f"{percent(option.probability, 0)} % {option.text}" for option in best)


def _curve(found: Reliability, name: str, heading: str, which: str) -> Figure:
    points = [
        (confidence / count, share_of(right, count), count)
        for count, right, confidence in zip(
            found.counts, found.right, found.confidence, strict=True
        )
        if count
    ]
    most = max(count for _, _, count in points)

    def paint(drawn: "Canvas") -> None:
        title = f"{heading}: what confidence is worth"
        own = axes(drawn, title, "confidence (%)", "right (%)")
        own.plot(
            [0, 100],
            [0, 100],
            color=INK,
            linestyle=":",
            linewidth=0.9,
            label="sure as often as right",
        )
        for at, count in enumerate(found.counts):
            # How many there are, as bars from below that reach a quarter of the way.
            own.bar(
                100 * (at + 0.5) / BINS, 25 * count / most, width=92 / BINS, color=INK, alpha=0.13
            )
        x = [100 * sure for sure, _, _ in points]
        y = [100 * own_share.value for _, own_share, _ in points]
        own.vlines(
            x,
            [100 * s.low for _, s, _ in points],
            [100 * s.high for _, s, _ in points],
            color=PALETTE[0],
            alpha=0.6,
        )
        own.plot(x, y, marker="o", color=PALETTE[0], label="claims of this confidence")
        own.set_xlim(0, 100)
        own.set_ylim(0, 103)
        drawn.legend(loc="outside lower center", ncols=2)

    claims = sum(found.counts)
    alt = (
        f"{which}: share of right claims by confidence, {claims:,} claims in {len(points)} bins. Expected calibration "
        f"error {_ece(found)} %."
    )
    caption = (
        f"How often it is right when it is so sure, in {BINS} bins of confidence: above the dotted line more often "
        "than it is sure, below it less. Lines are 95 % intervals of the shares (Wilson), grey bars how many claims a "
        f"bin has. Expected calibration error: {percent(found.ece)} % ({percent(found.low)} to {percent(found.high)}, "
        "the bootstrap interval over rows)."
    )
    return draw(name, 3.4, caption, alt, paint)


def _ece(found: Reliability) -> str:
    return f"{percent(found.ece)} ({percent(found.low)} to {percent(found.high)})"


def _bins(found: Reliability, which: str) -> Table:
    rows = tuple(
        (
            f"{100 * at // BINS} to {100 * (at + 1) // BINS}",
            f"{count:,}",
            percent(confidence / count),
            share(share_of(right, count)),
        )
        for at, (count, right, confidence) in enumerate(
            zip(found.counts, found.right, found.confidence, strict=True)
        )
        if count
    )
    return Table(
        f"{which}: claims by confidence. Expected calibration error {_ece(found)} %.",
        ("confidence (%)", "claims", "mean confidence (%)", "right (%)"),
        rows,
        folded="Confidence bin by bin",
        brief=False,
    )
