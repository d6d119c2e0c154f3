"""Pictures: patches with the place in their column, through convolutions along the columns, trained from nothing.

A stand-in for Omni-AVSR's frozen video encoder: small enough to be an expert's own.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weft.lowrank.start import normal
from weft.model.encoders import contract
from weft.tasks.inputs.contract import Input
from weft.tasks.inputs.image import Image as Reader


class Image(contract.Encoder):
    """Patches to states."""

    def start(self, reader: Input, generator: torch.Generator) -> None:
        assert isinstance(reader, Reader)
        shape = (reader.rows, reader.settings.width)
        self.place = nn.Parameter(normal(shape, 0.02, generator, torch.empty(0)))

    def embed(self, x: Tensor) -> Tensor:
        rows = torch.arange(x.shape[1], device=x.device) % self.place.shape[0]
        return F.linear(x, self.weight, self.bias) + self.place[rows]
