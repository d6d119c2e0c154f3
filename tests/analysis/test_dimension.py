"""The dimension of a task: random subspaces against their dense matrices, scores by size, altered experts, trials."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import scipy.linalg
import torch
from torch import Tensor

import weft
from tests.analysis.drawn import drawn, orthonormal
from tests.merging.runs import Made
from weft.analysis.analyze import chosen_of
from weft.analysis.intervals import geometric
from weft.analysis.measures.changes import Change
from weft.analysis.measures.dimension import (
    held_by,
    held_by_leading,
    least_size,
    least_within,
    truncated,
)
from weft.analysis.measures.projections import (
    Dense,
    Everything,
    Fastfood,
    Isometry,
    Projection,
    hadamard,
)
from weft.analysis.needs import trials
from weft.analysis.needs.altered import answers, held_rows, within
from weft.analysis.notes import Notes
from weft.analysis.questions.directions import asked_of
from weft.analysis.study import Study
from weft.analysis.subjects import find, read
from weft.lowrank.attach import frozen_linear

KINDS: tuple[type[Projection], ...] = (Dense, Fastfood, Isometry)


def made_of(kind: type[Projection], dimensions: int, size: int, seed: int = 0) -> Projection:
    return kind(dimensions, size, torch.Generator().manual_seed(seed))


def matrix(projection: Projection) -> Tensor:
    """P (D, d), column by column."""
    units = torch.eye(projection.dimensions, dtype=torch.float64)
    return torch.stack([projection(unit) for unit in units], dim=1)


class TestProjections:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize(
        ("dimensions", "size"), [(1, 7), (5, 64), (16, 100), (20, 20), (33, 200)]
    )
    def test_columns_have_norm_one(
        self, kind: type[Projection], dimensions: int, size: int
    ) -> None:
        P = matrix(made_of(kind, dimensions, size))
        assert P.shape == (size, dimensions)
        # They are drawn in single precision.
        torch.testing.assert_close(
            P.norm(dim=0), torch.ones(dimensions).double(), rtol=1e-6, atol=0
        )

    @pytest.mark.parametrize("kind", KINDS)
    def test_lengths_are_nearly_kept(self, kind: type[Projection]) -> None:
        projection = made_of(kind, 20, 20_000)
        for seed in range(5):
            theta = drawn(20, seed=seed)
            # Inner products of random columns are about 1 / sqrt(20 000) = 0.007, and the square sums 20 x 19 of them.
            assert projection(theta).norm().item() == pytest.approx(theta.norm().item(), rel=0.06)

    def test_the_isometry_keeps_them_exactly(self) -> None:
        P = matrix(made_of(Isometry, 13, 100))
        torch.testing.assert_close(P.T @ P, torch.eye(13).double())
        assert ((P != 0).sum(1) == 1).all()
        counts = (P != 0).sum(0)
        assert counts.max() - counts.min() <= 1

    @pytest.mark.parametrize(("dimensions", "size"), [(8, 32), (5, 30), (8, 27)])
    def test_fastfood_is_its_product_of_dense_matrices(self, dimensions: int, size: int) -> None:
        found = made_of(Fastfood, dimensions, size)
        assert isinstance(found, Fastfood)
        P = matrix(found)
        H = torch.from_numpy(scipy.linalg.hadamard(8)).double()
        blocks = []
        for B, G, Pi in zip(found.B, found.G, found.Pi, strict=True):
            permute = torch.eye(8, dtype=torch.float64)[Pi]
            blocks.append(H @ torch.diag(G.double()) @ permute @ H @ torch.diag(B.double()))
        expected = torch.cat(blocks)[:size, :dimensions]
        expected = expected / expected.norm(dim=0)
        torch.testing.assert_close(P, expected, rtol=1e-6, atol=1e-7)

    @pytest.mark.parametrize("width", [1, 2, 8, 64])
    def test_the_transform_is_hadamard_s_matrix(self, width: int) -> None:
        x = drawn(3, width)
        expected = x @ torch.from_numpy(scipy.linalg.hadamard(width)).double()
        torch.testing.assert_close(hadamard(x), expected)

    @pytest.mark.parametrize("kind", KINDS)
    def test_gradients_are_those_of_the_matrix(self, kind: type[Projection]) -> None:
        projection = made_of(kind, 6, 50)
        theta, at = drawn(6).requires_grad_(), drawn(50, seed=1)
        (projection(theta) @ at).backward()
        torch.testing.assert_close(theta.grad, matrix(projection).T @ at)

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_same_seed_draws_the_same(self, kind: type[Projection]) -> None:
        one, again, other = (made_of(kind, 6, 50, seed) for seed in (0, 0, 1))
        theta = drawn(6)
        assert torch.equal(one(theta), again(theta))
        assert not torch.allclose(one(theta), other(theta))

    def test_what_cannot_be_is_refused(self) -> None:
        with pytest.raises(ValueError, match="expected 1 to 5"):
            made_of(Fastfood, 6, 5)
        with pytest.raises(ValueError, match="take fastfood"):
            made_of(Dense, 1000, 100_000)
        theta = drawn(5)
        assert made_of(Everything, 5, 5)(theta) is theta


class TestSizes:
    def test_between_sizes_it_is_a_line_over_logarithms(self) -> None:
        assert least_size([1, 10, 100], [0.0, 0.4, 0.8], 0.6) == pytest.approx(10**1.5)
        assert least_size([1, 10, 100], [0.0, 0.4, 0.8], 0.4) == pytest.approx(10)
        assert least_size([1, 10, 100], [0.9, 0.4, 0.8], 0.4) == 1
        assert least_size([1, 10, 100], [0.0, 0.4, 0.8], 0.81) == math.inf

    def test_it_grows_with_what_is_wanted(self) -> None:
        sizes, scores = [2, 8, 32, 128], [0.1, 0.3, 0.7, 0.75]
        found = [least_size(sizes, scores, at / 100) for at in range(5, 76)]
        assert found == sorted(found)
        assert (found[0], found[-1]) == (2, pytest.approx(128))

    def test_the_least_within_a_share_of_the_best(self) -> None:
        assert least_within([1, 2, 4], [0.5, 0.791, 0.8]) == 4
        assert least_within([1, 2, 4], [0.5, 0.793, 0.8]) == 2
        assert least_within([1, 2, 4], [-3.0, -2.01, -2.0]) == 2

    def test_sizes_are_averaged_over_their_logarithms(self) -> None:
        found = geometric([10.0, 100.0, 1000.0])
        assert found.value == pytest.approx(100)
        half = 4.303 / math.sqrt(3)
        assert found.high == pytest.approx(10 ** (2 + half), rel=1e-6)
        assert geometric([1.0, math.inf]).value == math.inf
        assert math.isnan(geometric([1.0, math.inf, math.nan]).value)


class TestChanges:
    def test_all_directions_are_all_of_the_change(self) -> None:
        A, B = drawn(4, 30), drawn(20, 4, seed=1)
        change = Change.of(A, B)
        for kept in (4, 9, torch.tensor([3, 0, 2, 1])):
            own = truncated(change, kept)
            torch.testing.assert_close(own.U * own.S @ own.Vh, B @ A)
        assert truncated(change, 0).rank == 0

    def test_the_strongest_are_the_nearest_change_of_that_rank(self) -> None:
        A, B = drawn(4, 30), drawn(20, 4, seed=1)
        U, S, Vh = torch.linalg.svd(B @ A, full_matrices=False)
        own = truncated(Change.of(A, B), 2)
        torch.testing.assert_close(own.U * own.S @ own.Vh, U[:, :2] * S[:2] @ Vh[:2])

    def test_what_directions_hold_is_the_norm_of_the_projection(self) -> None:
        A, B = drawn(6, 30), drawn(20, 6, seed=1)
        change, dense = Change.of(A, B), B @ A
        U, V = orthonormal(20, 3), orthonormal(30, 3, seed=1)
        expected = (U.T @ dense @ V).norm() ** 2 / dense.norm() ** 2
        assert held_by(change, U, V.T) == pytest.approx(expected.item())
        for k in (1, 3, 6):
            most = held_by(change, change.U[:, :k], change.Vh[:k])
            assert held_by_leading(change, k) == pytest.approx(most)
        assert held_by_leading(change, 6) == pytest.approx(1)
        assert held_by_leading(change, 3) > held_by(change, U, V.T)

    def test_random_directions_hold_what_chance_says(self) -> None:
        change = Change.of(drawn(6, 30), drawn(20, 6, seed=1))
        found = [
            held_by(change, orthonormal(20, 4, seed=s), orthonormal(30, 4, seed=1000 + s).T)
            for s in range(300)
        ]
        assert sum(found) / 300 == pytest.approx(4 * 4 / (20 * 30), rel=0.1)

    def test_powers_of_two_are_asked_and_all(self) -> None:
        def of(rank: int) -> dict[str, Change]:
            return {"x": Change.of(orthonormal(200, rank).T, orthonormal(200, rank))}

        assert asked_of(of(1)) == [0, 1]
        assert asked_of(of(6)) == [0, 1, 2, 4, 6]
        assert asked_of(of(8)) == [0, 1, 2, 4, 8]
        assert asked_of(of(200)) == [0, 1, 2, 4, 8, 16, 32, 64, 200]
        assert asked_of({}) == [0]


@pytest.fixture
def study(made: Made) -> Study:
    runs = [made("topic"), made("tags", targets=["query", "ffn_in"], rank=3)]
    return Study(*read(find(runs), torch.device("cpu")))


class TestAltered:
    def test_all_of_its_own_change_answers_as_the_expert(self, study: Study, made: Made) -> None:
        """Whole predictions, probabilities and all, against `weft.evaluate` on the same rows."""
        for subject, changes in study.experts:
            rows = held_rows(study, subject)
            found = answers(study, subject, rows, changes)
            evaluated = weft.evaluate(subject.found.folder.path, save=False)
            assert not isinstance(evaluated, list)
            by_id = {row["id"]: row for row in evaluated.predictions}
            assert len(found) == len(by_id)
            for row in found:
                expected = by_id[row["id"]]
                assert expected.keys() == row.keys()
                for key, value in row.items():
                    numbers = isinstance(value, float | dict)
                    assert value == (pytest.approx(expected[key]) if numbers else expected[key])
            assert set(study.model.experts) == {"topic", "tags"}

    def test_no_change_is_the_head_on_the_bare_base(self, study: Study) -> None:
        subject, changes = study.experts[0]
        rows = held_rows(study, subject)
        none = answers(study, subject, rows, {})
        empty = {name: truncated(change, 0) for name, change in changes.items()}
        assert answers(study, subject, rows, empty) == none
        assert answers(study, subject, rows, changes) != none

    def test_a_part_that_changes_nothing_costs_nothing(self, study: Study) -> None:
        """Layer 0 of a change that is 0 there."""
        subject, changes = study.experts[0]
        rows = held_rows(study, subject)
        rest = {n: c for n, c in changes.items() if study.place(n)[0] != 0}
        zero = {
            name: change if name in rest else Change(change.U, 0 * change.S, change.Vh)
            for name, change in changes.items()
        }
        assert rest.keys() < changes.keys()
        before, after = (answers(study, subject, rows, own) for own in (zero, rest))
        score = rows.difference(after, before)
        assert (score.value, score.low, score.high) == (0, 0, 0)

    def test_the_ends_of_both_questions_are_the_expert_and_its_head_on_the_bare_base(
        self, made: Made, tmp_path: Path
    ) -> None:
        run = made("topic")
        found = weft.analyze([run], ["directions", "leftout"], out=tmp_path / "out").values[
            "questions"
        ]
        evaluated = weft.evaluate(run, save=False)
        assert not isinstance(evaluated, list)
        rows = {(r["kept"], r["directions"]): r for r in found["directions"]["rows"]}
        assert {k for _, k in rows} == {0, 1, 2}
        metric = rows["strongest", 2]["metric"]
        for kind in ("strongest", "random"):
            assert rows[kind, 2]["score"] == pytest.approx(evaluated.scores[metric].value)
        assert rows["strongest", 0]["score"] == rows["random", 0]["score"]
        left = {row["without"]: row for row in found["leftout"]["rows"]}
        assert left.keys() == {"layer 0", "layer 1", "query", "value", "all"}
        cost = 100 * (rows["strongest", 0]["score"] - rows["strongest", 2]["score"])
        assert left["all"]["points"] == pytest.approx(cost)
        assert left["all"]["points by chance"] == pytest.approx(cost)
        shares = [left[name]["squared norm"] for name in ("query", "value")]
        assert sum(shares) == pytest.approx(100)

    def test_rows_end_where_tokens_do(self) -> None:
        records: list[Any] = [{"input_ids": [[0] * n, [0]]} for n in (4, 4, 4)]
        rows: list[Any] = [{"id": str(at)} for at in range(3)]
        assert within(rows, records, 10)[0] == rows[:2]
        assert within(rows, records, 1)[0] == rows[:1]
        with pytest.raises(ValueError, match="no rows"):
            within([], [], 10)


class TestTrials:
    def test_all_weights_learn_a_subspace_learns_otherwise_and_the_base_stays(
        self, study: Study
    ) -> None:
        ground = trials.grounds(study)[0]
        before = {n: study.weight(n).clone() for n in ground.maps}
        none, all_, few = (
            trials.tried(study, ground, space, size, 0, steps=12)
            for space, size in (("nothing", 0), ("all weights", 0), ("fastfood", 4))
        )
        assert all_.loss < none.loss
        assert len({none.loss, all_.loss, few.loss}) == 3
        for name, weight in before.items():
            assert torch.equal(weight, study.weight(name))
        assert trials.tried(study, ground, "fastfood", 4, 0, steps=12) == few

    def test_a_dense_subspace_of_all_dimensions_has_the_same_start(self, study: Study) -> None:
        """Nothing is changed yet in any space, so all of them begin at the loss of the head that was drawn."""
        ground = trials.grounds(study)[1]
        for space, size in (("isometry", 16), ("dense", 4), ("all weights", 0), ("lora", 2)):
            expert, _ = trials.expert_in(study, ground, space, size, seed=0)
            trials.expand(expert)
            for name in ground.maps:
                weight = frozen_linear(study.base.trunk, name).weight
                assert not expert.adapters[name].delta(weight).any()

    def test_steps_are_as_long_in_every_space(self, study: Study) -> None:
        """One step of Adam from 0, with a gradient in every number, is sqrt(d) rates in theta."""
        ground = trials.grounds(study)[0]
        count, found = trials.weights_of(study, ground), []
        for space, size in (("isometry", 16), ("all weights", 0)):
            expert, rate = trials.expert_in(study, ground, space, size, seed=0)
            assert isinstance(expert.shared, trials.Subspace)
            with torch.no_grad():
                expert.shared.theta += rate
            trials.expand(expert)
            deltas = [expert.shared.part(name).detach().double() for name in ground.maps]
            found.append(math.sqrt(sum(delta.square().sum().item() for delta in deltas)))
        assert found == pytest.approx([trials.RATE * math.sqrt(count)] * 2)


@pytest.mark.slow
def test_an_interrupted_question_goes_on_with_its_trainings(made: Made, tmp_path: Path) -> None:
    """As if interrupted after half of them: the other half alone is trained again, and the answer is the same."""
    runs, out = [made("topic")], tmp_path / "out"
    first = weft.analyze(runs, ["ranks"], out=out)
    notes = sorted((out / "trainings").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert len(notes) == len(first.values["questions"]["ranks"]["rows"])
    (out / "answers" / "ranks.json").unlink()
    kept, gone = notes[: len(notes) // 2], notes[len(notes) // 2 :]
    times = [path.stat().st_mtime_ns for path in kept]
    for path in gone:
        path.unlink()
    second = weft.analyze(runs, ["ranks"], out=out)
    assert second.values == first.values
    assert [path.stat().st_mtime_ns for path in kept] == times
    assert all(path.is_file() for path in gone)


class TestNotes:
    def test_a_value_is_made_once(self, tmp_path: Path) -> None:
        made: list[int] = []

        def make() -> dict[str, Any]:
            made.append(1)
            return {"loss": 0.1 + 0.2}

        for mark, count in (("a", 1), ("a", 1), ("b", 2), ("b", 2)):
            assert Notes(tmp_path, mark).once("x", make) == {"loss": 0.1 + 0.2}
            assert len(made) == count
        Notes(tmp_path, "b").once("y", make)
        assert len(made) == 3
        Notes().once("y", make)
        assert len(made) == 4

    def test_a_damaged_file_is_named(self, tmp_path: Path) -> None:
        Notes(tmp_path, "a").once("x", lambda: {"loss": 1.0})
        [path] = (tmp_path / "trainings").iterdir()
        path.write_text('{"name": "x"}')
        with pytest.raises(ValueError, match="is damaged; remove it"):
            Notes(tmp_path, "a").once("x", lambda: {"loss": 1.0})


def test_what_trains_is_asked_by_name_alone(made: Made) -> None:
    found = find([made("topic")])
    chosen, left = chosen_of(None, found, None)
    assert {"dimension", "ranks"} <= left.keys()
    assert not {"dimension", "ranks"} & chosen.keys()
    assert chosen_of(["dimension"], found, None)[0].keys() == {"dimension"}


@pytest.mark.slow
def test_the_dimension_of_a_tiny_task(made: Made, tmp_path: Path) -> None:
    found = weft.analyze([made("topic")], ["dimension"], out=tmp_path / "out")
    rows = found.values["questions"]["dimension"]["rows"]
    assert {row["space"] for row in rows} == {
        "nothing", "all weights", "fastfood", "isometry", "dense",
    }  # fmt: skip
    ends = [row["way"] for row in rows if row["space"] in ("nothing", "all weights")]
    assert sorted(ends) == [0, 0, 0, 1, 1, 1]


class TestWhole:
    """A model that was trained whole, beside adapters."""

    @pytest.fixture
    def runs(self, made: Made, tiny_folder: Callable[[str], Path]) -> list[Path]:
        return [whole(made, tiny_folder("bert")), made("topic")]

    def test_its_weights_are_its_own_again(self, runs: list[Path]) -> None:
        study = Study(*read(find(runs), torch.device("cpu")))
        subject, changes = study.experts[0]
        assert subject.whole
        state = {n: v.clone() for n, v in subject.model.trunk.state_dict().items()}
        rows = held_rows(study, subject)
        full = answers(study, subject, rows, changes)
        evaluated = weft.evaluate(subject.found.folder.path, save=False)
        assert not isinstance(evaluated, list)
        assert [row["label"] for row in full] == [row["label"] for row in evaluated.predictions]
        assert answers(study, subject, rows, {}) != full
        for name, value in subject.model.trunk.state_dict().items():
            assert torch.equal(value, state[name]), name

    def test_adapters_are_held_against_it(self, runs: list[Path], tmp_path: Path) -> None:
        found = weft.analyze(runs, ["whole", "directions"], out=tmp_path / "out").values[
            "questions"
        ]
        study = Study(*read(find(runs), torch.device("cpu")))
        (full, own), (adapter, theirs) = study.experts
        for row in found["whole"]["rows"]:
            change = own[row["map"]]
            dense = change.U * change.S @ change.Vh
            U, Vh = theirs[row["map"]].U, theirs[row["map"]].Vh
            expected = (U.T @ dense @ Vh.T).norm() ** 2 / dense.norm() ** 2
            assert row["held"] == pytest.approx(expected.item())
            assert row["at most"] >= row["held"]
        assert {row["expert"] for row in found["directions"]["rows"]} == {full.name, adapter.name}

    def test_without_one_it_says_what_it_needs(self, made: Made, tmp_path: Path) -> None:
        runs = [made("topic"), made("tags")]
        with pytest.raises(ValueError, match="a run of recipe full"):
            weft.analyze(runs, ["whole"], out=tmp_path / "out")


def whole(made: Made, base: Path) -> Path:
    """A run of recipe full on the topic task, of weights that were moved a little."""
    folder = made.folder / "whole"
    weft.train(
        {
            "base": str(base),
            "task": {"name": str(made.tasks / "topic" / "topic.yaml")},
            "recipe": {"name": "full"},
            "training": {"max_steps": 2, "learning_rate": 1e-3, "precision": "fp64"},
        },
        out=folder,
    )
    return folder
