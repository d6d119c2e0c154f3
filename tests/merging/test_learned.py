"""Weights that are learned: what learns, where it starts, and that it does what it says."""

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

import weft
from tests.merging.runs import Made
from weft.config import MergeSettings
from weft.merging.combine import Learned, combined
from weft.merging.heads import chosen
from weft.merging.learned import learners
from weft.merging.learned.lorahub import searched
from weft.merging.learned.soups import fitted, woven
from weft.merging.record import read_record
from weft.merging.search import held
from weft.merging.sources import find, read
from weft.merging.stage import MERGED, Stage
from weft.methods.merges import merges
from weft.methods.merges.cat import Cat
from weft.methods.merges.lorahub import LorahubSettings
from weft.methods.merges.soups import SoupsSettings
from weft.model.expert import Expert
from weft.model.model import Model


@pytest.fixture
def stage(made: Made) -> Stage:
    """Three experts of two ranks; one leaves a map alone."""
    runs = [made("topic"), made("tags", rank=3), made("endings", targets=["query"])]
    found = find(runs, None)
    base, sources = read(found, torch.float64, None)
    return Stage(base, sources, chosen(found, None)[0], device="cpu")


def states(model: Model) -> list[Tensor]:
    return [value.detach().clone() for value in model.state_dict().values()]


def test_every_learner_is_a_merge_and_a_file_of_its_name() -> None:
    assert set(learners.names()) <= set(merges.names())


def test_soups_start_as_the_mean_of_the_experts_and_have_a_weight_for_each_map(
    stage: Stage,
) -> None:
    settings = MergeSettings()
    mean = combined(stage.sources, Cat(), Learned([1 / 3] * 3), settings).factors
    for softmax in (True, False):
        gates = woven(stage, softmax=softmax)
        assert gates.keys() == mean.keys()
        assert [tuple(gate.weights.shape) for gate in gates.values()] == [(3,)] * len(gates)
        for name, gate in gates.items():
            A, B = mean[name]
            with torch.no_grad():
                found = gate.delta(torch.empty(0))
            torch.testing.assert_close(found, B @ A, rtol=1e-12, atol=1e-13)


def test_soups_in_the_model_answer_as_their_folded_factors(stage: Stage) -> None:
    gates = woven(stage, softmax=True)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for gate in gates.values():
            gate.weights.copy_(torch.randn(3, generator=generator, dtype=torch.float64))
    by_map = {name: gate.gates.tolist() for name, gate in gates.items()}
    one = stage.answered[1]
    rows = stage.rows(one.part, "validation")
    stage.put_expert(Expert(MERGED, gates, None), trainable=True)
    live = stage.said(one, rows, (MERGED,))
    learned = Learned([1.0] * 3, by_map=by_map)
    stage.put(combined(stage.sources, Cat(), learned, MergeSettings()).factors)
    folded = stage.said(one, rows, (MERGED,))
    for a, b in zip(live, folded, strict=True):
        assert a["tags"] == b["tags"]
        for entity, other in zip(a["entities"], b["entities"], strict=True):
            assert entity["score"] == pytest.approx(other["score"], rel=1e-6)


def test_adding_a_number_to_all_weights_of_a_softmax_changes_nothing(stage: Stage) -> None:
    gate = next(iter(woven(stage, softmax=True).values()))
    before = gate.gates.detach().clone()
    with torch.no_grad():
        gate.weights += 1.7
    torch.testing.assert_close(gate.gates.detach(), before, rtol=1e-12, atol=0)


def test_only_the_weights_of_soups_learn_and_the_loss_falls(stage: Stage) -> None:
    gates = woven(stage, softmax=False)
    before = states(copy.copy(stage.model))
    stage.put_expert(Expert(MERGED, gates, None), trainable=True)
    own = SoupsSettings(normalise="free", epochs=12, batch_size=4)
    items = [
        [stage.item(one, (MERGED,), record) for record in stage.rows(one.part, "train").records]
        for one in stage.answered
    ]
    losses = fitted(stage, list(gates.values()), items, own, seed=0)
    assert len(losses) == 12
    assert losses[-1] < losses[0]
    assert all(gate.weights.grad is not None for gate in gates.values())
    assert any((gate.weights - 1 / 3).abs().max() > 1e-3 for gate in gates.values())
    stage.model.remove(MERGED)
    for value, other in zip(states(stage.model), before, strict=True):
        assert torch.equal(value, other)
    assert not [name for name, p in stage.model.named_parameters() if p.requires_grad]


def test_soups_end_in_a_run_folder_with_their_weights_by_map(made: Made) -> None:
    runs = [made("topic"), made("tags")]
    settings = {"epochs": 2, "rows": 2}
    out = weft.merge(runs, "soups", settings=settings, out=made.folder / "out")
    record = read_record(out.path)
    assert record is not None
    by_map = record.learned["by_map"]
    assert all(sum(weights) == pytest.approx(1) for weights in by_map.values())
    assert [one.weight for one in record.experts] == pytest.approx(
        [sum(own[at] for own in by_map.values()) / len(by_map) for at in (0, 1)]
    )
    assert record.error == pytest.approx(0, abs=1e-7)
    training = out.parts()[0].training
    assert training is not None
    assert training["trainable_parameters"] == 2 * len(by_map)
    assert training["examples"] == 4
    again = weft.merge(runs, "soups", settings=settings, out=made.folder / "again")
    assert read_record(again.path) == record


def test_what_is_learned_from_is_never_scored(stage: Stage) -> None:
    for one in stage.answered:
        train = {row["id"] for row in stage.rows(one.part, "train").examples}
        scored = {row["id"] for row in stage.rows(one.part, "validation").examples}
        learned = {row["id"] for row in held(stage, one).examples}
        assert learned <= train
        assert not learned & scored


def test_learned_weights_need_rows_and_take_none_of_the_users(made: Made) -> None:
    run = made.labelled("far", ["a", "b"])
    for method in ("soups", "lorahub"):
        with pytest.raises(ValueError, match=r"which are not at hand|give at least two"):
            weft.merge([run], method, out=made.folder / "out")
        with pytest.raises(ValueError, match=f"but {method} learns them"):
            weft.merge([run], method, weights=[1.0], out=made.folder / "out")
        with pytest.raises(ValueError, match="learns its weights itself"):
            weft.merge([run], method, search=True, out=made.folder / "out")
    assert not (made.folder / "out").exists()


def hill(weights: Sequence[float]) -> float:
    return (weights[0] - 0.9) ** 2 + (weights[1] + 0.4) ** 2


def test_lorahub_searches_within_bounds_and_finds_the_valley() -> None:
    pytest.importorskip("cma", reason="lorahub searches with cma, an extra")
    tried = searched(hill, 2, LorahubSettings(tries=120), seed=0)
    best, value = min(tried, key=lambda one: one[1])
    assert value < 1e-2
    assert best == pytest.approx([0.9, -0.4], abs=0.15)
    assert all(abs(weight) <= 1.5 for weights, _ in tried for weight in weights)
    assert tried == searched(hill, 2, LorahubSettings(tries=120), seed=0)
    assert tried != searched(hill, 2, LorahubSettings(tries=120), seed=1)


@pytest.mark.parametrize("mode", ["factors", "delta"])
def test_lorahub_keeps_the_best_it_tried(made: Made, mode: str) -> None:
    pytest.importorskip("cma", reason="lorahub searches with cma, an extra")
    runs = [made("topic"), made("tags")]
    settings = {"mode": mode, "tries": 9, "rows": 2}
    out = weft.merge(runs, "lorahub", settings=settings, out=made.folder / "out", scores=False)
    record = read_record(out.path)
    assert record is not None
    tried = record.learned["tried"]
    assert len(tried) == 9
    best = min(tried, key=lambda one: one["value"])
    assert [one.weight for one in record.experts] == best["weights"]
    assert record.rank == (4 if mode == "delta" else 2)


def test_without_cma_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cma", None)
    with pytest.raises(ValueError, match=r"pip install 'weft\[merge\]'"):
        searched(hill, 2, LorahubSettings(), seed=0)
