"""Whether the base's own masked language model still knows words: its head on the expert's states.

    -log p(w | sentence without w), and whether w is the likeliest, over masked words

The task that BERT-like bases were trained for (Devlin et al. 2018, arXiv:1810.04805, section 3.1), with the head of
their checkpoint; where it has none, nothing stands in for it.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from weft.analysis.figures import Words, cells
from weft.analysis.intervals import Number, jackknife
from weft.analysis.questions.contract import Answer, Needs, Question
from weft.analysis.reading.masked import masked, own_head, surprise
from weft.analysis.study import Study
from weft.analysis.subjects import owner
from weft.analysis.tagged import frequent
from weft.analysis.texts import Corpus

MEASURED = {"surprise (nats)": (0, 1.0), "accuracy (%)": (1, 100.0)}
"""What is told of `surprise`, by its place, and its unit."""


class MaskedWords(Question):
    """Whether words are still known."""

    asks: ClassVar[str] = "Does the base's own head still find masked words?"
    reading: ClassVar[str] = (
        "Accuracy is how often the likeliest token is the one that was masked, in percent; surprise its negative "
        "log-likelihood in nats. Numbers are the expert's less the base's on the same masks, with a jackknife interval "
        "over sentences: surprise that rises is forgetting. The rows have every part of speech or label of its own."
    )
    chance: ClassVar[str] = "a random adapter of the same maps, ranks and norms."
    needs: ClassVar[Needs] = "rows"

    def answer(self, study: Study) -> Answer:
        head = own_head(study).to(next(study.model.trunk.parameters()).device)
        rows: list[dict[str, Any]] = []
        numbers, words = [], []
        texts = {}
        for subject in study.subjects:
            corpus = study.common(subject)
            if corpus.name not in texts:
                texts[corpus.name] = masked(corpus, study)
            hidden, wanted = texts[corpus.name]
            before = surprise(head, study.states(hidden, None)[-1], wanted)
            after = surprise(head, study.states(hidden, subject)[-1], wanted)
            twin = study.twin_states(hidden, subject)
            chance = None if twin is None else surprise(head, twin[-1], wanted)
            for what, (at, scale) in MEASURED.items():
                x, y = before[at], after[at]
                score = jackknife(
                    lambda kept, x=x, y=y, s=scale: s * (y[kept] - x[kept]).mean().item(),
                    hidden.sentence,
                )
                level = None if chance is None else scale * (chance[at] - x).mean().item()
                numbers.append(Number(subject.name, f"{what}, expert - base", score, level))
            how = "knows no less" if numbers[-2].score.low <= 0 else "knows less"
            words.append(
                f"{subject.name}: {100 * after[1].mean():.3g} % of masked words, the base "
                f"{100 * before[1].mean():.3g} %; by its surprise it {how}."
            )
            own = {"base": before, "adapted": after}
            if chance is not None:
                own["by chance"] = chance
            rows += _rows({**owner(subject), "read": hidden.name}, hidden, own)
        figure = Words(
            "masked-words",
            "Accuracy on masked words (%)",
            "",
            "expert",
            "How often the base's own head finds the masked token, under the base and under each expert.",
        )
        values = {
            (row["expert"], side): row[f"accuracy (%), {side}"]
            for row in rows
            if not row["tagged by"]
            for side in ("base", "adapted")
        }
        sides = list(dict.fromkeys(name for name, _ in values)), ["base", "adapted"]
        return Answer(tuple(words), tuple(numbers), tuple(rows), (cells(figure, *sides, values),))


def _rows(
    place: dict[str, Any], hidden: Corpus, sides: Mapping[str, tuple[Tensor, Tensor]]
) -> list[dict[str, Any]]:
    """Means over all masked words, and over those of each frequent tag."""
    groups: list[tuple[str, str, Tensor]] = [("", "", torch.ones(len(hidden), dtype=torch.bool))]
    for kind, tags in hidden.tags.items():
        groups += [(kind, tag, torch.tensor([o == tag for o in tags])) for tag in frequent(tags)]
    return [
        {**place, "tagged by": kind, "tag": tag, "words": int(own.sum())}
        | {
            f"{what}, {side}": scale * sides[side][at][own].mean().item() if side in sides else None
            for side in ("base", "adapted", "by chance")
            for what, (at, scale) in MEASURED.items()
        }
        for kind, tag, own in groups
    ]
