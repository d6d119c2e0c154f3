"""What the gates of a mixture said of the rows of its tasks, as who speaks how much."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from weft.analysis.measures.gates import agreement, chosen, shares
from weft.analysis.seeds import mixture_name
from weft.analysis.study import Study
from weft.analysis.subjects import Subject
from weft.analysis.texts import Corpus
from weft.model.mixed import Mix


@dataclass(frozen=True)
class Said:
    """What one mixture's gates said of the rows of all its tasks."""

    subjects: tuple[Subject, ...]
    """The mixture with each of its tasks."""
    corpora: tuple[Corpus, ...]
    """The rows of each."""
    shares: tuple[dict[str, Tensor], ...]
    """Of each, by map how much each expert speaks: (units, experts)."""

    @property
    def name(self) -> str:
        """The mixture's folder, as the report calls it."""
        return mixture_name(self.subjects[0].found)

    @property
    def maps(self) -> list[str]:
        return list(self.shares[0])

    @property
    def task(self) -> Tensor:
        """Each unit's task by number, all rows together."""
        sizes = torch.tensor([len(corpus) for corpus in self.corpora])
        return torch.arange(len(sizes)).repeat_interleave(sizes)

    @property
    def sentence(self) -> Tensor:
        """Each unit's sequence by number, all rows together."""
        found, start = [], 0
        for corpus in self.corpora:
            found.append(corpus.sentence + start)
            start += len(corpus.units)
        return torch.cat(found)

    def together(self, module: str) -> Tensor:
        """The shares at one map, all rows together."""
        return torch.cat([own[module] for own in self.shares])

    def experts(self, module: str) -> list[str]:
        """What the gates of a map speak of: the experts, or as many ranks."""
        own = self.subjects[0]
        mix = own.model.expert(own.member)
        assert isinstance(mix, Mix)
        count = self.shares[0][module].shape[1]
        names = list(mix.mixture.experts)
        return names if len(names) == count else [f"gate {at}" for at in range(count)]

    @property
    def names(self) -> list[str]:
        """The experts at the first map, and at all that have as many."""
        return self.experts(self.maps[0])

    def over_maps(self, by_map: Mapping[str, Tensor]) -> Tensor:
        """The mean over maps at every unit, (units, experts), of those at which somebody speaks.

        Args:
            by_map: Shares; those of other experts than the first map's do not count.
        """
        width = len(self.names)
        alike = [own for own in by_map.values() if own.shape[1] == width]
        return torch.stack(alike).nanmean(0)


def said_by_gates(study: Study) -> list[Said]:
    """Every mixture, on the rows of its own tasks.

    Raises:
        NotAtHandError: If those are not there.
    """
    found = []
    for own in mixtures_of(study.subjects):
        corpora = tuple(study.rows(subject) for subject in own)
        gates = [study.gates(corpus, one) for corpus, one in zip(corpora, own, strict=True)]
        found.append(Said(own, corpora, tuple(_shares(by_map) for by_map in gates)))
    return found


def on_trees(study: Study, said: Said) -> tuple[Corpus, dict[str, Tensor]] | None:
    """The same mixture on the treebank, by map; None where there is none."""
    if not study.has_trees:
        return None
    first = said.subjects[0]
    corpus = study.common(first)
    return corpus, _shares(study.gates(corpus, first))


def alike_over_seeds(
    study: Study, found: Sequence[Said]
) -> list[tuple[str, list[float], list[float]]]:
    """How far mixtures that differ in their seed alone choose alike on the treebank, which all of them read.

    Returns:
        For every two of them their names, the agreement at every map that both have, and the same with tokens of one
        permuted.
    """
    told = []
    for one, other in combinations(found, 2):
        first, second = (on_trees(study, said) for said in (one, other))
        if first is None or second is None or not study.seeds.together(one.name, other.name):
            continue
        order = torch.randperm(len(first[0]), generator=study.generator(one.name))
        mine, theirs = ({m: chosen(own) for m, own in by.items()} for _, by in (first, second))
        shared = [module for module in mine if module in theirs]
        alike = [agreement(mine[module], theirs[module]) for module in shared]
        level = [agreement(mine[module], theirs[module][order]) for module in shared]
        told.append((f"{one.name} and {other.name}", alike, level))
    return told


def mixtures_of(subjects: Sequence[Subject]) -> list[tuple[Subject, ...]]:
    """Those that mix, the tasks of one mixture together."""
    found: dict[object, list[Subject]] = {}
    for subject in subjects:
        if subject.found.mixes:
            found.setdefault(subject.found.folder.mixture.resolve(), []).append(subject)
    return [tuple(own) for own in found.values()]


def _shares(by_map: dict[str, Tensor]) -> dict[str, Tensor]:
    return {module: shares(own) for module, own in by_map.items()}
