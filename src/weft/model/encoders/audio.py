"""Sound: log-mel vectors through convolutions in time, trained from nothing.

A stand-in for Omni-AVSR's frozen Whisper encoder: small enough to be an expert's own.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from weft.model.encoders import contract
from weft.tasks.inputs.contract import Input


class Audio(contract.Encoder):
    """Mel bands to states."""

    def start(self, reader: Input, generator: torch.Generator) -> None:
        """Nothing: where a sound is, the convolutions and the decoder's positions tell."""

    def embed(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)
