"""Mean shares of experts as rows of a result: by map and task, by tag, by place in the sequence."""

from typing import Any

import torch
from torch import Tensor

from weft.analysis.measures.gates import load, spoken
from weft.analysis.reading.gates import Said
from weft.analysis.study import Study
from weft.analysis.subjects import Subject, owner
from weft.analysis.tagged import FEWEST, frequent
from weft.analysis.texts import Corpus

POSITIONS = 32
"""Words, or tokens, of a sequence whose places are told apart."""


def _row(subject: Subject, **said: Any) -> dict[str, Any]:
    return {**owner(subject), **said}


def by_map(study: Study, said: Said, at: int) -> list[dict[str, Any]]:
    """Every map's mean shares on the rows of a task."""
    found = []
    for module, own in said.shares[at].items():
        layer, role = study.place(module)
        for name, share in zip(said.experts(module), load(own).tolist(), strict=True):
            found.append(
                _row(
                    said.subjects[at],
                    read=said.corpora[at].name,
                    by="task",
                    group=said.subjects[at].found.task,
                    map=module,
                    layer=layer,
                    role=role,
                    gate=name,
                    tokens=int(spoken(own).sum()),
                    share=share,
                )
            )
    return found


def by_tag(subject: Subject, said: Said, corpus: Corpus, own: Tensor) -> list[dict[str, Any]]:
    """The mean shares of the frequent tags of every annotation.

    Args:
        subject: Whose rows they are.
        said: The mixture.
        corpus: What was read.
        own: Its shares, mean over maps.
    """
    groups = {
        (kind, tag): torch.tensor([one == tag for one in tags])
        for kind, tags in corpus.tags.items()
        for tag in frequent(tags)
    }
    return _grouped(subject, said, corpus, own, groups)


def by_position(subject: Subject, said: Said, corpus: Corpus, own: Tensor) -> list[dict[str, Any]]:
    """The mean shares of the first, second, ... unit of sequences; arguments as of `by_tag`."""
    place = torch.cat([torch.arange(len(units)) for units in corpus.units])
    places = range(min(POSITIONS, int(place.max()) + 1))
    groups = {("position", str(at)): place == at for at in places}
    return _grouped(subject, said, corpus, own, groups)


def _grouped(
    subject: Subject,
    said: Said,
    corpus: Corpus,
    own: Tensor,
    groups: dict[tuple[str, str], Tensor],
) -> list[dict[str, Any]]:
    """The mean shares of groups of units, which have an annotation and a name."""
    return [
        _row(
            subject,
            read=corpus.name,
            by=by,
            group=group,
            map="",
            layer=None,
            role="",
            gate=name,
            tokens=int(kept.sum()),
            share=share,
        )
        for (by, group), kept in groups.items()
        if int(kept.sum()) >= FEWEST
        for name, share in zip(said.names, load(own[kept]).tolist(), strict=True)
    ]
