"""VB-LoRA's rates: logits learn ten times as fast as the vectors they choose from.

    rate(bank) = lr,    rate(logits) = ratio lr,    rate(head) = the run's `head_learning_rate`

Li, Han and Ji 2024, VB-LoRA, arXiv:2405.15179, table of hyperparameters for GLUE: bank 1e-3, logits 1e-2, and heads
from 2e-3 to 2e-2 by task and size. The head is no adapter, so its rate is no matter of this file: it is the training
setting `head_learning_rate`, and where that is not set, lr. Bank and logits are decayed alike.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field
from torch import nn

from weft.config import Settings
from weft.methods.optimizers.contract import Optimizer


class Rates(Settings):
    """Settings of VB-LoRA's rates."""

    logits_ratio: float = Field(default=10.0, gt=0)
    """Learning rate of the logits as a multiple of the bank's."""


class VectorBankRates(Optimizer):
    """One group for the bank, one for the logits."""

    settings_type: ClassVar[type[Settings]] = Rates
    settings: Rates

    def param_groups(self, adapters: Mapping[str, nn.Module], lr: float) -> list[dict[str, Any]]:
        """The bank, once, at `lr`; the logits of all adapters at `logits_ratio` times `lr`.

        Raises:
            ValueError: If an adapter has no bank or no logits.
        """
        bank: dict[int, nn.Parameter] = {}
        logits: list[nn.Parameter] = []
        for module, adapter in adapters.items():
            shared = getattr(adapter, "shared", None)
            own = [p for name, p in adapter.named_parameters() if name.startswith("logits_")]
            if not own or not isinstance(shared, nn.Module):
                raise ValueError(
                    f"optimizer vb_lora: the {type(adapter).__name__} on {module} has no logits over a shared "
                    "bank; use it with adapter vb_lora"
                )
            bank |= {id(value): value for value in shared.parameters()}
            logits += own
        return [
            {"params": list(bank.values()), "lr": lr},
            {"params": logits, "lr": self.settings.logits_ratio * lr},
        ]
