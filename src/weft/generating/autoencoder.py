"""The conditional variational autoencoder of ICM-LoRA over flat vectors of parameters.

    encode   h = W [conv ... conv](x),    mu, log s^2 = W_mu [h, c], W_var [h, c]
    decode   x' = conv [deconv ... deconv](W [z, c]),    z = mu + s eps  or, to generate,  z ~ N(0, I)
    loss     mean (x' - x)^2 + k mean_b KL_b,    KL = -1/2 sum(1 + log s^2 - mu^2 - s^2),    k = 0.005

c is a task's vector. Convolutions: kernel 7, stride 2, padding 3, a norm, LeakyReLU (encoder) or ELU (decoder); the
decoder's last map has kernel 7 and stride 1. ICM-LoRA, arXiv:2501.17635, and `model/CVAE_design.py` of
github.com/YihuaJerry/ICM-LoRA. The kernel of the last map and the slope of LeakyReLU are from memory.

Also different: the norm is over each vector alone (`norm: batch` is theirs), because they train with two vectors in a
batch, whose statistics are noise and another function than the one that answers later.
"""

import torch
from torch import Tensor, nn

from weft.generating.settings import GeneratorSettings

_KERNEL = 7


class Autoencoder(nn.Module):
    """Encoder and decoder.

    Args:
        settings: Channels, latent size, norm.
        length: Of the vectors, a multiple of 2 to the number of channels.
        condition: Length of c.
    """

    def __init__(self, settings: GeneratorSettings, length: int, condition: int) -> None:
        super().__init__()
        channels, latent = settings.channels, settings.latent
        self.length = length
        self._short = length >> len(channels)
        self._last = channels[-1]
        flat = self._last * self._short
        down: list[nn.Module] = []
        for before, after in zip((1, *channels), channels, strict=False):
            down += [
                nn.Conv1d(before, after, _KERNEL, stride=2, padding=_KERNEL // 2),
                _norm(settings.norm, after),
                nn.LeakyReLU(),
            ]
        self.down = nn.Sequential(*down)
        self.flat = nn.Linear(flat, latent)
        self.mean = nn.Linear(latent + condition, latent)
        self.variance = nn.Linear(latent + condition, latent)
        self.wide = nn.Linear(latent + condition, flat)
        up: list[nn.Module] = []
        turned = channels[::-1]
        for before, after in zip(turned, (*turned[1:], turned[-1]), strict=True):
            up += [
                nn.ConvTranspose1d(
                    before, after, _KERNEL, stride=2, padding=_KERNEL // 2, output_padding=1
                ),
                _norm(settings.norm, after),
                nn.ELU(),
            ]
        up.append(nn.Conv1d(turned[-1], 1, _KERNEL, padding=_KERNEL // 2))
        self.up = nn.Sequential(*up)

    def encode(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """`mu` and `log s^2`, (batch, latent) each, of vectors (batch, length) and conditions (batch, condition)."""
        hidden = self.flat(self.down(x.unsqueeze(1)).flatten(1))
        both = torch.cat([hidden, c], 1)
        return self.mean(both), self.variance(both)

    def decode(self, z: Tensor, c: Tensor) -> Tensor:
        """Vectors (batch, length) from z (batch, latent) and conditions (batch, condition)."""
        wide = self.wide(torch.cat([z, c], 1)).view(len(z), self._last, self._short)
        return self.up(wide).squeeze(1)

    def forward(self, x: Tensor, c: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What is made of vectors again, with `mu` and `log s^2`; `noise` is the eps of z, (batch, latent)."""
        mean, log_variance = self.encode(x, c)
        return self.decode(mean + (0.5 * log_variance).exp() * noise, c), mean, log_variance


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL of N(mu, s^2) from N(0, I), summed over the latent and averaged over the batch."""
    own = 1 + log_variance - mean.square() - log_variance.exp()
    return -0.5 * own.sum(1).mean()


def _norm(kind: str, channels: int) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm1d(channels)
    return nn.GroupNorm(1, channels) if kind == "layer" else nn.Identity()
