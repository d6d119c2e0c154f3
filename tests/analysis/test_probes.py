"""Probes: what they find where it was planted, what chance gives where nothing was, and their numbers against scipy."""

import math

import numpy as np
import pytest
import scipy.sparse.csgraph
import scipy.stats
import torch
from torch import Tensor

from tests.analysis.drawn import drawn, orthonormal
from weft.analysis.intervals import jackknife, over_seeds, repeated
from weft.analysis.measures.probes import codelength, structural, trees
from weft.analysis.measures.probes.linear import Scale, control_labels, hits
from weft.analysis.measures.probes.scalar_mix import centre_of_gravity, mix_weights
from weft.analysis.measures.probes.structural import Parse, agreement_of
from weft.analysis.probing.readers import BASE, Statistic, differences, verdict
from weft.tasks.scoring import Score


def some_tree(words: int, seed: int) -> tuple[int, ...]:
    """Heads of a random tree, by number from 1, its root anywhere."""
    generator = np.random.default_rng(seed)
    order = generator.permutation(words)
    heads = [0] * words
    for at in range(1, words):
        heads[order[at]] = int(order[generator.integers(at)]) + 1
    return tuple(heads)


def embedded(heads: tuple[int, ...], hidden: int) -> Tensor:
    """A vector a word whose squared distances are the tree's, and whose squared norms are depths: a direction an edge.

    A word has a 1 for every edge between it and the root.
    """
    found = torch.zeros(len(heads), hidden, dtype=torch.float64)
    for word in range(len(heads)):
        at = word
        while heads[at]:
            found[word, at] = 1
            at = heads[at] - 1
    return found


class TestTrees:
    @pytest.mark.parametrize("seed", range(4))
    def test_distances_and_depths_are_those_of_the_graph(self, seed: int) -> None:
        heads = some_tree(12, seed)
        graph = np.zeros((12, 12))
        for word, head in enumerate(heads):
            if head:
                graph[word, head - 1] = 1
        expected = scipy.sparse.csgraph.shortest_path(graph, directed=False)
        np.testing.assert_array_equal(trees.distances(heads).numpy(), expected)
        np.testing.assert_array_equal(trees.depths(heads).numpy(), expected[heads.index(0)])

    @pytest.mark.parametrize("heads", [(0, 0), (2, 1), (0, 3, 2), (2, 0, 3)])
    def test_what_is_no_tree_is_refused(self, heads: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="make no tree"):
            trees.distances(heads)

    def test_the_spanning_tree_is_scipy_s(self) -> None:
        apart = drawn(9, 9).abs() + 0.1
        apart = apart + apart.T
        kept = [True] * 9
        kept[3] = kept[5] = False
        own = [at for at in range(9) if kept[at]]
        inside = apart[own][:, own].numpy()
        expected = scipy.sparse.csgraph.minimum_spanning_tree(np.triu(inside, 1)).tocoo()
        pairs = {
            (own[min(i, j)], own[max(i, j)])
            for i, j in zip(expected.row, expected.col, strict=True)
        }
        assert trees.spanning_tree(apart, kept) == pairs
        assert trees.spanning_tree(apart, [False] * 9) == set()

    def test_spearman_is_scipy_s_with_ties_too(self) -> None:
        x, y = drawn(5, 20), (2 * drawn(5, 20, seed=1)).round()
        expected = [scipy.stats.spearmanr(a, b).statistic for a, b in zip(x, y, strict=True)]
        np.testing.assert_allclose(trees.spearman(x, y).numpy(), expected)
        assert math.isnan(trees.spearman(x[0], torch.ones(20)).item())

    def test_lengths_count_alike_within_their_bounds(self) -> None:
        values = torch.tensor([0.2, 0.4, 1.0, 9.0, 9.0, math.nan]).double()
        lengths = torch.tensor([5, 5, 50, 4, 51, 7])
        assert trees.mean_by_length(values, lengths) == pytest.approx((0.3 + 1.0) / 2)

    def test_the_tree_s_own_distances_are_all_right(self) -> None:
        heads = some_tree(10, 1)
        parse = Parse(heads, (True,) * 10)
        found = agreement_of(trees.distances(heads), trees.depths(heads), parse)
        assert found == pytest.approx((9, 9, 1, 1, 1))

    def test_punctuation_is_neither_an_edge_nor_a_root(self) -> None:
        heads = (2, 0, 2, 2)
        apart, deep = trees.distances(heads).double(), trees.depths(heads).double()
        deep[3], apart[3], apart[:, 3] = -1, 0.1, 0.1
        right, edges, _, root, _ = agreement_of(
            apart, deep, Parse(heads, (True, True, True, False))
        )
        assert (right, edges, root) == (2, 2, 1)
        right, edges, _, root, _ = agreement_of(apart, deep, Parse(heads, (True,) * 4))
        assert edges == 3
        assert root == 0


class TestStructural:
    def test_trees_that_lie_in_the_space_are_found_in_sentences_not_seen(self) -> None:
        """Layer 0 is noise, layer 1 has the trees under a rotation, beside larger directions that say nothing."""
        words, hidden = 8, 24
        heads = [some_tree(words, seed) for seed in range(120)]
        parses = [Parse(own, (True,) * words) for own in heads]
        Q = orthonormal(hidden, hidden)
        planted = torch.cat([embedded(own, hidden) for own in heads])
        planted = planted + 2 * torch.cat([torch.zeros(960, 16), drawn(960, 8, seed=5)], 1)
        states = torch.stack([drawn(960, hidden, seed=1), planted @ Q])
        cut = 80 * words
        probe = structural.train(states[:, :cut], parses[:80], rank=hidden, epochs=600, seed=0)
        noise, tree = structural.agreements(probe, states[:, cut:], parses[80:])
        assert (tree.right.sum() / tree.edges.sum()).item() == 1
        assert tree.root.mean().item() == 1
        # Words as far from one another are never quite so in predictions: rounded they are, one and all.
        held = (states[1, cut:].float() / probe.scale[1]).view(40, words, hidden)
        apart = structural.squared_distances(held @ probe.distance[1]).round()
        deep = structural.squared_norms(held @ probe.depth[1]).round()
        torch.testing.assert_close(
            apart, torch.stack([trees.distances(h) for h in heads[80:]]).float()
        )
        torch.testing.assert_close(deep, torch.stack([trees.depths(h) for h in heads[80:]]).float())
        # A random spanning tree of n words shares 2 (n - 1) / n of the n - 1 edges of another one.
        assert (noise.right.sum() / noise.edges.sum()).item() == pytest.approx(2 / words, abs=0.1)

    def test_squared_distances_are_their_equation(self) -> None:
        h, P = drawn(6, 5), drawn(5, 3, seed=1)
        expected = ((h[:, None] - h[None]) @ P).square().sum(-1)
        torch.testing.assert_close(structural.squared_distances(h @ P), expected)
        torch.testing.assert_close(structural.squared_norms(h @ P), (h @ P).norm(dim=1) ** 2)

    def test_layers_trained_together_are_as_trained_alone(self) -> None:
        heads = [some_tree(4 + seed % 3, seed) for seed in range(12)]
        parses = [Parse(own, (True,) * len(own)) for own in heads]
        states = drawn(2, sum(map(len, heads)), 6)
        both = structural.train(states, parses, rank=3, epochs=2, seed=0)
        one = structural.train(states[1:], parses, rank=3, epochs=2, seed=0)
        torch.testing.assert_close(both.distance[1:], one.distance)
        torch.testing.assert_close(both.depth[1:], one.depth)

    def test_a_probe_does_not_see_the_scale_of_its_vectors(self) -> None:
        heads = [some_tree(5, seed) for seed in range(6)]
        parses = [Parse(own, (True,) * 5) for own in heads]
        states = drawn(1, 30, 6)
        found = [structural.train(c * states, parses, epochs=1, seed=0) for c in (1.0, 1e3)]
        torch.testing.assert_close(found[0].distance, found[1].distance)


class TestLinear:
    def planted(self, seed: int) -> tuple[Tensor, list[str], list[str]]:
        """Vectors with a word's own noise and its class's direction; 40 words of 4 classes."""
        word = torch.randint(40, (600,), generator=torch.Generator().manual_seed(seed))
        label = word % 4
        directions, own = 2 * drawn(4, 20), drawn(600, 20, seed=100 + seed)
        return directions[label] + own, [f"w{at}" for at in word], [f"c{at}" for at in label]

    def test_planted_labels_are_found_and_a_control_task_is_not(self) -> None:
        """Vectors have no word in them beside its class, so nothing of the control task can be learned but that."""
        states, words, labels = self.planted(0)
        others, wanted_words, wanted = self.planted(1)
        right = hits(states, labels, others, wanted).mean().item()
        generator = torch.Generator().manual_seed(0)
        by_word = control_labels([*words, *wanted_words], labels, generator)
        control = hits(
            states, [by_word[own] for own in words], others, [by_word[own] for own in wanted_words]
        )
        assert right > 0.98
        # 10 words a class: its most frequent control label is right for a few of ten, at the very most for half.
        assert control.mean().item() < 0.5
        assert right - control.mean().item() > 0.45

    def test_words_that_can_be_told_apart_are_learned_by_heart(self) -> None:
        word = torch.arange(600) % 30
        states, words = torch.eye(30)[word].double(), [f"w{at}" for at in word]
        by_word = control_labels(words, ["a", "b"], torch.Generator().manual_seed(0))
        labels = [by_word[own] for own in words]
        assert len(set(labels)) == 2
        assert hits(states, labels, states, labels).mean().item() == 1

    def test_control_labels_are_drawn_as_often_as_labels_occur(self) -> None:
        words = [f"w{at}" for at in range(2000)]
        generator = torch.Generator().manual_seed(0)
        found = control_labels([*words, *words], ["a"] * 30 + ["b"] * 10, generator)
        assert found.keys() == set(words)
        # Binomial, 2000 draws at 3/4: three standard deviations are 0.03.
        assert [*found.values()].count("a") / 2000 == pytest.approx(0.75, abs=0.03)

    def test_a_class_that_was_not_seen_is_wrong_and_one_alone_is_said(self) -> None:
        states = drawn(10, 4)
        assert hits(states, ["a"] * 10, states[:2], ["a", "b"]).tolist() == [1, 0]

    def test_constant_entries_are_left_out(self) -> None:
        states = torch.cat([drawn(50, 3) * 7 + 2, torch.full((50, 1), 3.0)], dim=1)
        found = Scale(states)(states)
        np.testing.assert_allclose(found.mean(0), 0, atol=1e-6)
        np.testing.assert_allclose(found.std(0), [1, 1, 1, 0], atol=1e-6)


class TestScalarMix:
    @pytest.mark.parametrize("layer", [0, 2, 4])
    def test_the_centre_of_gravity_is_at_the_planted_layer(self, layer: int) -> None:
        labels = torch.arange(800) % 5
        states = drawn(5, 800, 30)
        states[layer] += 3 * drawn(5, 30, seed=1)[labels]
        weights = mix_weights(states, [str(at) for at in labels.tolist()], seed=0)
        assert weights.sum().item() == pytest.approx(1)
        assert weights.argmax().item() == layer
        assert weights[layer].item() > 0.5
        # Nothing draws the others to one side: what is left is spread over them.
        rest = (1 - weights[layer]).item() * (10 - layer) / 4
        expected = layer * weights[layer].item() + rest
        assert centre_of_gravity(weights) == pytest.approx(expected, abs=0.15)

    def test_a_layer_s_scale_does_not_weigh(self) -> None:
        states, labels = drawn(3, 100, 8), [str(at % 3) for at in range(100)]
        plain = mix_weights(states, labels, steps=5, seed=0)
        scaled = mix_weights(
            states * torch.tensor([1.0, 50, 0.1])[:, None, None], labels, steps=5, seed=0
        )
        torch.testing.assert_close(plain, scaled)

    def test_the_centre_is_its_equation(self) -> None:
        weights = torch.tensor([0.1, 0.2, 0.7]).double()
        assert centre_of_gravity(weights) == pytest.approx(1.6)


class TestCodelength:
    def test_random_labels_cost_the_uniform_code(self) -> None:
        generator = torch.Generator().manual_seed(0)
        labels = torch.randint(4, (1000,), generator=generator)
        found = codelength.online(
            drawn(1000, 30), [str(at) for at in labels.tolist()], torch.arange(1000)
        )
        assert found.uniform == pytest.approx(2 * 1000)
        # The uniform code is one of the three that are mixed; to do better by k bits is a chance of 2^-k.
        assert -10 < found.bits - found.uniform <= math.log2(3) + 1e-9

    def test_planted_labels_are_short(self) -> None:
        labels = torch.arange(1000) % 4
        states = 4 * drawn(4, 30)[labels] + drawn(1000, 30, seed=1)
        names = [str(at) for at in labels.tolist()]
        order = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
        found = codelength.online(states, names, order)
        assert found.compression > 8
        mixed = [
            names[at] for at in torch.randperm(1000, generator=torch.Generator().manual_seed(1))
        ]
        assert codelength.online(states, mixed, order).compression == pytest.approx(1, abs=0.01)

    def test_portions_double_to_all_there_is(self) -> None:
        assert codelength.portions(1280) == [10, 20, 40, 80, 160, 320, 640, 1280]
        assert codelength.portions(5) == [1, 2, 5]

    def test_it_is_the_sum_of_what_each_portion_takes(self) -> None:
        """With one strength, the plain sum over portions, mixed with the uniform code."""
        labels = np.arange(200) % 3
        states = (3 * drawn(3, 6)[torch.from_numpy(labels)] + drawn(200, 6, seed=1)).float()
        lengths = []
        for strength in codelength.STRENGTHS:
            bits = math.log2(3)
            for start, stop in zip(
                codelength.portions(200), codelength.portions(200)[1:], strict=False
            ):
                seen = states[:start].numpy()
                mean, spread = seen.mean(0), seen.std(0)
                spread[spread == 0] = np.inf
                said = codelength.probabilities(
                    (seen - mean) / spread,
                    labels[:start],
                    (states[start:stop].numpy() - mean) / spread,
                    3,
                    strength,
                )
                np.testing.assert_allclose(said.sum(1), 1, rtol=1e-6)
                bits -= sum(
                    math.log2(p[at]) for p, at in zip(said, labels[start:stop], strict=True)
                )
            lengths.append(bits)
        lengths.append(200 * math.log2(3))
        expected = -math.log2(sum(2.0 ** -(own - min(lengths)) for own in lengths) / 3) + min(
            lengths
        )
        found = codelength.online(states, [str(at) for at in labels], torch.arange(200))
        assert found.bits == pytest.approx(expected, rel=1e-4)

    def test_sentences_stay_together(self) -> None:
        sentence = torch.tensor([0, 0, 1, 2, 2, 2])
        order = codelength.random_order(sentence, torch.Generator().manual_seed(1))
        assert sorted(order.tolist()) == list(range(6))
        own = sentence[order].tolist()
        assert [at for at, one in enumerate(own) if at and one != own[at - 1]].__len__() == 2
        assert [at for at in order.tolist() if at > 2] == [3, 4, 5]


class TestRepeated:
    def test_both_ways_to_vary_are_in_the_interval(self) -> None:
        values, sentence = drawn(200), torch.arange(200) % 20
        shifts = (0.0, 0.3, -0.3)
        found = repeated(
            [lambda kept, c=c: values[kept].mean().item() + c for c in shifts], sentence
        )
        alone = jackknife(lambda kept: values[kept].mean().item(), sentence)
        seeds = over_seeds(shifts)
        t = scipy.stats.t.ppf(0.975, 2)
        assert seeds.high == pytest.approx(t * 0.3 / math.sqrt(3), rel=1e-3)
        assert found.value == pytest.approx(alone.value)
        half = math.hypot(alone.high - alone.value, seeds.high)
        assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half))

    @pytest.mark.parametrize("count", [2, 3, 4, 5])
    def test_points_of_student_s_are_scipy_s(self, count: int) -> None:
        values = [float(at) for at in range(count)]
        t = scipy.stats.t.ppf(0.975, count - 1)
        expected = np.mean(values) + t * np.std(values, ddof=1) / math.sqrt(count)
        assert over_seeds(values).high == pytest.approx(expected, rel=1e-3)


def test_a_difference_is_to_the_base_of_the_same_seed() -> None:
    sentence = torch.arange(100) % 20
    values = drawn(3, 100).abs()

    def of(shift: float) -> list[Statistic]:
        return [lambda kept, v=own: v[kept].mean().item() + shift for own in values]

    found = differences({BASE: of(0.0), "one": of(0.25)}, sentence, scale=100)
    assert found[BASE].value == pytest.approx(100 * values.mean().item())
    assert found[BASE].high - found[BASE].low > 1
    # What all seeds and sentences have in common is left: a shift without any spread.
    assert (found["one"].low, found["one"].value, found["one"].high) == pytest.approx((25, 25, 25))
    assert verdict(found["one"]) == "more than probes vary"
    assert verdict(Score(0.1, -0.1, 0.3)) == verdict(Score(0.1, math.nan, math.nan))
