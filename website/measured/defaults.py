"""LoRA's default targets and rate beside those before, how the best rate falls with a base's width, and a decoder's."""

from statistics import fmean
from typing import Any

from website.measured.files import NAMES, measured_on, read
from weft.reporting.document import Document, Section, Table
from weft.reporting.numbers import percent


def document() -> Document | None:
    """Sections for what was measured; None where nothing was."""
    defaults, rates, decoder = read("defaults"), read("learning-rates"), read("decoder-rate")
    sections: list[Section] = []
    if defaults is not None:
        sections.append(_before_and_now(defaults))
    if rates is not None:
        sections += [_powers(rates), _rates(rates)]
    if decoder is not None:
        sections.append(_on_a_decoder(decoder))
    return Document("Defaults", tuple(sections)) if sections else None


def _before_and_now(result: dict[str, Any]) -> Section:
    words = (
        "Plain LoRA of rank 8 on query and value at 2e-3, as the default was, and on all linear maps at 1e-3, as it "
        "is: short trainings on parts of the sets. At a rate of its own and with more steps it is the tables of "
        "accuracy that say why all maps are the default.",
    )
    lines = tuple(
        (
            NAMES[task],
            percent(fmean(own["before"])),
            percent(fmean(own["now"])),
            ", ".join(f"{100 * one:+.1f}" for one in own["higher"]),
        )
        for task, own in result["tasks"].items()
    )
    headers = ("set", "before %", "now %", "now minus before, by seed")
    return Section(
        "defaults", "Targets", words, parts=(Table(measured_on(result), headers, lines),)
    )


def _powers(result: dict[str, Any]) -> Section:
    lines = tuple(
        (
            series,
            method,
            _interval(power),
            ", ".join(map(str, own["widths"])),
            str(len(own["seeds"])),
        )
        for series, own in result["series"].items()
        for method, power in own["falls_with_width_to_the"].items()
    )
    words = (
        "The power of the width that the best rate falls with, fitted over tiny BERTs; the interval is over seeds, "
        "with one base for each width.",
    )
    headers = ("training", "method", "power [95 % interval]", "widths", "seeds")
    return Section(
        "powers", "Rates by width", words, parts=(Table(measured_on(result), headers, lines),)
    )


def _rates(result: dict[str, Any]) -> Section:
    lines = tuple(
        (series, str(cell["width"]), cell["method"], f"{cell['best']['value']:.2g}")
        for series, own in result["series"].items()
        for cell in own["cells"]
    )
    headers = ("training", "width", "method", "best rate")
    return Section("rates", "The best rates", parts=(Table("", headers, lines, words=3),))


def _on_a_decoder(result: dict[str, Any]) -> Section:
    base, training = result["base"], result["training"]
    words = (
        f"{base['name']}: width {base['width']}, {base['layers']} layers. LoRA as it is by default, on WNUT17's tweets "
        f"joined to rows of up to {result['longest']} tokens, {training['batch_size']} rows a step; the mean loss of a "
        f"token on {result['validation_rows']} held-out rows, {result['loss_before']:.3f} before training.",
    )
    lines = tuple(
        (
            series,
            str(len(own["seeds"])),
            f"{own['rule']:.2g}",
            f"{own['best']:.2g}",
            f"{own['best_over_rule']:.1f}",
            f"{own['loss_at_rule']:.3f}",
            f"{own['lowest_loss']:.3f}",
        )
        for series, own in result["series"].items()
    )
    headers = (
        "training",
        "seeds",
        "the rule's rate",
        "best rate",
        "best over the rule's",
        "loss at the rule's",
        "lowest loss tried",
    )
    return Section(
        "decoder",
        "The rule on a decoder",
        words,
        parts=(Table(measured_on(result), headers, lines),),
    )


def _interval(power: dict[str, float]) -> str:
    return f"{power['value']:.2f} [{power['low']:.2f}, {power['high']:.2f}]"
