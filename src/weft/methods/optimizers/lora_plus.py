"""LoRA+: B learns faster than A.

    rate(B) = ratio rate(A),    everything else at rate(A)

Hayou, Ghosh and Yu 2024, LoRA+, arXiv:2402.12354, section 5: with one rate for both, A's features hardly move in wide
networks. The paper's ratio is 2^4, at a rate of A about half of LoRA's. PEFT 0.21.2 (peft/optimizers/loraplus.py) gives
the higher rate to every vector too (DoRA's magnitudes, biases); here B alone has it.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field
from torch import nn

from weft.config import Settings
from weft.methods.optimizers.contract import Optimizer


class LoRAPlusSettings(Settings):
    """Settings of LoRA+."""

    rate_ratio: float = Field(default=16.0, gt=0)
    """Learning rate of B as a multiple of A's."""


class LoRAPlus(Optimizer):
    """One group for the B factors, one for the rest."""

    settings_type: ClassVar[type[Settings]] = LoRAPlusSettings
    settings: LoRAPlusSettings

    def param_groups(self, adapters: Mapping[str, nn.Module], lr: float) -> list[dict[str, Any]]:
        """The B of every adapter at `rate_ratio` times `lr`, what else is trained at `lr`.

        Raises:
            ValueError: If an adapter has no trained factor B.
        """
        ups: list[nn.Parameter] = []
        rest: list[nn.Parameter] = []
        for module, adapter in adapters.items():
            own = {name: p for name, p in adapter.named_parameters() if p.requires_grad}
            if "B" not in own:
                raise ValueError(
                    f"optimizer lora_plus: the {type(adapter).__name__} on {module} has no trained factor B; use it "
                    "with lora, dora, pissa or olora"
                )
            ups.append(own.pop("B"))
            rest += own.values()
        return [{"params": rest, "lr": lr}, {"params": ups, "lr": self.settings.rate_ratio * lr}]
