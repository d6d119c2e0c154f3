"""In which layer a task is decided: the expert's own head on the states of every layer, the logit lens.

    head(norm(h_l)), l = 0 (embeddings), 1, ..., L

nostalgebraist 2020, https://www.lesswrong.com/posts/AcKRB8wDpdaN6v6ru, with the task's head in place of the
vocabulary's. A norm that the trunk has after its last layer is put before the head at every layer.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor

from weft.analysis.figures import Line, Words, lines
from weft.analysis.intervals import Number, jackknife
from weft.analysis.measures.decisions import alike, drift, settled
from weft.analysis.questions.contract import Answer, Needs, Question
from weft.analysis.reading.lens import decisions, head_of, last_norm, logits_by_layer
from weft.analysis.study import Study
from weft.analysis.subjects import owner
from weft.analysis.tagged import means
from weft.analysis.texts import Corpus, NotAtHandError


class Lens(Question):
    """Where it is decided."""

    asks: ClassVar[str] = "In which layer is the task decided?"
    reading: ClassVar[str] = (
        "The line is how far the answers of the expert's head on the states of a layer agree with its answers on the "
        "last, beyond what their frequencies give (Cohen's kappa, 1 is the same). The number is the first layer from "
        "which an answer stays, mean over answers, of tokens those but the most frequent class; its jackknife interval "
        "is over sequences. The head was trained on the last layer alone, so a layer may know what it cannot read. "
        "Tasks whose heads answer whole sequences are left out."
    )
    chance: ClassVar[str] = "the same head over a random adapter of the same maps, ranks and norms."
    needs: ClassVar[Needs] = "rows"

    def answer(self, study: Study) -> Answer:
        rows: list[dict[str, Any]] = []
        numbers, drawn, words = [], [], []
        for subject in study.subjects:
            head = head_of(subject)
            if head is None:
                continue
            corpus, kind = study.rows(subject), head.kind_name
            norm = last_norm(study, subject, corpus)
            logits = logits_by_layer(head, study.states(corpus, subject), norm)
            said = torch.stack([decisions(kind, own, corpus.sentence) for own in logits])
            twin = study.twin_states(corpus, subject)
            by_chance = None
            if twin is not None:
                drawn_logits = logits_by_layer(head, twin, norm)
                by_chance = torch.stack(
                    [decisions(kind, own, corpus.sentence) for own in drawn_logits]
                )
            sequence, kept = _items(kind, corpus, said[-1])
            first = settled(said).double()
            score = jackknife(
                lambda own, first=first[kept]: first[own].mean().item(), sequence[kept]
            )
            level = None
            if by_chance is not None:
                theirs = _items(kind, corpus, by_chance[-1])[1]
                level = settled(by_chance)[theirs].double().mean().item()
            what = f"layer from which an answer stays (0 embeddings, {len(said) - 1} last)"
            numbers.append(Number(subject.name, what, score, level))
            words.append(
                f"{subject.name}: answers stay from layer {score.value:.2g} of {len(said) - 1} on average."
            )
            far = drift(logits)
            for layer, own in enumerate(said):
                rows.append(
                    {
                        **owner(subject),
                        "read": corpus.name,
                        "layer": layer,
                        "tag": "",
                        "kappa with the last": alike(own, said[-1]),
                        "kappa by chance": None
                        if by_chance is None
                        else alike(by_chance[layer], by_chance[-1]),
                        "divergence from the last (nats)": far[layer],
                        "settled at": None,
                    }
                )
            rows += _by_tag(rows[-1], corpus, first)
            own = [row for row in rows if row["expert"] == subject.name and not row["tag"]]
            points = tuple((float(row["layer"]), row["kappa with the last"]) for row in own)
            drawn.append(Line(subject.name, points))
            if by_chance is not None:
                chance = tuple((float(row["layer"]), row["kappa by chance"]) for row in own)
                drawn.append(Line("chance", chance, chance=True))
        if not rows:
            raise NotAtHandError("no expert's head answers token by token")
        figure = Words(
            "lens",
            "Agreement with the answers of the last layer",
            "layer (0: embeddings)",
            "Cohen's kappa",
            "How far the expert's head on a layer's states answers as on the last one's; dotted: a random adapter.",
        )
        found = (lines(figure, study.seeds.lines(drawn)),)
        return Answer(tuple(words), tuple(numbers), tuple(rows), found)


def _items(kind: str, corpus: Corpus, last: Tensor) -> tuple[Tensor, Tensor]:
    """Each decision's sequence, and which decisions count: of classes not the most frequent, which is decided first."""
    if kind != "token_classification":
        return torch.arange(len(corpus.units)).repeat_interleave(2), torch.ones_like(last).bool()
    rare = last != last.mode().values
    return corpus.sentence, rare if bool(rare.any()) else torch.ones_like(rare)


def _by_tag(like: dict[str, Any], corpus: Corpus, first: Tensor) -> list[dict[str, Any]]:
    """The layer from which answers stay by the task's labels."""
    if len(first) != len(corpus):
        return []
    blank = dict.fromkeys(
        ("layer", "kappa with the last", "kappa by chance", "divergence from the last (nats)")
    )
    return [
        {**like, **blank, "tag": tag, "settled at": score.value}
        for tags in corpus.tags.values()
        for tag, score in means(first, tags, corpus.sentence).items()
    ]
