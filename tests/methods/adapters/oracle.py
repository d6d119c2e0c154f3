"""What comparisons with PEFT share: one small net, the same values on both sides, and ten steps side by side."""

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from weft.lowrank.linear import LowRankLinear
from weft.lowrank.route import Route, routed
from weft.lowrank.woven import Woven
from weft.methods.adapters.contract import Adapter

LORA = {"A": "lora_A.default.weight", "B": "lora_B.default.weight"}
"""Where PEFT's LoRA layer has our values."""


class Net(nn.Module):
    """Two frozen maps with biases and a bend between them; of one size always the same, in single precision."""

    def __init__(self, inner: int = 16, middle: int = 24, out: int = 8) -> None:
        super().__init__()
        self.first = nn.Linear(inner, middle)
        self.second = nn.Linear(middle, out)
        self.requires_grad_(False)
        generator = torch.Generator().manual_seed(7)
        for value in self.parameters():
            value.copy_(torch.randn(value.shape, generator=generator) / 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))

    def weights(self) -> dict[str, Tensor]:
        """W0 of each map by name."""
        return {name: layer.get_parameter("weight") for name, layer in self.named_children()}


def adapted(net: Net, adapters: Mapping[str, Adapter], x: Tensor) -> Tensor:
    """The net with each adapter's term beside its map, written out."""
    first, second = adapters["first"], adapters["second"]
    hidden = torch.tanh(net.first(x) + first(x, net.first.weight))
    return net.second(hidden) + second(hidden, net.second.weight)


def woven(net: Net, adapters: Mapping[str, Adapter]) -> Callable[[Tensor], Tensor]:
    """A copy of the net with a place for each adapter at its map, as a model runs it."""
    found = copy.deepcopy(net)
    for name in adapters:
        setattr(found, name, LowRankLinear(found.get_submodule(name), name))

    def run(x: Tensor) -> Tensor:
        with routed(Route.everywhere("x"), {"x": Woven(adapters)}):
            return found(x)

    return run


def parameters_of(adapters: Mapping[str, Adapter]) -> dict[str, nn.Parameter]:
    """All of ours as `module.letter`."""
    return {
        f"{module}.{letter}": value
        for module, adapter in adapters.items()
        for letter, value in adapter.named_parameters()
    }


def layer_of(peft: nn.Module, module: str) -> nn.Module:
    """PEFT's layer in place of a map."""
    return peft.get_submodule(f"base_model.model.{module}")


def twins_of(
    peft: nn.Module, adapters: Mapping[str, Adapter], paths: Mapping[str, str]
) -> dict[str, nn.Parameter]:
    """PEFT's parameters as `module.letter`, with our values in them.

    Args:
        peft: PEFT's model.
        adapters: Ours by module name.
        paths: From a letter of ours to the parameter's name in PEFT's layer.
    """
    found = {}
    with torch.no_grad():
        for module, adapter in adapters.items():
            for letter, path in paths.items():
                value = layer_of(peft, module).get_parameter(path)
                value.copy_(getattr(adapter, letter))
                found[f"{module}.{letter}"] = value
    return found


def assert_ten_steps_agree(
    ours: Callable[[Tensor], Tensor],
    theirs: Callable[[Tensor], Tensor],
    own: Mapping[str, Tensor],
    twins: Mapping[str, Tensor],
    batch: tuple[Tensor, Tensor],
    *,
    rate: float = 0.01,
    decay: float = 0.01,
    outputs: Mapping[str, float] | None = None,
    gradients: Mapping[str, float] | None = None,
    values: Mapping[str, float] | None = None,
) -> None:
    """Train both by AdamW: the same output and gradients at each step, the same values after the last.

    Args:
        ours: Our net.
        theirs: PEFT's.
        own: What is trained of ours, by name.
        twins: What is trained of PEFT's, by the same names.
        batch: Input and target.
        rate: Learning rate; each value is seen to move by more than that.
        decay: Weight decay.
        outputs: `rtol` and `atol` of outputs; 1e-10 both.
        gradients: The same of gradients; 1e-9 and 1e-12.
        values: The same of the trained values; 1e-9 both.
    """
    outputs = outputs or {"rtol": 1e-10, "atol": 1e-10}
    gradients = gradients or {"rtol": 1e-9, "atol": 1e-12}
    values = values or {"rtol": 1e-9, "atol": 1e-9}
    x, target = batch
    begun = {name: value.detach().clone() for name, value in own.items()}
    optimizers = [
        torch.optim.AdamW(list(side.values()), lr=rate, weight_decay=decay) for side in (own, twins)
    ]
    for _ in range(10):
        got, expected = ours(x), theirs(x)
        torch.testing.assert_close(got, expected, **outputs)
        for optimizer, y in zip(optimizers, (got, expected), strict=True):
            optimizer.zero_grad()
            (y - target).square().mean().backward()
        found = {name: value.grad for name, value in own.items()}
        assert all(gradient is not None for gradient in found.values())
        wanted = {name: value.grad for name, value in twins.items()}
        torch.testing.assert_close(found, wanted, **gradients)
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(dict(own), dict(twins), **values)
    assert all((value - begun[name]).abs().max() > rate for name, value in own.items())
