"""What an evaluation on two tracks says, as a document."""

from weft.judging.found import Agreement, Judged, Judging, Lexical
from weft.reporting.document import Document, Section, Table
from weft.reporting.numbers import NONE, counted, decimal, share
from weft.tasks.scoring import Score

FLAGS = {
    "DIVERGENT": "a metric and a judge prefer different systems, both beyond chance",
    "UNCONFIRMED": "one of the two sees a difference beyond chance, the other does not",
    "AGREED": "both prefer the same system beyond chance",
    "UNDECIDED": "neither sees a difference beyond chance",
}
READING = (
    "Intervals are 95 %. A difference is candidates minus against. Rows where a judge's verdict flipped with the order "
    "are ties. Given length: with what the answers' length explains taken out.",
)


def document(found: Judging) -> Document:
    """The tracks, and where they part."""
    sections = [
        Section("short", "In short", words=tuple(_words(found))),
        Section("lexical", "By metrics", parts=(_lexical(found),)),
    ]
    if found.judges:
        sections.append(Section("judges", "By judges", parts=(_judges(found),)))
        sections.append(
            Section("agreement", "Do they agree?", notes=READING, parts=(_agreement(found),))
        )
    return Document("Evaluation on two tracks", tuple(sections), found.as_json())


def _words(found: Judging) -> list[str]:
    lengths = " and ".join(f"{words:.1f}" for words in found.words)
    said = [f"{counted(len(found.ids), 'row')}; answers of {lengths} words on average."]
    for flag, meaning in FLAGS.items():
        pairs = [f"{one.metric} / {one.judge}" for one in found.agreement if one.flag == flag]
        if pairs:
            said.append(f"{flag} ({meaning}): {', '.join(pairs)}.")
    if found.alpha is not None:
        said.append(f"Krippendorff's alpha of the judges: {found.alpha:.2f}.")
    return said


def _lexical(found: Judging) -> Table:
    signatures = dict.fromkeys(f"{one.name}: {one.signature}" for one in found.lexical)
    two = any(one.against is not None for one in found.lexical)
    headers = ("metric (%)", "candidates", *(("against", "difference") if two else ()))
    return Table(
        "What people wrote, met by metrics.",
        headers,
        tuple(_line(one, two=two) for one in found.lexical),
        remarks=tuple(signatures),
    )


def _line(one: Lexical, *, two: bool) -> tuple[str, ...]:
    return one.name, *(
        share(value) for value in (one.candidates, *([one.against, one.difference] if two else []))
    )


def _judges(found: Judging) -> Table:
    headers = (
        "judge",
        "protocol",
        "rows",
        "won",
        "tied",
        "lost",
        "win rate (%)",
        "p",
        "difference",
        "same in both orders (%)",
        "told disorder",
    )
    return Table("What judges said.", headers, tuple(map(_judge, found.judges)), words=2)


def _judge(one: Judged) -> tuple[str, ...]:
    counts = (one.wins, one.ties, one.losses)
    return (
        one.name,
        str(one.description["protocol"]),
        str(len(one.rows)),
        *(NONE if count is None else str(count) for count in counts),
        share(one.win_rate),
        NONE if one.p is None else f"{one.p:.2g}",
        _number(one.difference),
        share(one.consistency),
        f"{one.trust.right} of {one.trust.rows}",
    )


def _agreement(found: Judging) -> Table:
    headers = (
        "metric",
        "judge",
        "flag",
        "same sign (%)",
        "Kendall",
        "Spearman",
        "given length",
        "kappa",
    )
    return Table("Metrics beside judges.", headers, tuple(map(_pair, found.agreement)), words=3)


def _pair(one: Agreement) -> tuple[str, ...]:
    numbers = (one.kendall, one.spearman, one.given_length, one.kappa)
    return one.metric, one.judge, one.flag or NONE, share(one.signs), *map(_number, numbers)


def _number(value: Score | None) -> str:
    if value is None:
        return NONE
    return f"{decimal(value.value, 2)} ({decimal(value.low, 2)} to {decimal(value.high, 2)})"
