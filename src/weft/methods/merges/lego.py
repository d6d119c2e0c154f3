"""LoRA-LEGO: the ranks of all experts as units, gathered into clusters; the centroids are the merged expert's ranks.

    units  m = [a; b],  dW_i = sum_m b a^T,    clusters by k-means,    c = mean of a cluster's units
    c <- c mean|m| / |c|  (parameters),    dW <- sqrt(r / k) dW  (output)

Zhao et al. 2024, Merging LoRAs like Playing LEGO, arXiv:2409.16167. One rank, a row of A with a column of B, is the
smallest part that means something; how ranks are numbered does not. Averaging makes norms smaller, which the first
reweighting undoes; summing k units instead of r makes outputs larger, which the second does. Both are from memory of
the paper and agree with its abstract; no code of the authors' was found. Either can be switched off.

A unit is known only up to its sign and to a factor that moves between a and b: (a, b), (-a, -b) and (2 a, b / 2) are
the same change and lie far apart. Units are for that reason brought to one form first, |a| = |b| and the entry of a
that is largest in size positive; without it a copy of an expert with its signs turned misses the expert by 65 %.

Weights are applied to the units (of weight 1 each in the paper). The result is a mean of what is alike, no sum: n equal
experts with weights 1 give the expert once, while with k = all ranks nothing is averaged and it is the sum. k is the
rank asked for, by default the largest among the experts. Units that are equal leave clusters empty; those are left out.
Clusters depend on the seed, not on the order of experts or ranks.
"""

import warnings
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from weft.config import Settings
from weft.lowrank.product import Pair
from weft.methods.merges.contract import Merge

_STARTS = 10
"""How often k-means begins anew; the best result counts."""


class LegoSettings(Settings):
    """Settings of LoRA-LEGO."""

    canonical: bool = True
    """Bring units to one form before they are compared."""
    reweight_parameters: bool = True
    """Give every centroid the mean norm of its cluster."""
    reweight_output: bool = True
    """Multiply the change by sqrt(r / k), r the most units of an expert, k those of the result."""


class Lego(Merge):
    """Clusters of ranks."""

    settings_type: ClassVar[type[Settings]] = LegoSettings
    settings: LegoSettings
    keeps: ClassVar[str] = "One representative of every group of ranks that do alike."
    loses: ClassVar[str] = "What tells the ranks of a group apart, and how many they were."
    draws: ClassVar[bool] = True

    def pair(
        self,
        pairs: Sequence[Pair],
        weights: Sequence[float],
        rank: int,
        generator: torch.Generator,
    ) -> Pair:
        inner = pairs[0][0].shape[1]
        found = [_units(a, w * b) for (a, b), w in zip(pairs, weights, strict=True)]
        units, most = torch.cat(found), max(map(len, found))
        if not most:
            return pairs[0][0][:1] * 0.0, pairs[0][1][:, :1] * 0.0
        if self.settings.canonical:
            units = _canonical(units, inner)
        # Sorted by value, since k-means draws by place and ranks may come in any order.
        units, counts = units.unique(dim=0, return_counts=True)
        seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
        centres = torch.stack(
            [self._centre(units[own], counts[own]) for own in _clusters(units, counts, rank, seed)]
        )
        A, B = centres[:, :inner], centres[:, inner:].T
        if self.settings.reweight_output:
            B = B * (most / len(centres)) ** 0.5
        return A, B

    def _centre(self, units: Tensor, counts: Tensor) -> Tensor:
        """The mean of a cluster, as long as its units are on average."""
        share = (counts / counts.sum()).to(units.dtype)
        mean = share @ units
        if not self.settings.reweight_parameters:
            return mean
        norm = mean.norm()
        return mean * (share @ units.norm(dim=1) / norm) if norm > 0 else mean


def _units(a: Tensor, b: Tensor) -> Tensor:
    """Every rank as a row, without those that change nothing."""
    return torch.cat([a, b.T], dim=1)[(a.norm(dim=1) * b.norm(dim=0)) > 0]


def _canonical(units: Tensor, inner: int) -> Tensor:
    """The same changes with |a| = |b| and the entry of a that is largest in size positive."""
    a, b = units[:, :inner], units[:, inner:]
    factor = (b.norm(dim=1) / a.norm(dim=1)).sqrt()[:, None]
    factor = factor * a.gather(1, a.abs().argmax(dim=1, keepdim=True)).sign()
    return torch.cat([a * factor, b / factor], dim=1)


def _clusters(units: Tensor, counts: Tensor, most: int, seed: int) -> list[Tensor]:
    """The places of the units of every cluster that has some.

    Raises:
        ValueError: If scikit-learn is not installed.
    """
    if len(units) <= most:
        return list(torch.arange(len(units))[:, None])
    try:
        from sklearn.cluster import KMeans
        from sklearn.exceptions import ConvergenceWarning
    except ImportError:
        raise ValueError("lego needs scikit-learn: pip install 'weft[merge]'") from None
    kmeans = KMeans(most, random_state=seed).set_params(n_init=_STARTS)
    with warnings.catch_warnings():
        # Units that are equal but for rounding leave clusters empty.
        warnings.simplefilter("ignore", ConvergenceWarning)
        labels = kmeans.fit_predict(
            units.cpu().double().numpy(), sample_weight=counts.cpu().numpy()
        )
    found = torch.from_numpy(labels)
    return [(found == label).nonzero()[:, 0] for label in found.unique()]
