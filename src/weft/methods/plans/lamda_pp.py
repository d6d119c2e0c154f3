"""LaMDA++: maps whose weight has its energy in few directions get half the rank, those with the most spread twice.

    E_r(W0) = sum_{i <= r} sigma_i^2 / sum_i sigma_i^2,    rank = r / 2 where E_r is largest, 2 r where it is smallest

Azizi, Kundu and Pedram 2024, LaMDA: Large Model Fine-Tuning via Spectrally Decomposed Low-Dimensional Adaptation,
arXiv:2406.12832: ranks by an analysis of the normalised spectrum of the pretrained weights, for a budget that stays.
The authors' code has no LaMDA++, so the menu of ranks and how many maps get which are from memory of the paper, and
settled here: a share of all maps is doubled, twice as many are halved, which pays for them; no map has more than its
smaller side, and the sum of ranks is never over that of LaMDA. Equal energies fall to the earlier map.

The energies are those of the frozen base, so the same base gives the same ranks whatever the data. Weights that are
only counted (on the meta device) have no energies: there every map has the rank of the settings.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from weft.config import Settings
from weft.lowrank.start import wide
from weft.methods.plans.contract import Plan


class LaMDAPlusPlusSettings(Settings):
    """Settings of LaMDA++."""

    share: float = Field(default=0.25, gt=0, le=1 / 3)
    """Fraction of the maps that get twice the rank."""


class LaMDAPlusPlus(Plan):
    """Ranks by the spectra of the frozen weights, of the same sum."""

    settings_type: ClassVar[type[Settings]] = LaMDAPlusPlusSettings
    settings: LaMDAPlusPlusSettings

    def plan(self, base: Mapping[str, Tensor], spec: Mapping[str, int]) -> dict[str, int | None]:
        """The rank of each target's adapter.

        Raises:
            ValueError: If ranks were set one by one, or are too small to be halved.
        """
        if len(set(spec.values())) > 1:
            raise ValueError(
                "ranks: the plan lamda_pp shares out the ranks itself; remove `ranks`, or take recipe lamda"
            )
        rank = next(iter(spec.values()))
        if rank == 1:
            raise ValueError("plan lamda_pp: a rank of 1 cannot be halved; use 2 or more")
        if any(weight.device.type == "meta" for weight in base.values()):
            return dict(spec)
        energies = {name: energy(base[name], rank) for name in spec}
        spread_first = sorted(spec, key=lambda name: energies[name])
        doubled = int(self.settings.share * len(spec))
        planned = dict(spec)
        for name in spread_first[:doubled]:
            planned[name] = min(2 * rank, *base[name].shape)
        for name in spread_first[len(spec) - 2 * doubled :] if doubled else ():
            planned[name] = rank // 2
        return {name: planned[name] for name in spec}


def energy(weight: Tensor, rank: int) -> float:
    """The share of the squared singular values that the `rank` largest have."""
    squared = torch.linalg.svdvals(wide(weight)).square()
    return (squared[:rank].sum() / squared.sum()).item()
