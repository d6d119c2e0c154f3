"""X-LoRA's gates and PEFT's of the same logits under settings that mean other things there."""

from collections.abc import Callable

import pytest
import torch
from peft import XLoraConfig
from peft.tuners.xlora.classifier import TemperatureScaledSoftmax
from peft.tuners.xlora.layer import XLoraLayer
from torch import Tensor
from torch.testing import assert_close

from weft.methods.gates.stack import Part
from weft.methods.mixtures.contract import Mixture

Make = Callable[..., Mixture]
T = 0.4
# None is exactly 0: PEFT takes that for not selected.
LOGITS = torch.tensor([[[1.4, 0.05, 0.6], [0.45, -0.05, 0.2]]], dtype=torch.float64)


class Layer(XLoraLayer):
    """What PEFT's layer does with scalings, and no linear map."""

    def __init__(self, config: XLoraConfig) -> None:
        self.config = config
        self.layer_number = 0


@pytest.mark.filterwarnings("ignore:`enable_softmax")
def theirs(softmax: bool, softmax_top_k: bool, top_k: int | None) -> Tensor:
    """PEFT's own code, from logits to gates."""
    config = XLoraConfig(
        hidden_size=3,
        adapters={"0": "here"},
        enable_softmax=softmax,
        enable_softmax_topk=softmax_top_k,
        top_k_lora=top_k,
        softmax_temperature=T,
    )
    said = TemperatureScaledSoftmax(T)(LOGITS) if softmax else LOGITS
    return Layer(config).get_maybe_topk_scalings(said.unsqueeze(2))


def over_selected(values: Tensor, top_k: int | None) -> Tensor:
    """A softmax over the largest, 0 elsewhere."""
    if top_k is None:
        return values.softmax(-1)
    least = values.topk(top_k, -1).values[..., -1:]
    return values.masked_fill(values < least, -torch.inf).softmax(-1)


@pytest.mark.parametrize("top_k", [2, None])
@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.filterwarnings("ignore:`enable_softmax_topk`")
def test_the_table_of_the_page(
    make: Make, parts: list[Part], softmax: bool, top_k: int | None
) -> None:
    settings = {"softmax": softmax, "softmax_top_k": True, "top_k": top_k, "temperature": T}
    mixture = make("xlora", parts, **settings)
    found = mixture.answer(LOGITS).gates  # type: ignore[operator]
    plain = LOGITS if top_k is None and not softmax else over_selected(LOGITS / T, top_k)
    assert_close(found, plain)
    in_peft = theirs(softmax, True, top_k)
    before = (LOGITS / T).softmax(-1) if softmax else LOGITS
    assert_close(in_peft, over_selected(before, top_k))
    assert (found - in_peft).abs().max() > 0.05


@pytest.mark.parametrize("top_k", [2, None])
@pytest.mark.parametrize("softmax", [True, False])
def test_without_that_softmax_the_two_agree(
    make: Make, parts: list[Part], softmax: bool, top_k: int | None
) -> None:
    mixture = make("xlora", parts, softmax=softmax, top_k=top_k, temperature=T)
    assert_close(mixture.answer(LOGITS).gates, theirs(softmax, False, top_k))  # type: ignore[operator]
