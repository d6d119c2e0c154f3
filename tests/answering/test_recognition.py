"""The task of a row: a linear classifier on what the base's first layer makes of it, and how sure its score is."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from statistics import NormalDist
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.training.mixed import exact, ingredients, mixed, model_of, rows
from weft.answering.recognition import PENALTY, features, fit, fit_rows, sequences_of
from weft.lowrank.route import Route
from weft.model.mixed import layers_of
from weft.model.mixing import MIX
from weft.model.model import Model
from weft.model.recogniser import Recogniser
from weft.tasks.scoring import share

CPU = torch.device("cpu")
TASKS = ("one", "two", "three")
MIXTURES = ("xlora", "single_pass", "early_pass", "switch")


def clouds(count: int = 40, spread: float = 0.1) -> tuple[Tensor, Tensor]:
    """Points around three corners, and whose they are."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 3
    corners = torch.randn(3, 6, generator=draw)
    return corners[labels] + spread * torch.randn(count, 6, generator=draw), labels


def test_what_is_separable_is_told_apart_exactly() -> None:
    found, labels = clouds()
    one = fit(TASKS, found, labels, torch.ones(40))
    said = one(found, range(40))
    assert [own.task for own in said] == [TASKS[at] for at in labels]
    assert all(own.confidence == max(own.probabilities.values()) > 0.9 for own in said)
    assert all(sum(own.probabilities.values()) == pytest.approx(1) for own in said)


def test_the_fit_is_the_maximum_of_the_penalised_likelihood() -> None:
    found, labels = clouds(spread=3.0)
    weights = torch.rand(40, generator=torch.Generator().manual_seed(1)) + 0.1
    one = fit(TASKS, found, labels, weights)
    x = found.double()
    scale = x.std(0, unbiased=False)
    errors = (x @ one.weight.double().T + one.bias.double()).softmax(-1)
    errors[torch.arange(40), labels] -= 1
    errors *= (weights.double() / weights.double().sum()).unsqueeze(1)
    slope = errors.T @ ((x - x.mean(0)) / scale) + 2 * PENALTY * one.weight.double() * scale
    assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-5)
    assert_close(errors.sum(0), torch.zeros_like(errors.sum(0)), rtol=0, atol=1e-5)


def test_the_sequences_of_a_row_vote_by_their_log_probabilities() -> None:
    found, labels = clouds(spread=2.0)
    one = fit(TASKS, found, labels, torch.ones(40))
    owners = [0, 1, 0, 2, 2, 2]
    said = one(found[:6], owners)
    each = (found[:6] @ one.weight.T + one.bias).softmax(-1)
    for row, own in enumerate(said):
        product = each[[at for at, owner in enumerate(owners) if owner == row]].prod(0)
        wanted = (product / product.sum()).tolist()
        assert list(own.probabilities.values()) == pytest.approx(wanted, rel=1e-4)
        assert own.task == TASKS[max(range(3), key=wanted.__getitem__)]


def test_saved_and_read_again_it_says_the_same() -> None:
    found, labels = clouds()
    one = fit(TASKS, found, labels, torch.ones(40))
    again = Recogniser.of(TASKS, one.tensors())
    assert again(found, range(40)) == one(found, range(40))
    assert one.parameters == 3 * 6 + 3
    with pytest.raises(ValueError, match="recognises no tasks"):
        Recogniser.of(TASKS, {"recognise.weight": one.weight})


@pytest.fixture(params=[*[("bert", name) for name in MIXTURES], ("gpt2", "xlora")], ids="-".join)
def reading(
    request: pytest.FixtureRequest, tiny_folder: Callable[[str], Path]
) -> tuple[Model, bool]:
    """A tiny base with a mixture on it, and whether it is causal."""
    kind, name = request.param
    base = exact(tiny_folder(kind))
    owners = ingredients(base, ("topic", "tags"))
    return model_of(base, owners, mixed(base, owners, name)), kind == "gpt2"


def test_features_are_the_first_layer_s_of_the_bare_base_whatever_lies_beside(
    reading: tuple[Model, bool],
) -> None:
    model, causal = reading
    sequences, _ = sequences_of([item.record for item in rows("topic", 4) + rows("tags", 4)])
    found = features(model, sequences, device=CPU, precision="fp64")
    typed = {} if causal else {"token_type_ids": 0}
    for ids, said in zip(sequences, found, strict=True):
        inputs = {"input_ids": torch.tensor([ids])}
        inputs |= {name: torch.zeros(1, len(ids)).long() for name in typed}
        with torch.inference_mode():
            state = model.snapshot.trunk(**inputs, output_hidden_states=True).hidden_states[1][0]
        wanted = torch.cat([state.mean(0), state[-1 if causal else 0]])
        assert_close(said, wanted.float(), rtol=1e-5, atol=1e-6)
    order = list(reversed(range(len(sequences))))
    turned = features(model, [sequences[at] for at in order], device=CPU, precision="fp64")
    assert_close(turned, found[order], rtol=1e-6, atol=1e-6)


def test_a_pass_stops_where_its_own_reader_looks(tiny_folder: Callable[[str], Path]) -> None:
    base = exact(tiny_folder("bert"))
    layers = layers_of(base.trunk)
    layers.append(copy.deepcopy(layers[0]))
    base.config.num_hidden_layers = len(layers)
    owners = ingredients(base, ("topic", "tags"))
    model = model_of(base, owners, mixed(base, owners, "early_pass", pass_layers=2))
    calls: list[int] = []
    for at, layer in enumerate(layers_of(model.snapshot.trunk)):
        layer.register_forward_hook(lambda *_, at=at: calls.append(at))
    features(model, [[5, 6, 7]], device=CPU, precision="fp64")
    assert calls == [0]
    calls.clear()
    with torch.inference_mode():
        model.snapshot.states({"input_ids": torch.tensor([[5, 6, 7]])}, Route.everywhere(MIX))
    assert calls == [0, 1, 0, 1, 2]


def test_neither_token_types_nor_order_matter_and_every_row_counts_the_same(
    reading: tuple[Model, bool],
) -> None:
    model, _ = reading
    records = {name: [own.record for own in rows(name, 6)] for name in ("topic", "tags")}
    where: dict[str, Any] = {"device": CPU, "precision": "fp64"}
    one = fit_rows(model, records, **where)
    typed = {
        name: [
            {**own, "token_type_ids": [[1] * len(ids) for ids in own["input_ids"]]} for own in kept
        ]
        for name, kept in records.items()
    }
    same = fit_rows(model, typed, **where)
    assert torch.equal(same.weight, one.weight)
    # A row of two equal sequences says what one of them does.
    doubled = {
        name: [{**own, "input_ids": own["input_ids"] * (1 + at % 2)} for at, own in enumerate(kept)]
        for name, kept in records.items()
    }
    sequences, owners = sequences_of(records["topic"] + records["tags"])
    read = features(model, sequences, **where)
    turned = {name: kept[::-1] for name, kept in records.items()}
    # What a unit of a feature is, which the penalty looks at, is of sequences.
    for changed, near in ((turned, 1e-4), (doubled, 2e-2)):
        other = fit_rows(model, changed, **where)
        for said, was in zip(other(read, owners), one(read, owners), strict=True):
            assert said.probabilities == pytest.approx(was.probabilities, abs=near)
    assert one.tasks == ("topic", "tags")


@pytest.mark.parametrize(
    ("hits", "of", "low", "high"), [(8, 10, 0.4902, 0.9433), (0, 10, 0, 0.2775), (9, 9, 0.7009, 1)]
)
def test_a_share_has_wilson_s_interval(hits: int, of: int, low: float, high: float) -> None:
    found = share(hits, of)
    assert found.value == hits / of
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    z = NormalDist().inv_cdf(0.975)
    for end in (found.low, found.high):
        if 1e-12 < end < 1 - 1e-12:
            # The ends are where a test of that share would just not reject it.
            assert abs(found.value - end) / math.sqrt(end * (1 - end) / of) == pytest.approx(z)
    assert share(hits, of, level=0.5).high < found.high or found.high == 1
    with pytest.raises(ValueError, match="no rows"):
        share(0, 0)
