"""How far the expert moves each token, by layer and by what the token is.

    |h' - h| / |h|, and the cosine of h' and h

Of the same token under base (h) and expert (h'), as Merchant et al. 2020, arXiv:2004.14448, compare layers of a model
before and after fine-tuning.
"""

from typing import Any, ClassVar

from weft.analysis.figures import Line, Words, cells, lines
from weft.analysis.intervals import jackknife
from weft.analysis.measures.geometry import moved
from weft.analysis.questions.contract import Answer, Needs, Number, Question
from weft.analysis.study import Study
from weft.analysis.subjects import Subject, owner
from weft.analysis.tagged import means
from weft.analysis.texts import Corpus, NotAtHandError
from weft.reporting.document import Figure
from weft.tasks.scoring import Score


class Displacement(Question):
    """Which tokens move."""

    asks: ClassVar[str] = "Which tokens does the expert move, and in which layers?"
    reading: ClassVar[str] = (
        "0 % means that a token's state is where the base has it, 100 % that it moved as far as it was from the "
        "origin. Cells are means over the tokens of a part of speech, or of a label of the expert's own task, at the "
        "last layer. Intervals are jackknife intervals over sentences; tags whose intervals do not overlap are moved "
        "differently."
    )
    chance: ClassVar[str] = (
        "a random adapter of the same maps, ranks and norms on the same tokens: it moves them about as far as its "
        "size, and all tags alike."
        "size, and all tags alike."
    )
    needs: ClassVar[Needs] = "rows"

    def answer(self, study: Study) -> Answer:
        rows: list[dict[str, Any]] = []
        numbers, drawn, words = [], [], []
        by_tag: dict[str, dict[tuple[str, str], float]] = {}
        notes: list[str] = []
        for subject in study.subjects:
            for corpus in _read(study, subject, notes):
                before, after = study.states(corpus, None), study.states(corpus, subject)
                twin = study.twin_states(corpus, subject)
                far, turned = zip(*map(moved, before, after), strict=True)
                level = (
                    [moved(x, y)[0] for x, y in zip(before, twin, strict=True)] if twin else None
                )
                place = {**owner(subject), "read": corpus.name}
                for layer, own in enumerate(far):
                    chance = 100 * level[layer].mean().item() if level else None
                    mean = 100 * own.mean().item()
                    rows.append(
                        place
                        | _row(layer, "", "every token", Score(mean, mean, mean), len(own))
                        | {"cosine": turned[layer].mean().item(), "by chance": chance}
                    )
                for kind, tags in corpus.tags.items():
                    if kind == "relation":
                        continue
                    found = means(100 * far[-1], tags, corpus.sentence)
                    cosines = means(turned[-1], tags, corpus.sentence)
                    levels = means(100 * level[-1], tags, corpus.sentence) if level else {}
                    for tag, score in found.items():
                        chance = levels[tag].value if tag in levels else None
                        rows.append(
                            place
                            | _row(len(far) - 1, kind, tag, score, tags.count(tag))
                            | {"cosine": cosines[tag].value, "by chance": chance}
                        )
                        by_tag.setdefault(kind, {})[subject.name, tag] = score.value
                    words.append(_verdict(subject.name, kind, found))
                last, own_level = far[-1], level
                score = jackknife(
                    lambda kept, last=last: 100 * last[kept].mean().item(), corpus.sentence
                )
                numbers.append(
                    Number(
                        subject.name,
                        f"displacement at the last layer on {corpus.name} (%)",
                        score,
                        100 * own_level[-1].mean().item() if own_level else None,
                    )
                )
                if corpus is study.common(subject):
                    drawn.append(_line(subject.name, far))
                    if level:
                        drawn.append(_line("chance", level, chance=True))
        figure = Words(
            "displacement",
            "How far tokens are moved",
            "layer (0: embeddings)",
            "displacement (% of the state)",
            "Mean distance of a token's state under the expert from its state in the base, by layer; dotted: chance.",
        )
        heats = [_heat(kind, found) for kind, found in by_tag.items()]
        return Answer(
            tuple(words),
            tuple(numbers),
            tuple(rows),
            (lines(figure, study.seeds.lines(drawn)), *heats),
            notes=tuple(notes),
        )


def _read(study: Study, subject: Subject, notes: list[str]) -> list[Corpus]:
    """What all read, and the rows of the expert's own task where these are at hand."""
    common = study.common(subject)
    if not study.has_trees:
        return [common]
    try:
        own = study.rows(subject)
    except NotAtHandError as error:
        notes.append(f"{subject.name} was not asked on rows of its own task: {error}")
        return [common]
    return [common, own]


def _row(layer: int, kind: str, tag: str, score: Score, count: int) -> dict[str, Any]:
    return {
        "layer": layer,
        "tagged by": kind,
        "tag": tag,
        "tokens": count,
        "displacement": score.value,
        "low": score.low,
        "high": score.high,
    }


def _line(name: str, far: Any, *, chance: bool = False) -> Line:
    points = tuple((float(at), 100 * own.mean().item()) for at, own in enumerate(far))
    return Line(name, points, chance)


def _verdict(name: str, kind: str, found: dict[str, Score]) -> str:
    if len(found) < 2:
        return f"{name}: too few tokens have a {kind} to compare them."
    most, least = max(found, key=lambda t: found[t].value), min(found, key=lambda t: found[t].value)
    apart = found[most].low > found[least].high
    beyond = "beyond chance" if apart else "but their intervals overlap"
    return f"{name} moves {most} most and {least} least by {kind}, {beyond}."


def _heat(kind: str, found: dict[tuple[str, str], float]) -> Figure:
    words = Words(
        f"displacement-{kind.replace(' ', '-')}",
        f"Displacement at the last layer (%) by {kind}",
        kind,
        "expert",
        f"How far tokens of each {kind} are moved at the last layer, % of the state; empty: too few such tokens.",
    )
    rows, columns = (list(dict.fromkeys(place[at] for place in found)) for at in (0, 1))
    return cells(words, rows, columns, found)
