"""What gates say: planted specialisation, uniform gates, chance; a mixture's gates against a plain loop."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import weft
from tests.analysis.drawn import drawn
from tests.training.mixed_runs import Runs, runs_of
from weft.analysis.measures.gates import (
    agreement,
    chosen,
    entropy,
    information,
    load,
    shares,
    switching,
    variation,
)
from weft.analysis.reading.gates import said_by_gates
from weft.analysis.study import Study, route_of
from weft.analysis.subjects import find, read
from weft.methods.gates.trace import GateTrace, traced
from weft.runs import RunFolder

TASKS = torch.arange(3).repeat_interleave(torch.tensor([5, 20, 11]))
"""The task of each token, unequally many."""


def one_hot(choice: Tensor, experts: int) -> Tensor:
    return torch.nn.functional.one_hot(choice, experts).double()


class TestInformation:
    def test_planted_specialisation_tells_all(self) -> None:
        planted = one_hot(TASKS, 3)
        assert information(planted, TASKS) == pytest.approx(math.log(3))
        assert information(planted, TASKS, normalised=True) == pytest.approx(1)
        # Which expert it is does not matter, nor one that is never used.
        other = one_hot(torch.tensor([3, 0, 2])[TASKS], 4)
        assert information(other, TASKS) == pytest.approx(math.log(3))

    def test_uniform_and_constant_gates_tell_nothing(self) -> None:
        assert information(torch.full((36, 4), 0.25), TASKS) == pytest.approx(0, abs=1e-12)
        constant = torch.tensor([[0.7, 0.1, 0.2]]).expand(36, 3)
        assert information(constant, TASKS) == pytest.approx(0, abs=1e-12)

    def test_is_its_equation(self) -> None:
        found = shares(drawn(36, 4).abs())
        joint = np.stack([found[t == TASKS].mean(0).numpy() / 3 for t in range(3)])
        outer = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
        expected = float((joint * np.log(joint / outer)).sum())
        assert information(found, TASKS) == pytest.approx(expected)
        assert information(found, TASKS, normalised=True) == pytest.approx(expected / math.log(3))

    def test_permuted_specialisation_tells_hardly_anything(self) -> None:
        tasks = torch.arange(3).repeat_interleave(3000)
        planted = one_hot(tasks, 3)
        order = torch.randperm(9000, generator=torch.Generator().manual_seed(0))
        # Twice tokens times information is about chi-squared with four degrees of freedom; 18.5 is its 99.9 % point.
        assert 2 * 9000 * information(planted[order], tasks) < 18.5

    def test_tokens_at_which_nobody_speaks_do_not_count(self) -> None:
        found = shares(torch.cat([one_hot(TASKS, 3), torch.zeros(4, 3).double()]))
        tasks = torch.cat([TASKS, torch.tensor([0, 1, 2, 2])])
        assert information(found, tasks) == pytest.approx(math.log(3))
        assert chosen(found)[-4:].tolist() == [-1] * 4


class TestShares:
    def test_entropy_of_uniform_gates_is_log_n_and_of_one_expert_0(self) -> None:
        torch.testing.assert_close(
            entropy(shares(torch.full((3, 5), 0.4))), torch.full((3,), math.log(5)).double()
        )
        assert entropy(one_hot(torch.tensor([1, 2]), 3)).tolist() == [0, 0]

    def test_shares_are_sizes_that_sum_to_1(self) -> None:
        found = shares(torch.tensor([[2.0, -1.0, 1.0], [0.0, 0.0, 0.0]]))
        assert found[0].tolist() == [0.5, 0.25, 0.25]
        assert found[1].isnan().all()

    def test_load_and_its_variation(self) -> None:
        even, one = one_hot(torch.arange(4), 4), one_hot(torch.zeros(4).long(), 4)
        assert load(even).tolist() == [0.25] * 4
        assert variation(load(even)) == 0
        assert variation(load(one)) == pytest.approx(math.sqrt(3))


class TestChoices:
    def test_switching_counts_neighbours_of_one_sentence(self) -> None:
        choice = torch.tensor([0, 1, 1, 2, 2, 0, -1, 1])
        sentence = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1])
        assert switching(choice, sentence) == pytest.approx(2 / 4)
        assert math.isnan(switching(torch.tensor([0, 1]), torch.tensor([0, 1])))

    def test_of_equal_gates_the_first_is_chosen(self) -> None:
        assert chosen(shares(torch.ones(2, 40))).tolist() == [0, 0]

    def test_agreement_does_not_depend_on_names(self) -> None:
        one = torch.randint(3, (500,), generator=torch.Generator().manual_seed(0))
        other = torch.randint(3, (500,), generator=torch.Generator().manual_seed(1))
        assert agreement(one, torch.tensor([2, 0, 1])[one]) == pytest.approx(1)
        assert agreement(one, other) == pytest.approx(0, abs=0.02)
        assert math.isnan(agreement(one, torch.zeros(500).long()))

    def test_agreement_is_mutual_information_over_the_smaller_entropy(self) -> None:
        one, other = torch.tensor([0, 0, 1, 1, 2]), torch.tensor([0, 1, 1, 1, 0])
        table = np.zeros((3, 2))
        for i, j in zip(one, other, strict=True):
            table[i, j] += 0.2
        p, q = table.sum(1), table.sum(0)
        known = sum(
            table[i, j] * np.log(table[i, j] / p[i] / q[j])
            for i in range(3)
            for j in range(2)
            if table[i, j]
        )
        assert agreement(one, other) == pytest.approx(known / -(q * np.log(q)).sum())


@pytest.fixture(scope="session")
def runs(
    tiny_folder: Callable[[str], Path], tasks_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Runs:
    return runs_of(tiny_folder, tasks_folder, tmp_path_factory)


@pytest.fixture(scope="session")
def mixture(runs: Runs) -> RunFolder:
    return runs.mixture("bert", "xlora", "mixture.layerwise=true")


@torch.inference_mode()
def test_gates_of_words_are_means_of_their_tokens(mixture: RunFolder, trees: Path) -> None:
    """Batches pad and sort; sentence by sentence nothing is padded."""
    study = Study(*read(find([mixture.path]), torch.device("cpu")), trees)
    subject = study.subjects[0]
    corpus = study.common(subject)
    found = study.gates(corpus, subject)
    assert len(found) > 2
    start = 0
    for record, own in zip(corpus.records, corpus.units, strict=True):
        inputs = {name: torch.tensor(value) for name, value in record.items()}
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        with traced(GateTrace()) as trace:
            subject.model.snapshot.states(inputs, route_of(subject))
        assert trace is not None
        for module, gates in found.items():
            said = trace.gates[module].gates[0].double()
            expected = torch.stack([said[list(places)].mean(0) for places in own])
            torch.testing.assert_close(gates[start : start + len(own)], expected)
        start += len(own)
    assert start == len(corpus)


def test_a_mixture_answers_what_gates_are_asked(
    mixture: RunFolder, trees: Path, tmp_path: Path
) -> None:
    found = weft.analyze(
        [mixture.path], ["gates", "specialisation"], out=tmp_path / "out", data=trees
    ).values["questions"]
    rows = found["gates"]["rows"]
    assert {"task", "position", "part of speech"} <= {row["by"] for row in rows}
    parts = {part.path.name for part in mixture.parts()}
    assert {row["gate"] for row in rows} == parts
    by_place: dict[tuple[str, ...], float] = {}
    for row in rows:
        place = (row["expert"], row["read"], row["by"], row["group"], row["map"])
        by_place[place] = by_place.get(place, 0) + row["share"]
    assert all(total == pytest.approx(1) for total in by_place.values())
    study = Study(*read(find([mixture.path]), torch.device("cpu")), trees)
    (said,) = said_by_gates(study)
    own = said.shares[1]["encoder.layer.1.attention.self.query"]
    shown = [
        row["share"]
        for row in rows
        if row["expert"] == said.subjects[1].name
        and row["map"] == "encoder.layer.1.attention.self.query"
    ]
    assert shown == pytest.approx(own.mean(0).tolist())
    numbers = {row["what"]: row for row in found["specialisation"]["numbers"]}
    told = numbers["information of the expert on the task (0 to 1)"]
    assert 0 < told["value"] < 1
    assert told["low"] > told["chance"] >= 0


def test_experts_have_no_gates(runs: Runs, tmp_path: Path) -> None:
    run = runs.experts("bert").parts()[0].path
    with pytest.raises(ValueError, match="give the run of a mixture"):
        weft.analyze([run], ["gates"], out=tmp_path / "out")
