"""The autoencoder keeps what the paper says of its shapes, its loss and its answers."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from weft.config import validate
from weft.generating.autoencoder import Autoencoder, divergence
from weft.generating.fitting import Fitting
from weft.generating.settings import GeneratorSettings

SMALL = GeneratorSettings(
    channels=(8, 16, 16, 8), pad=16, latent=16, epochs=300, batch_size=2, learning_rate=2e-3, seed=0
)


def net_of(settings: GeneratorSettings, length: int, condition: int) -> Autoencoder:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Autoencoder(settings, length, condition)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_published_network_has_the_published_layers() -> None:
    settings = GeneratorSettings(norm="batch")
    net = net_of(settings, 8192, 768)
    down = [own for own in net.down if isinstance(own, nn.Conv1d)]
    assert [own.out_channels for own in down] == [8, 16, 32, 64, 128, 256, 256, 128, 64, 32, 16, 8]
    assert {(own.kernel_size, own.stride, own.padding) for own in down} == {((7,), (2,), (3,))}
    up = [own for own in net.up if isinstance(own, nn.ConvTranspose1d)]
    assert [own.in_channels for own in up] == [8, 16, 32, 64, 128, 256, 256, 128, 64, 32, 16, 8]
    assert up[-1].out_channels == 8
    assert {own.output_padding for own in up} == {(1,)}
    assert isinstance(net.up[-1], nn.Conv1d)
    assert (net.mean.in_features, net.mean.out_features) == (256 + 768, 256)
    assert sum(isinstance(own, nn.BatchNorm1d) for own in net.modules()) == 24


@pytest.mark.parametrize("length", [16, 48, 160])
def test_what_comes_out_is_as_long_as_what_went_in(length: int) -> None:
    net = net_of(SMALL, length, 5)
    made, mean, log_variance = net(drawn(3, length), drawn(3, 5), drawn(3, 16))
    assert made.shape == (3, length)
    assert mean.shape == log_variance.shape == (3, 16)


def test_the_divergence_is_the_formula_and_0_at_the_prior() -> None:
    zero = torch.zeros(4, 7, dtype=torch.float64)
    assert divergence(zero, zero).item() == 0.0
    mean, log_variance = drawn(4, 7).double(), drawn(4, 7, seed=1).double()
    by_hand = [
        -0.5 * sum(1 + v - m * m - math.exp(v) for m, v in zip(ms, vs, strict=True))
        for ms, vs in zip(mean.tolist(), log_variance.tolist(), strict=True)
    ]
    assert divergence(mean, log_variance).item() == pytest.approx(sum(by_hand) / 4, rel=1e-14)
    normal = torch.distributions.Normal
    theirs = torch.distributions.kl_divergence(
        normal(mean, (0.5 * log_variance).exp()), normal(zero, zero + 1)
    )
    assert_close(divergence(mean, log_variance), theirs.sum(1).mean())


@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
def test_in_eval_mode_a_z_has_one_answer_whatever_is_beside_it(norm: str) -> None:
    settings = SMALL.model_copy(update={"norm": norm})
    net = net_of(settings, 32, 5)
    net(drawn(4, 32), drawn(4, 5), drawn(4, 16))  # batch statistics, where there are some
    net.eval()
    z, c = drawn(3, 16), drawn(3, 5)
    assert torch.equal(net.decode(z, c), net.decode(z, c))
    assert_close(net.decode(z, c)[:1], net.decode(z[:1], c[:1]))


def test_another_condition_or_another_z_is_another_answer() -> None:
    net = net_of(SMALL, 32, 5).eval()
    z, c = drawn(1, 16), drawn(1, 5)
    assert not torch.allclose(net.decode(z, c), net.decode(z, c + 1))
    assert not torch.allclose(net.decode(z, c), net.decode(z + 1, c))
    assert not torch.allclose(net.encode(drawn(1, 32), c)[0], net.encode(drawn(1, 32), c + 1)[0])


def test_a_few_vectors_are_learned_by_heart() -> None:
    settings = SMALL.model_copy(update={"kl": 0.0})
    x, c = drawn(4, 48), drawn(4, 5)
    fitting = Fitting(net_of(settings, 48, 5), settings, x, c)
    while fitting.done < settings.epochs:
        fitting.epoch()
    net = fitting.net.eval()
    with torch.no_grad():
        mean, _ = net.encode(x, c)
        assert (net.decode(mean, c) - x).square().mean().item() < 1e-2


def test_a_rate_goes_half_of_a_cosine_down() -> None:
    settings = SMALL.model_copy(update={"epochs": 4})
    fitting = Fitting(net_of(settings, 16, 5), settings, drawn(2, 16), drawn(2, 5))
    rates = []
    while fitting.done < 4:
        fitting.epoch()
        rates.append(fitting.optimizer.param_groups[0]["lr"])
    # Torch's own with T_max = 2 x epochs, stepped once an epoch.
    steered = torch.optim.SGD([torch.zeros(1)], lr=settings.learning_rate)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(steered, T_max=8)
    expected = []
    for _ in range(4):
        expected.append(steered.param_groups[0]["lr"])
        steered.step()
        theirs.step()
    assert rates == pytest.approx(expected)


def test_one_vector_left_over_joins_a_batch_so_that_batch_statistics_have_two() -> None:
    settings = SMALL.model_copy(update={"norm": "batch"})
    fitting = Fitting(net_of(settings, 16, 5), settings, drawn(5, 16), drawn(5, 5))
    error, _ = fitting.epoch()
    assert math.isfinite(error)


def test_lengths_that_do_not_halve_are_refused() -> None:
    with pytest.raises(ValueError, match="pad 4096: 13 channels halve a length so often"):
        validate(GeneratorSettings, {"channels": (8,) * 13}, "generator")
    with pytest.raises(ValueError, match="Did you mean 'epochs'"):
        validate(GeneratorSettings, {"epoch": 3}, "generator")
