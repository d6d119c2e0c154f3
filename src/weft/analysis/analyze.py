"""`weft.analyze`: questions put to experts, and one report of the answers."""

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch

from weft.analysis.intervals import Number
from weft.analysis.keeping import fingerprint, keep, kept
from weft.analysis.notes import Notes
from weft.analysis.questions import questions
from weft.analysis.questions.contract import Answer, Needs, Question, section
from weft.analysis.seeds import Seeds
from weft.analysis.study import Study
from weft.analysis.subjects import Found, find, read
from weft.analysis.texts import TREEBANK, NotAtHandError
from weft.atomic import make_folder, write_text
from weft.registry import unknown
from weft.reporting.document import Document, Section, Table
from weft.reporting.numbers import counted
from weft.reporting.writers import write
from weft.scoped import tell
from weft.storage.loading import DEVICES, available_device

VALUES = "analysis.json"
TABLES = "tables"
"""The folder of the CSV files."""
_TRAINS = "it trains for minutes to hours; ask it by its name"
Progress = Callable[[int, int, str], None]
"""Called with questions answered, questions in all, and the one that begins."""


@dataclass(frozen=True)
class Analysis:
    """What was found, and where it was written."""

    document: Document
    files: tuple[Path, ...]

    @property
    def values(self) -> dict[str, Any]:
        """The numbers behind it, unrounded: `experts`, and by question `numbers` and `rows`."""
        return self.document.values


def analyze(
    runs: Sequence[str | Path],
    questions: Sequence[str] | None = None,
    *,
    out: str | Path,
    data: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
) -> Analysis:
    """Ask questions of experts on one base, and write one report of the answers.

    Every finished question is kept in `out`; the same call goes on where it stopped, and asks again only what depends
    on something that has changed.

    Args:
        runs: Run folders of experts, merges, full training or mixtures, all on one base.
        questions: Files of `analysis/questions/`; None asks all that can be answered but those that train, and says of
            the others why not.
        out: Folder for the page, the Markdown, JSON, tables as CSV and figures.
        data: Folder with `ud_ewt/` (trees and parts of speech), and a sub-folder for each task; None takes each run's
            own data.
        seed: Of every draw.
        device: auto, cpu, cuda or mps.
        progress: Told which question begins.

    Raises:
        KeyError: If there is no such question.
        ValueError: If a run holds nothing to analyse, runs stand on different bases, or a question that was named needs
            what is not there; nothing long has begun then.
    """
    folder = Path(out)
    if folder.is_file():
        raise ValueError(f"{folder} is a file; give a folder to write to")
    if device not in DEVICES:
        raise ValueError(f"device: {unknown('device', device, DEVICES)}")
    root = None if data is None else Path(data)
    if root is not None and not root.is_dir():
        raise ValueError(
            f"{root} is no folder; give the one that has {TREEBANK}/ or the tasks' data"
        )
    found = find(runs)
    chosen, left = chosen_of(questions, found, root)
    mark = fingerprint(found, root, seed)
    answers = {name: kept(folder, name, mark) for name in chosen}
    study: Study | None = None
    for at, (name, question) in enumerate(chosen.items()):
        if answers[name] is not None:
            continue
        if progress is not None:
            progress(at, len(chosen), name)
        tell(f"asking {name}")
        if study is None:
            where = torch.device(available_device() if device == "auto" else device)
            study = Study(*read(found, where), root, seed, Notes(folder, mark))
        try:
            answers[name] = answer = question().answer(study)
        except NotAtHandError as error:
            if questions is not None:
                raise
            left[name] = str(error)
            continue
        keep(folder, name, mark, answer)
    if progress is not None:
        progress(len(chosen), len(chosen), "writing")
    given = {name: answer for name, answer in answers.items() if answer is not None}
    return _written(
        folder, document(found, {n: (chosen[n], a) for n, a in given.items()}, left), given
    )


def chosen_of(
    names: Sequence[str] | None, found: Sequence[Found], data: Path | None
) -> tuple[dict[str, type[Question]], dict[str, str]]:
    """The questions that are asked, and why others are not."""
    asked = list(dict.fromkeys(names)) if names is not None else questions.names()
    if not asked:
        raise ValueError(f"no question; known: {', '.join(questions.names())}")
    kinds = {name: questions.load(name) for name in asked}
    if names is None:
        order = get_args(Needs)
        kinds = dict(sorted(kinds.items(), key=lambda item: order.index(item[1].needs)))
    left = {name: why for name, kind in kinds.items() if (why := _missing(kind, found, data))}
    if names is None:
        left |= {name: _TRAINS for name, kind in kinds.items() if kind.needs == "training"}
    if names is not None and left:
        raise ValueError("; ".join(f"question {name}: {why}" for name, why in left.items()))
    return {name: kind for name, kind in kinds.items() if name not in left}, left


def _missing(question: type[Question], found: Sequence[Found], data: Path | None) -> str:
    """Why a question cannot be answered; empty where it can."""
    with_weights = sum(not one.mixes for one in found)
    if question.needs == "trees" and (data is None or not (data / TREEBANK).is_dir()):
        return f"it needs trees; give the folder that has {TREEBANK}/ as --data"
    if question.needs in ("weights", "training") and not with_weights:
        return "a mixture's change is another for every input; give its experts' runs"
    if question.needs == "pairs" and with_weights < 2:
        return "it compares experts; give the runs of at least two"
    if question.needs == "gates" and with_weights == len(found):
        return "it asks what gates say; give the run of a mixture"
    return ""


def document(
    found: Sequence[Found],
    answers: dict[str, tuple[type[Question], Answer]],
    left: dict[str, str],
) -> Document:
    """The report: who was asked, a section a question, and what was not asked."""
    names = ", ".join(one.name for one in found)
    experts = Table(
        "Who was asked.",
        ("expert", "task", "method", "seed", "base"),
        tuple(
            (one.name, one.task, one.method, str(one.folder.run.seed), one.card.base)
            for one in found
        ),
        words=3,
    )
    seeds = Seeds(found)
    said = tuple(f"{name}: {', '.join(own)}" for name, own in seeds.several.items())
    sections = [Section("experts", "Which experts?", words=said, parts=(experts,))]
    means = {name: seeds.numbers(answer.numbers) for name, (_, answer) in answers.items()}
    sections += [
        section(name, kind, replace(answer, numbers=means[name]))
        for name, (kind, answer) in answers.items()
    ]
    if left:
        notes = tuple(f"{name}: {why}" for name, why in left.items())
        sections.append(Section("not-asked", "What was not asked, and why", notes=notes))
    values = {
        "experts": [
            {
                "expert": one.name,
                "task": one.task,
                "method": one.method,
                "seed": one.folder.run.seed,
            }
            for one in found
        ],
        "questions": {
            name: {
                "asks": kind.asks,
                "numbers": [_values(number) for number in answer.numbers],
                "over_seeds": [_values(own) for own in means[name] if own.deviation is not None],
                "rows": list(answer.rows),
            }
            for name, (kind, answer) in answers.items()
        },
        "not_asked": left,
    }
    title = f"What {counted(len(found), 'expert')} did to {found[0].card.base}: {names}"
    return Document(title, tuple(sections), values)


def _values(number: Number) -> dict[str, Any]:
    ends = asdict(number.score).items()
    return {
        "of": number.of,
        "what": number.what,
        **{end: value if math.isfinite(value) else None for end, value in ends},
        "chance": number.chance,
        "deviation": number.deviation,
    }


def _written(folder: Path, found: Document, answers: dict[str, Answer]) -> Analysis:
    make_folder(folder / TABLES)
    files = write(found, folder, values=VALUES)
    for name, answer in answers.items():
        if answer.rows:
            path = folder / TABLES / f"{name}.csv"
            text = io.StringIO()
            writer = csv.DictWriter(text, list(answer.rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(answer.rows)
            write_text(path, text.getvalue())
            files.append(path)
    return Analysis(found, tuple(files))
