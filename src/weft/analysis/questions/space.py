"""A map of the space to look at: the same tokens before and after, on the axes along which they were moved.

    the two leading principal axes of h' - h at the last layer, onto which h and h' are both projected

Pearson 1901, doi:10.1080/14786440109462720, on displacements: axes of the states themselves show what differs between
tokens anyway, these what the expert did.
"""

from typing import Any, ClassVar

import torch

from weft.analysis.figures import Cloud, Words, clouds
from weft.analysis.intervals import jackknife
from weft.analysis.measures.geometry import principal_axes
from weft.analysis.questions.contract import Answer, Needs, Number, Question
from weft.analysis.study import Study
from weft.analysis.subjects import owner
from weft.analysis.tagged import frequent
from weft.analysis.texts import Corpus
from weft.reporting.document import distinct_names

DRAWN = 6
"""Experts with a map."""
TAGS, POINTS = 6, 60
"""Tags in a map, and points of each."""


class Space(Question):
    """What it looks like."""

    asks: ClassVar[str] = "What does the space look like before and after?"
    reading: ClassVar[str] = (
        "Each point is a token, on the same two axes before and after: those along which the expert moved tokens most. "
        "Tags that part on the right and not on the left were parted by the expert. The number is the share of all "
        "displacement that these two axes hold; what they do not hold cannot be seen here. Its interval is over "
        "sentences."
    )
    chance: ClassVar[str] = "the share under a random adapter of the same maps, ranks and norms."
    needs: ClassVar[Needs] = "rows"

    def answer(self, study: Study) -> Answer:
        rows: list[dict[str, Any]] = []
        numbers, figures, words = [], [], []
        keys = distinct_names([subject.name for subject in study.subjects])
        for subject, key in zip(study.subjects, keys, strict=True):
            corpus = study.common(subject)
            before, after = (study.states(corpus, one)[-1].double() for one in (None, subject))
            twin = study.twin_states(corpus, subject)
            shift = after - before
            _, axes, shares = principal_axes(shift)
            score = jackknife(
                lambda kept, shift=shift: 100 * principal_axes(shift[kept])[2].sum().item(),
                corpus.sentence,
            )
            level = None
            if twin is not None:
                level = 100 * principal_axes(twin[-1].double() - before)[2].sum().item()
            numbers.append(
                Number(subject.name, "displacement on two axes (% of its variance)", score, level)
            )
            words.append(f"{subject.name}: two axes hold {score.value:.3g} % of the displacement.")
            left, right = (side @ axes for side in (before, after))
            kind, tags = _tags(corpus)
            for tag in frequent(tags) or [""]:
                own = torch.tensor([one == tag for one in tags])
                rows.append(
                    {
                        **owner(subject),
                        "read": corpus.name,
                        "tag": tag or "every token",
                        "tokens": int(own.sum()),
                        "axis 1 before": left[own, 0].mean().item(),
                        "axis 2 before": left[own, 1].mean().item(),
                        "axis 1 after": right[own, 0].mean().item(),
                        "axis 2 after": right[own, 1].mean().item(),
                        "share of axis 1": shares[0].item(),
                        "share of axis 2": shares[1].item(),
                    }
                )
            if len(figures) < DRAWN:
                generator = study.generator("map")
                found = []
                for tag in frequent(tags, TAGS) or [""]:
                    places = torch.tensor([at for at, one in enumerate(tags) if one == tag])
                    places = places[torch.randperm(len(places), generator=generator)[:POINTS]]
                    sides = (tuple(map(tuple, side[places].tolist())) for side in (left, right))
                    found.append(Cloud(tag or "token", *sides))
                said = Words(
                    f"space-{key}",
                    subject.name,
                    f"axis 1 ({100 * shares[0].item():.0f} % of the move)",
                    f"axis 2 ({100 * shares[1].item():.0f} %)",
                    f"{subject.name}: tokens of {corpus.name} by {kind} at the last layer, before and after, on the "
                    f"two axes along which they were moved most.",
                )
                figures.append(clouds(said, found))
        return Answer(tuple(words), tuple(numbers), tuple(rows), tuple(figures))


def _tags(corpus: Corpus) -> tuple[str, tuple[str, ...]]:
    """The annotation that colours the map, and each unit's tag; one tag for all where there is none."""
    for kind, tags in corpus.tags.items():
        if kind != "relation" and frequent(tags):
            return kind, tags
    return "nothing", ("",) * len(corpus)
