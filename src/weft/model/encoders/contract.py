"""The contract of an encoder: vectors of a file in, states in time out; no dropout, so no mode.

    h_0 = embed(x),    h_l = h_{l-1} + gelu(norm(conv_l(h_{l-1}))),    out = h_L

A row's states are those it has alone, whatever pads it: what is behind its end is 0 before every convolution, as a
convolution's own padding is.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weft.lowrank.start import kaiming, uniform
from weft.tasks.inputs.contract import Input


class Convolution(nn.Module):
    """A convolution in time with a norm, a gelu and a connection around them."""

    def __init__(self, width: int, kernel: int, generator: torch.Generator) -> None:
        super().__init__()
        like = torch.empty(0)
        bound = 1 / math.sqrt(width * kernel)
        self.weight = nn.Parameter(uniform((width, width, kernel), bound, generator, like))
        self.bias = nn.Parameter(torch.zeros(width))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """(rows, steps, width), of which only what is `present`, (rows, steps, 1), counts."""
        kernel = self.weight.shape[-1]
        y = F.conv1d((x * present).mT, self.weight, self.bias, padding=kernel // 2).mT
        return x + F.gelu(self.norm(y))


class Encoder(nn.Module, ABC):
    """The trained part between a file's vectors and pooling.

    Args:
        reader: How files are read, and the encoder's size.
        generator: Source of the start values; CPU.
    """

    def __init__(self, reader: Input, generator: torch.Generator) -> None:
        super().__init__()
        own = reader.settings
        self.weight = nn.Parameter(kaiming((own.width, reader.size), generator, torch.empty(0)))
        self.bias = nn.Parameter(torch.zeros(own.width))
        self.start(reader, generator)
        self.layers = nn.ModuleList(
            Convolution(own.width, own.kernel, generator) for _ in range(own.layers)
        )

    @abstractmethod
    def start(self, reader: Input, generator: torch.Generator) -> None:
        """Make what this kind of input has beside the map of its vectors."""

    @abstractmethod
    def embed(self, x: Tensor) -> Tensor:
        """(rows, steps, size) to (rows, steps, width)."""

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """States, (rows, steps, width).

        Args:
            x: Vectors, (rows, steps, size).
            present: Whether a row has a step, (rows, steps).
        """
        mask = present.unsqueeze(-1).to(x.dtype)
        h = self.embed(x)
        for layer in self.layers:
            h = layer(h, mask)
        return h
