"""A decoder asked in words, beside experts trained on as few rows."""

from statistics import stdev
from typing import Any

from website.measured.files import NAMES, measured_on, read
from weft.reporting.document import Document, Section, Table
from weft.reporting.numbers import percent

HEADERS = (
    "way",
    "score % [95 % interval]",
    "± seeds",
    "seeds",
    "tokens read",
    "tokens written",
    "seconds",
    "peak MiB",
)


def document() -> Document | None:
    """A table for each set; None where nothing was measured."""
    result = read("decoders/prompting")
    if result is None:
        return None
    sets = {task: result["sets"][task] for task in NAMES if result["sets"].get(task)}
    how = (
        f"{result['decoder']} in {result['precision']} is asked about {result['rows']:,} validation rows of each set; "
        f"the LoRAs learnt from {result['train_rows']:,} training rows, at the rate that the recipe gives by rule: on "
        f"the decoder in the words it is asked in, on {result['encoder']} by their kind's head. Where a seed decides "
        "something the score is the mean over seeds; intervals are over rows. Tokens, seconds and memory are of one "
        "answer: prompts as if read alone, seconds without loading, the peak of the process with its weights.",
        measured_on(result),
    )
    sections = [
        Section("short", "In short", notes=tuple(map(_said, sets.items()))),
        Section("how", "How", how),
    ]
    sections += [
        Section(
            task,
            NAMES[task],
            parts=(Table(f"{lines[0]['n']:,} rows", HEADERS, tuple(map(_line, lines))),),
        )
        for task, lines in sets.items()
    ]
    return Document("Asking a decoder beside training experts", tuple(sections)) if sets else None


def _said(found: tuple[str, list[dict[str, Any]]]) -> str:
    """The best way of asking and every trained expert, in a sentence."""
    task, lines = found
    asked = [line for line in lines if not line["way"].startswith("LoRA")]
    trained = [line for line in lines if line["way"].startswith("LoRA")]
    best = max(asked, key=_value)
    told = [best, *trained]
    return f"{NAMES[task]}: " + ", ".join(
        f"{line['way']} {percent(_value(line))} % ({line['seconds_an_answer']:.2f} s an answer)"
        for line in told
    )


def _value(line: dict[str, Any]) -> float:
    return line["scores"][line["metric"]]["value"]


def _line(line: dict[str, Any]) -> tuple[str, ...]:
    own = line["scores"][line["metric"]]
    return (
        line["way"],
        f"{percent(own['value'])} [{percent(own['low'])}, {percent(own['high'])}]",
        percent(stdev(line["by_seed"])) if line["seeds"] > 1 else "",
        str(line["seeds"]),
        f"{line['tokens_read_an_answer']:,.0f}",
        f"{line['tokens_written_an_answer']:,.1f}",
        f"{line['seconds_an_answer']:.3f}",
        f"{line['peak_mib']:,.0f}",
    )
