"""Whether the syntax tree is in the space: structural probes of distance and of depth.

    |P (h_i - h_j)|^2 = edges between words i and j,    |P h_i|^2 = edges from word i to the root

Hewitt and Manning 2019, aclanthology.org/N19-1419. Four numbers: the share of the tree's edges that the spanning tree
of predicted distances has (UUAS), Spearman's correlation of distances (DSpr) and of depths (NSpr), and how often the
least deep word is the root. Punctuation does not count in the first and the last.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from weft.analysis.figures import Line, Words, lines
from weft.analysis.measures.probes import structural
from weft.analysis.measures.probes.structural import Agreement, Parse
from weft.analysis.measures.probes.trees import mean_by_length
from weft.analysis.probing.readers import (
    BASE,
    SEEDS,
    UNTRAINED,
    Statistic,
    differences,
    readers,
    said_of,
    verdict,
)
from weft.analysis.questions.contract import Answer, Needs, Number, Question
from weft.analysis.study import Reader, Study
from weft.analysis.texts import Sentence
from weft.scoped import tell

LAYERS = 4
"""Of which probes are trained: evenly apart, from the embeddings to the last."""
MEASURES = ("UUAS", "DSpr", "root accuracy", "NSpr")


class Structure(Question):
    """Syntax."""

    asks: ClassVar[str] = "Is the syntax tree still in the space?"
    reading: ClassVar[str] = (
        "The line is the share of the tree's edges that a linear map of the states finds, by layer. Numbers are the "
        "expert's less the base's, with the same probe, over three trainings: at the last layer, and at the one where "
        "the base has most edges, whose own numbers are there to compare. UUAS and root accuracy are in percentage "
        "points, correlations times 100. Intervals are over probes and sentences together: one that holds 0 shows no "
        "change."
    )
    chance: ClassVar[str] = (
        "the same probe on the same architecture with weights that were drawn, less the base's: what is found there, "
        "the probe learned by itself."
    )
    needs: ClassVar[Needs] = "trees"

    def answer(self, study: Study) -> Answer:
        both = [_parses(sentences) for _, sentences in (study.parsed_training, study.parsed)]
        lengths = torch.tensor([len(parse.heads) for parse in both[1]])
        rows: list[dict[str, Any]] = []
        found: dict[int, dict[str, dict[str, list[Statistic]]]] = {}
        curves: dict[str, dict[int, list[float]]] = {}
        every = torch.ones(len(lengths), dtype=torch.bool)
        for name, reader in readers(study).items():
            for seed in range(SEEDS):
                tell(f"structural probes of {name}", seed, SEEDS)
                for layer, agreement in _probed(study, reader, both, seed).items():
                    own = _statistics(agreement, lengths)
                    values = {what: own[what](every) for what in MEASURES}
                    place = {**said_of(name, reader), "layer": layer, "probe seed": seed}
                    rows.append({**place, **values, "sentences": len(lengths)})
                    curves.setdefault(name, {}).setdefault(layer, []).append(values["UUAS"])
                    for what in MEASURES:
                        at = found.setdefault(layer, {}).setdefault(what, {})
                        at.setdefault(name, []).append(own[what])
        numbers, words = [], []
        base = curves[BASE]
        best = max(base, key=lambda layer: sum(base[layer]))
        for layer in dict.fromkeys((best, max(base))):
            for what in MEASURES:
                scores = differences(found[layer][what], torch.arange(len(lengths)), scale=100)
                level, own = scores.pop(UNTRAINED).value, scores.pop(BASE)
                said = f"{what} at layer {layer}"
                numbers.append(Number(BASE, f"{said} (0 to 100)", own, own.value + level))
                for name, score in scores.items():
                    numbers.append(Number(name, f"{said}, less the base's", score, level))
                    if what == "UUAS":
                        words.append(
                            f"{name}: {score.value:+.3g} points of the tree's edges at layer {layer}, {verdict(score)} "
                            f"(base: {own.value:.3g})."
                        )
        figure = Words(
            "structure",
            "The syntax tree in the space",
            "layer (0: embeddings)",
            "UUAS (0 to 1)",
            "Share of the syntax tree's edges that a structural probe finds, by layer, mean over probes; dotted: an "
            "untrained encoder.",
        )
        drawn = [
            Line(
                name,
                tuple((float(layer), sum(own) / len(own)) for layer, own in curve.items()),
                chance=name == UNTRAINED,
            )
            for name, curve in curves.items()
        ]
        return Answer(tuple(words), tuple(numbers), tuple(rows), (lines(figure, drawn),))


def _parses(sentences: Sequence[Sentence]) -> list[Parse]:
    return [Parse(one.heads, tuple(tag != "PUNCT" for tag in one.tags)) for one in sentences]


def _probed(
    study: Study, reader: Reader, both: Sequence[Sequence[Parse]], seed: int
) -> dict[int, Agreement]:
    """How one probe of each layer does on the sentences that it was not trained on."""
    train, held = (study.states(own, reader) for own in (study.parsed_training[0], study.parsed[0]))
    count = min(LAYERS, len(train))
    layers = sorted({round(at * (len(train) - 1) / max(1, count - 1)) for at in range(count)})
    probe = structural.train(
        torch.stack([train[at] for at in layers]), both[0], seed=study.seed + seed
    )
    states = torch.stack([held[at] for at in layers])
    return dict(zip(layers, structural.agreements(probe, states, both[1]), strict=True))


def _statistics(own: Agreement, lengths: torch.Tensor) -> dict[str, Statistic]:
    return {
        "UUAS": lambda kept: (own.right[kept].sum() / own.edges[kept].sum()).item(),
        "DSpr": lambda kept: mean_by_length(own.dspr[kept], lengths[kept]),
        "root accuracy": lambda kept: own.root[kept].nanmean().item(),
        "NSpr": lambda kept: mean_by_length(own.nspr[kept], lengths[kept]),
    }
