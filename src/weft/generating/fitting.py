"""How an autoencoder is trained, epoch by epoch, with all that an interrupted one needs to end in the same bits."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from weft.generating.autoencoder import Autoencoder, divergence
from weft.generating.settings import GeneratorSettings
from weft.training.adamw import AdamW


class Fitting:
    """An autoencoder under AdamW (the published code does not say which optimizer).

    The rate of epoch e of E is `lr (1 + cos(pi e / 2E)) / 2`: their cosine is as long as twice the epochs. The order of
    the vectors and the noise of an epoch follow from seed and epoch alone.

    Args:
        net: What learns.
        settings: Its settings.
        states: (states, length), normalised and filled up.
        conditions: (states, condition).
    """

    def __init__(
        self, net: Autoencoder, settings: GeneratorSettings, states: Tensor, conditions: Tensor
    ) -> None:
        self.net, self.settings = net, settings
        self.states, self.conditions = states, conditions
        self.done = 0
        """Epochs."""
        self.losses: list[tuple[float, float]] = []
        """Mean squared error and divergence of each."""
        self.optimizer = AdamW(
            [{"params": list(net.parameters()), "weight_decay": settings.weight_decay}]
        )

    def epoch(self) -> tuple[float, float]:
        """See every vector once; the mean error and divergence."""
        settings = self.settings
        part = self.done / (2 * settings.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * (1 + math.cos(math.pi * part)) / 2
        draw = torch.Generator().manual_seed(settings.seed * 1_000_003 + self.done)
        order = torch.randperm(len(self.states), generator=draw)
        self.net.train()
        sums = torch.zeros(2, dtype=torch.float64)
        for rows in _batches(order, settings.batch_size):
            noise = torch.randn(len(rows), settings.latent, generator=draw).to(self.states.device)
            x, c = self.states[rows], self.conditions[rows]
            made, mean, log_variance = self.net(x, c, noise)
            error = (made - x).square().mean()
            apart = divergence(mean, log_variance)
            (error + settings.kl * apart).backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            sums += len(rows) * torch.tensor([error.item(), apart.item()], dtype=torch.float64)
        error, apart = (sums / len(order)).tolist()
        if not math.isfinite(error + apart):
            raise ValueError(
                f"the generator's loss is {error + apart} in epoch {self.done + 1}; give a smaller learning_rate"
            )
        self.losses.append((error, apart))
        self.done += 1
        return error, apart

    def state(self) -> dict[str, Tensor]:
        """Weights, moments and losses."""
        found = {f"net/{name}": value for name, value in self.net.state_dict().items()}
        names = {id(value): name for name, value in self.net.named_parameters()}
        for parameter, state in self.optimizer.state.items():
            found |= {f"moment/{names[id(parameter)]}/{key}": own for key, own in state.items()}
        return found | {"losses": torch.tensor(self.losses, dtype=torch.float64)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        own = {k.removeprefix("net/"): v for k, v in state.items() if k.startswith("net/")}
        self.net.load_state_dict(own)
        for name, parameter in self.net.named_parameters():
            prefix = f"moment/{name}/"
            moments: dict[str, Any] = {
                # Copies: products of what lies unaligned in a file's memory may differ in their last bits.
                key.removeprefix(prefix): value.clone().to(parameter.device)
                for key, value in state.items()
                if key.startswith(prefix)
            }
            if moments:
                self.optimizer.state[parameter] = moments
        self.losses = [(error, apart) for error, apart in state["losses"].tolist()]
        self.done = len(self.losses)


def _batches(order: Tensor, size: int) -> list[Tensor]:
    """Rows by batch; one that would stay alone joins the batch before, since a batch's statistics need two."""
    parts = list(order.split(size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts
