"""`weft.judge`: written answers by lexical metrics and by judges, and whether the two say the same."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from weft.answering.metrics import metrics as metric_files
from weft.atomic import make_folder, write_text
from weft.config import validate
from weft.judging import agreement as agree
from weft.judging.asking import Asking, Progress
from weft.judging.document import document
from weft.judging.found import Agreement, Judged, Judging, Lexical
from weft.judging.judges import judges as judge_files
from weft.judging.judges.contract import Judge
from weft.judging.protocols import protocols
from weft.judging.protocols.contract import CRITERIA, Protocol, Verdict
from weft.judging.rows import Rows, Texts, rows_of
from weft.judging.trust import tried
from weft.reporting.writers import to_json, to_markdown
from weft.scoped import tell
from weft.tasks.scoring import LEVEL, Score, counts_of_resamples, interval, share

RESAMPLES, RESAMPLES_OF_ROWS = 10_000, 1000
MARGIN = 0.01
"""Difference of a metric up to which a row is a tie by it, where verdicts are compared: a point of percent."""
VALUES, TEXT, ANSWERS = "judging.json", "judging.md", "answers.jsonl"


def judge(
    candidates: Texts,
    references: Texts,
    *,
    against: Texts | None = None,
    questions: Texts | None = None,
    metrics: Sequence[str] | None = None,
    judges: Sequence[Mapping[str, Any] | Judge] = (),
    protocol: str | None = None,
    criteria: str = CRITERIA,
    columns: Mapping[str, str] | None = None,
    out: str | Path | None = None,
    resamples: int = RESAMPLES,
    margin: float = MARGIN,
    seed: int = 0,
    progress: Progress | None = None,
) -> Judging:
    """Evaluate written answers on two tracks and say where the tracks part.

    Lexical gains are not usefulness: a metric and a judge may prefer different systems. Every judge is tried on
    references first, and refused where it cannot tell one from its own words in disorder.

    Args:
        candidates: What a system wrote: texts, or a file of rows.
        references: What people wrote, for the same rows.
        against: What another system wrote; then everything is a difference, candidates minus these.
        questions: What was asked, for judges; metrics do not look at it.
        metrics: Files of `answering/metrics/`; None is all of them.
        judges: Each a judge's settings with its `name`, a file of `judging/judges/`:
            `{"name": "server", "url": ..., "model": ...}`, `{"name": "local", "base": "smollm2"}`.
        protocol: A file of `judging/protocols/`; None is pairwise for two systems, rubric for one.
        criteria: What judges are told to look at.
        columns: The column that holds a role's texts, by role (candidates, references, against, questions); default
            `text`.
        out: Folder for `judging.json`, `judging.md` and every answer of a judge, by which the same call goes on where
            it stopped; None writes nothing.
        resamples: Bootstrap resamples; statistics of rows take a thousand of them at most.
        margin: Difference of a metric, 0 to 1, up to which a row is a tie by it.
        seed: Of resamples, and of the rows that judges are tried on.
        progress: Told how far a judge is.

    Raises:
        KeyError: If there is no such metric, judge or protocol.
        ValueError: If rows do not match, a judge is refused, or it answers outside its scale.
        OSError: If a judge does not answer.
    """
    folder = None if out is None else Path(out)
    if folder is not None and folder.is_file():
        raise ValueError(f"{folder} is a file; give a folder to write to")
    given = {"against": against, "questions": questions}
    rows = rows_of({"candidates": candidates, "references": references, **given}, columns)
    measures = {name: metric_files.load(name) for name in metrics or metric_files.names()}
    how = _protocol(protocol, two=rows.against is not None)
    path = None if folder is None else folder / ANSWERS
    asked = [Asking(_made(one), path, progress) for one in judges]
    names = _names([one.judge for one in asked])
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    # All of them before any is asked at length.
    trust = [tried(one, how, criteria, rows, seed) for one in asked]
    lexical = [
        found
        for name, measure in measures.items()
        for found in _lexical(name, measure(), rows, resamples, seed)
    ]
    judged = []
    for name, one, own in zip(names, asked, trust, strict=True):
        verdicts = _verdicts(one, how, criteria, rows)
        description = {
            **one.judge.description,
            "protocol": protocol_name(how),
            "criteria": criteria,
        }
        rated = _rated(verdicts, two=rows.against is not None, resamples=resamples, seed=seed)
        judged.append(Judged(name, description, own, **rated))
    found = Judging(
        rows.ids,
        tuple(lexical),
        tuple(judged),
        tuple(
            _agreement(
                rows, one, other, margin, resamples=min(resamples, RESAMPLES_OF_ROWS), seed=seed
            )
            for one in lexical
            for other in judged
        ),
        _alpha(judged),
        tuple(float(_words(texts).mean()) for texts in _systems(rows)),
        {"seed": seed, "resamples": resamples, "margin": margin},
    )
    if folder is not None:
        make_folder(folder)
        said = document(found)
        write_text(folder / VALUES, to_json(said))
        write_text(folder / TEXT, to_markdown(said))
    return found


def protocol_name(protocol: Protocol) -> str:
    """Its file's."""
    return type(protocol).__module__.rpartition(".")[2]


def _protocol(name: str | None, *, two: bool) -> Protocol:
    found = protocols.load(name or ("pairwise" if two else "rubric"))()
    if found.compares and not two:
        raise ValueError(
            f"protocol {name} compares two systems; give the other's answers as `against`, or take rubric"
        )
    return found


def _made(given: Mapping[str, Any] | Judge) -> Judge:
    if isinstance(given, Judge):
        return given
    values = dict(given)
    name = values.pop("name", None)
    if not isinstance(name, str):
        raise ValueError(
            f"judge {dict(given)!r:.120}: expected a `name`: {', '.join(judge_files.names())}"
        )
    kind = judge_files.load(name)
    return kind(validate(kind.spec_type, values, f"judge {name}"))


def _names(judges: Sequence[Judge]) -> list[str]:
    found: list[str] = []
    for one in judges:
        own = one.description
        name = str(own.get("model") or own.get("base") or own["judge"])
        if name in found:
            raise ValueError(f"two judges are {name}; give each once")
        found.append(name)
    return found


def _systems(rows: Rows) -> list[tuple[str, ...]]:
    return [rows.candidates, *([] if rows.against is None else [rows.against])]


def _words(texts: Sequence[str]) -> np.ndarray:
    return np.array([len(text.split()) for text in texts], dtype=np.float64)


def _lexical(name: str, metric: Any, rows: Rows, resamples: int, seed: int) -> list[Lexical]:
    tell(f"measuring {name}")
    own, *others = (metric.measure(texts, rows.references) for texts in _systems(rows))
    found = []
    for score, mine in own.items():
        both = [mine, *(other[score] for other in others)]
        drawn = [
            np.concatenate(
                [one.drawn(counts) for counts in counts_of_resamples(len(rows), resamples, seed)]
            )
            for one in both
        ]
        values = [
            interval(one.corpus(), many, LEVEL) for one, many in zip(both, drawn, strict=True)
        ]
        if others:
            apart = interval(values[0].value - values[1].value, drawn[0] - drawn[1], LEVEL)
            by_row = mine.rows - both[1].rows
            found.append(Lexical(score, mine.signature, values[0], values[1], apart, by_row))
        else:
            found.append(Lexical(score, mine.signature, values[0], None, None, mine.rows))
    return found


def _verdicts(asking: Asking, protocol: Protocol, criteria: str, rows: Rows) -> list[Verdict]:
    prompts = [
        protocol.prompts(criteria, rows.question(at), texts)
        for at, texts in enumerate(zip(*_systems(rows), strict=True))
    ]
    flat = [prompt for own in prompts for prompt in own]
    said = iter(asking.answers(flat, protocol.options, "judging"))
    return [protocol.verdict([next(said) for _ in own]) for own in prompts]


def _rated(verdicts: Sequence[Verdict], *, two: bool, resamples: int, seed: int) -> dict[str, Any]:
    values = np.array([one.difference for one in verdicts])
    points = np.array([one.points for one in verdicts])
    orders = [one.consistent for one in verdicts if one.consistent is not None]

    def drawn(column: np.ndarray) -> Score:
        return agree.drawn_mean(column, resamples, seed)

    found: dict[str, Any] = {
        "rows": values,
        "difference": drawn(values),
        "points": tuple(drawn(column) for column in points.T),
        "consistency": share(sum(orders), len(orders)) if orders else None,
        **dict.fromkeys(("wins", "ties", "losses", "win_rate", "p")),
    }
    if two:
        wins, losses = int((values > 0).sum()), int((values < 0).sum())
        won = agree.win_shares(values)
        found |= {"wins": wins, "losses": losses, "ties": len(values) - wins - losses}
        found |= {"win_rate": drawn(won), "p": agree.sign_test(wins, losses)}
    return found


def _agreement(
    rows: Rows, lexical: Lexical, judged: Judged, margin: float, *, resamples: int, seed: int
) -> Agreement:
    tell(f"how far {lexical.name} and {judged.name} agree")
    a, j = lexical.rows, judged.rows
    lengths = [_words(texts) for texts in _systems(rows)]
    two = len(lengths) > 1
    length = lengths[0] - lengths[1] if two else lengths[0]
    ways = agree.verdicts(a, margin), agree.verdicts(j, 0.0)
    apart = cast(Score, lexical.difference)
    drawn = partial(agree.drawn, resamples=resamples, seed=seed)
    return Agreement(
        lexical.name,
        judged.name,
        agree.sign_agreement(a, j) if two else None,
        drawn(agree.kendall, a, j),
        drawn(agree.spearman, a, j),
        drawn(agree.partial_spearman, a, j, length),
        drawn(agree.kappa, *ways) if two else None,
        agree.flag(apart, judged.difference) if two else None,
    )


def _alpha(judged: Sequence[Judged]) -> float | None:
    if len(judged) < 2:
        return None
    alpha = agree.krippendorff(
        [np.sign(one.rows) if one.wins is not None else one.rows for one in judged]
    )
    return None if np.isnan(alpha) else alpha
