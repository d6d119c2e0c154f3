"""How many bits labels take when they are told to somebody who has the vectors: the online (prequential) code.

Labels are sent in portions. The first goes by the uniform code, log2 K bits a label; each later one by a probe that was
trained on all before it. Regular labels are short, since few examples teach them; labels without a rule cost what the
uniform code does.

Voita and Titov 2020, aclanthology.org/2020.emnlp-main.14, section 2.2.2. We differ in two ways. Portions double, from
1/128 of the labels on, where theirs are eleven shares up to a half. And what is sent is the mixture of codes, one for
each strength of the penalty and the uniform one,

    L = -log2 mean_m 2^(-L_m)

which is a code too (Rissanen 1984, doi:10.1109/TIT.1984.1056936), at most log2 of their number longer than the
shortest: a probe that learns by heart cannot make it much longer than the uniform code, and no strength is chosen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from weft.analysis.measures.probes.linear import Scale, fitted

PORTIONS = 8
"""Of which each is as large as all before it."""
STRENGTHS = (0.001, 0.1)


@dataclass(frozen=True)
class Codelength:
    """Bits of all labels."""

    bits: float
    uniform: float

    @property
    def compression(self) -> float:
        """How many times shorter than the uniform code."""
        return self.uniform / self.bits


def portions(count: int) -> list[int]:
    """Where portions end: count / 128, count / 64, ..., count; the first has 1 label at least."""
    ends = [max(1, count >> (PORTIONS - 1 - at)) for at in range(PORTIONS)]
    return sorted(set(ends))


def online(states: Tensor, labels: Sequence[str], order: Tensor) -> Codelength:
    """The length of the online code of labels.

    Args:
        states: (n, hidden).
        labels: (n,).
        order: In which they are sent, (n,).
    """
    classes = sorted(set(labels))
    place = {label: at for at, label in enumerate(classes)}
    sent = np.array([place[label] for label in labels])[order.numpy()]
    states, ends = states[order], portions(len(labels))
    uniform = len(sent) * np.log2(len(classes))
    lengths = np.full(len(STRENGTHS), ends[0] * np.log2(len(classes)))
    for start, stop in pairwise(ends):
        scale = Scale(states[:start])
        seen, next_ = scale(states[:start]), scale(states[start:stop])
        for at, strength in enumerate(STRENGTHS):
            said = probabilities(seen, sent[:start], next_, len(classes), strength)
            lengths[at] -= np.log2(said[np.arange(stop - start), sent[start:stop]]).sum()
    codes = np.array([*lengths, uniform])
    shortest = codes.min()
    bits = shortest - np.log2(np.exp2(shortest - codes).mean())
    return Codelength(float(bits), float(uniform))


def probabilities(
    seen: np.ndarray, labels: np.ndarray, others: np.ndarray, classes: int, strength: float
) -> np.ndarray:
    """What a probe says of other vectors, (n, classes): one label more, of any class, counts as seen as well."""
    said = np.zeros((len(others), classes))
    probe = fitted(seen, labels, strength=strength)
    if probe is None:
        said[:, labels[0]] = 1.0
    else:
        said[:, probe.classes_] = probe.predict_proba(others)
    return (len(labels) * said + 1 / classes) / (len(labels) + 1)


def random_order(sentence: Tensor, generator: torch.Generator) -> Tensor:
    """Labels in an order that draws sentences and keeps each together."""
    drawn = torch.randperm(int(sentence.max()) + 1, generator=generator)
    return drawn[sentence].argsort(stable=True)
