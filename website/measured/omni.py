"""Spoken and handwritten digit strings: word errors by channel, rate, way of sharing, and noise."""

from typing import Any

from website.measured.files import measured_on, read
from weft.reporting.document import Document, Section, Table
from weft.reporting.numbers import percent


def document() -> Document | None:
    """A table for each pair of rates; None where nothing was measured."""
    result = read("omni/digits")
    if result is None:
        return None
    settings = result["settings"]
    n = result["rows"][0]["n"]
    words = (
        f"Strings of 3 to 6 digits, {settings['rows']['train']:,} to train on, {n} of a speaker who is in validation "
        "alone. Two channels tell each string: recordings, and handwritten digits side by side as a stand-in for lips. "
        "Word error rate in per cent [95 % interval over rows], mean over "
        f"{len(settings['seeds'])} seeds, by the noise on the channels.",
        "The decoder is a Llama of four layers, 128 wide, that was taught to copy digit strings on texts and then "
        "frozen (smollm2: SmolLM2-135M, frozen, one seed). Trained are LoRA on queries and values, and small "
        "encoders and projectors, which the three tasks of a run share. What these tables say holds for this set.",
    )
    noises = list(settings["conditions"])
    sections = [
        Section(
            f"omni-{pair}",
            f"One vector of {rates['audio']} of sound, of {rates['image']} of pictures",
            words if not at else (),
            parts=(_table(result, pair, noises),),
        )
        for at, (pair, rates) in enumerate(settings["pairs"].items())
    ]
    return Document("Recordings and pictures", tuple(sections))


def _table(result: dict[str, Any], pair: str, noises: list[str]) -> Table:
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for row in result["rows"]:
        if row["rates"] == pair:
            own = row["word_error_rate"]
            said = f"{percent(own['value'])} [{percent(own['low'])}, {percent(own['high'])}]"
            cells.setdefault((row["model"], row["task"]), {})[row["noise"]] = said
    lines = tuple(
        (model, task, *(by_noise.get(noise, "") for noise in noises))
        for (model, task), by_noise in cells.items()
    )
    return Table(measured_on(result), ("adapters", "reads", *noises), lines, words=2)
