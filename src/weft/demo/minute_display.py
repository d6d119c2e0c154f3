"""How the demo of a minute is shown: a line before anything heavy is loaded, then answers, scores, what to do next."""

from pathlib import Path
from typing import TYPE_CHECKING

from weft.reporting.document import Document, Marked, Section, Table
from weft.reporting.numbers import percent, scored, share

if TYPE_CHECKING:
    from weft.demo.minute import Minute, Result, Shown

ABOUT_S = 55
"""Seconds on two quiet cores of 2024's servers; other machines say their own estimate after the first step."""
FIRST = (
    "three experts over one frozen base, trained in the same batches, then asked: "
    f"about {ABOUT_S} s on two quiet cores"
)
OWN = "configs/own_task.yaml"
"""A config to start from, in a checkout and where `weft init` was called."""


def first_line(out: Path) -> str:
    """What is said before anything else."""
    return f"{FIRST}; all of it goes to {out}"


def document(found: "Minute") -> Document:
    """What the experts said, how well they do, and where to go from here."""
    return Document(
        "Three experts in a minute",
        (_answers(found), _scores(found), _next(found)),
        found.as_json(),
    )


def _answers(found: "Minute") -> Section:
    rows = tuple(_row(shown) for shown in found.shown)
    caption = "Rows that training has not seen, and no word of which it has: what each expert made of them."
    headers = ("expert", "text", "answer", "taken for")
    remarks = (
        "taken for: the task that the mixture named from the text alone, and how sure it was; it then lets that task's "
        "expert speak.",
    )
    table = Table(caption, headers, rows, words=4, prose=True, remarks=remarks)
    return Section("answers", "What they say", parts=(table,))


def _row(shown: "Shown") -> tuple[str, ...]:
    case = shown.case
    text = Marked(f"{case.text} {case.asked}".strip(), case.marks)
    verdict = (
        "right" if not case.wrong else f"wrong: {', '.join(case.wrong)}; right is {case.right}"
    )
    if case.options:
        best = sorted(case.options, key=lambda option: -option.probability)
        answer = "\n".join(
            f"{percent(option.probability, 0):>3} % {option.text}" for option in best
        )
    else:
        answer = case.said
    taken = f"{shown.taken_for} ({percent(shown.confidence)} %)"
    return shown.task, text, f"{answer}\n{verdict}", taken


def _scores(found: "Minute") -> Section:
    headers = ("task", "kind", "score", "expert % (95 % interval)", "guess %", "task recognised %")
    headers += ("trained parameters",)
    rows = tuple(map(_line, found.results))
    rows_said = found.results[0].rows
    caption = (
        f"{rows_said} validation rows of each task, one seed; intervals over rows (bootstrap; Wilson's for shares); "
        "a guess looks at no input."
    )
    base = f"{found.base_parameters / 1e6:.1f}"
    words = (
        f"One base of {base} million frozen parameters, three experts: {found.training_seconds:.0f} s of training, "
        f"{found.seconds:.0f} s in all, {found.threads} threads.",
    )
    return Section("scores", "How well", words, parts=(Table(caption, headers, rows, words=3),))


def _line(result: "Result") -> tuple[str, ...]:
    return (
        result.task,
        result.kind.replace("_", " "),
        result.metric,
        scored(result.metric, result.expert),
        scored(result.metric, result.guess),
        share(result.recognised),
        f"{result.trained_parameters:,}",
    )


def _next(found: "Minute") -> Section:
    return Section("next", "Where to go next", notes=tuple(commands(found.out)))


def commands(out: str) -> list[str]:
    """Commands that work with what the demo left in `out`."""
    experts, mixture = f"{out}/experts", f"{out}/mixture"
    first = "" if Path(OWN).is_file() else "weft init && "
    return [
        f'weft predict {experts}/demo_entities "a parcel for rose was left by old robin ."',
        f'weft predict {mixture} --task auto "wren sold jay the lamp ."',
        f"weft evaluate {experts}/demo_spans",
        f"weft report {out} --out {out}/report    (a page with every mistake)",
        f"weft mix {experts} --mixture early_pass --set training.max_steps=40 --out {out}/gates",
        f"{first}weft train {OWN}    (rows of your own: put your files in its place)",
    ]
