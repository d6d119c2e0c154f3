"""Which expert speaks where in a mixture: its gates by task, layer, kind of word and position.

    the mean over tokens of |g_e| / sum |g|, at every map

Where gates sum to 1 these are the gates themselves, as in Buehler and Buehler 2024, X-LoRA, arXiv:2402.07148, figure 3.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, ClassVar

import torch

from weft.analysis.figures import Line, Words, cells, lines
from weft.analysis.intervals import jackknife
from weft.analysis.layers import names_of
from weft.analysis.measures.gates import load
from weft.analysis.questions.contract import Answer, Needs, Number, Question
from weft.analysis.reading.gate_rows import by_map, by_position, by_tag
from weft.analysis.reading.gates import on_trees, said_by_gates
from weft.analysis.study import Study
from weft.reporting.document import Figure, distinct_names

DRAWN = 6
"""Tasks with a heat map, and mixtures with the other figures."""


class Gates(Question):
    """Who speaks where."""

    asks: ClassVar[str] = "Which expert speaks where in the mixture?"
    reading: ClassVar[str] = (
        "A share is how much of what all experts say at a token is one expert's, 0 to 1, mean over tokens. The heat "
        "maps have it by layer for the rows of each task, and by kind of word; the lines by a token's place in its "
        "sequence. The numbers are means over maps, with a jackknife interval over sequences. Experts that a mixture "
        "trained itself are numbered map by map: gate 0 of one map has nothing to do with gate 0 of another."
    )
    chance: ClassVar[str] = (
        "gates permuted over tokens: every task then gets each expert's mean over all tasks. An interval that holds it "
        "shows no preference."
    )
    needs: ClassVar[Needs] = "gates"

    def answer(self, study: Study) -> Answer:
        rows: list[dict[str, Any]] = []
        numbers, words = [], []
        figures: list[Figure] = []
        found = said_by_gates(study)
        everyone = [subject.name for said in found for subject in said.subjects]
        keys = dict(zip(everyone, distinct_names(everyone), strict=True))
        for number, said in enumerate(found):
            for at, subject in enumerate(said.subjects):
                own, sentence = said.over_maps(said.shares[at]), said.corpora[at].sentence
                chance = torch.stack([load(said.over_maps(o)) for o in said.shares])
                for expert, name in enumerate(said.names):
                    score = jackknife(
                        lambda kept, own=own, e=expert: load(own[kept])[e].item(), sentence
                    )
                    what = f"share of {name} on the rows of {subject.found.task} (0 to 1)"
                    level = chance.mean(0)[expert].item()
                    numbers.append(Number(subject.name, what, score, level))
                most = int(load(own).argmax())
                words.append(
                    f"{subject.name}: on {subject.found.task} {said.names[most]} speaks most, "
                    f"{load(own)[most].item():.2g} of all."
                )
                rows += (tasks := by_map(study, said, at))
                rows += by_tag(subject, said, said.corpora[at], own)
                rows += by_position(subject, said, said.corpora[at], own)
                if len(figures) < DRAWN:
                    figures.append(_layers(keys[subject.name], subject.name, tasks))
            trees = on_trees(study, said)
            if trees is not None:
                corpus, gates = trees
                own = said.over_maps(gates)
                rows += by_tag(said.subjects[0], said, corpus, own)
                rows += by_position(said.subjects[0], said, corpus, own)
            if number < DRAWN:
                names = [subject.name for subject in said.subjects]
                figures += _of_words(
                    keys[names[0]], said.name, [row for row in rows if row["expert"] in names]
                )
        return Answer(tuple(words), tuple(numbers), tuple(rows), tuple(figures))


def _layers(key: str, name: str, rows: Sequence[Mapping[str, Any]]) -> Figure:
    """The mean share by layer and expert on the rows of a task."""
    found: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        found.setdefault((f"layer {row['layer']}", row["gate"]), []).append(row["share"])
    values = {place: fmean(own) for place, own in found.items()}
    words = Words(
        f"gates-{key}",
        f"{name}: share of each expert",
        "expert",
        "layer",
        f"{name}: how much each expert speaks on the rows of the task, by layer, mean over maps and tokens.",
    )
    return cells(words, *names_of(values), values, limits=(0.0, 1.0))


def _of_words(key: str, name: str, rows: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """Shares by kind of word, and by place."""
    drawn: list[Figure] = []
    kinds = [row["by"] for row in rows if row["by"] not in ("task", "position")]
    for kind in dict.fromkeys(kinds):
        own = [row for row in rows if row["by"] == kind]
        values = {(row["group"], row["gate"]): row["share"] for row in own}
        tags, gates = (list(dict.fromkeys(place[at] for place in values)) for at in (0, 1))
        words = Words(
            f"gates-{key}-{kind.replace(' ', '-')}",
            f"{name}: share of each expert by {kind}",
            "expert",
            kind,
            f"{name}: how much each expert speaks by {kind}, mean over maps and tokens.",
        )
        drawn.append(cells(words, tags, gates, values, limits=(0.0, 1.0)))
    own = [row for row in rows if row["by"] == "position"]
    # The treebank's where there is one, which all mixtures read; it comes last.
    own = [row for row in own if row["read"] == own[-1]["read"]]
    words = Words(
        f"gates-{key}-position",
        f"{name}: share of each expert by position",
        "place in the sequence (0 is the first)",
        "share (0 to 1)",
        f"{name}: how much each expert speaks by a token's place in its sequence, mean over maps.",
    )
    by_gate: dict[str, list[tuple[float, float]]] = {}
    for row in own:
        by_gate.setdefault(row["gate"], []).append((float(row["group"]), row["share"]))
    if by_gate:
        drawn.append(lines(words, [Line(gate, tuple(at)) for gate, at in by_gate.items()]))
    return drawn
