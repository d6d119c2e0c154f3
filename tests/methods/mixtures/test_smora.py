"""SMoRA against its equation, token by token and rank by rank, and the life of its selection bias."""

from collections.abc import Callable

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.testing import assert_close

from weft.lowrank.route import given_rows
from weft.methods.gates.call import Call
from weft.methods.gates.gate import Gate
from weft.methods.gates.stack import Part
from weft.methods.gates.trace import GateTrace
from weft.methods.mixtures.contract import Frame
from weft.methods.mixtures.smora import SMoRA, Spec

MAP = "layer.0.attention.self.query"
Make = Callable[..., SMoRA]
Woven = Callable[..., Tensor]


def filled(make_new: Make, shape: tuple[int, int] = (5, 7), **settings: object) -> SMoRA:
    """A mixture from nothing whose B and selection bias are no longer zero."""
    mixture = make_new("smora", {MAP: shape}, **settings)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        mixture.stack(MAP).B.normal_(generator=generator)
        mixture.bias(MAP).normal_(std=0.1, generator=generator)
    return mixture


def tokens(count: int = 12, inner: int = 7) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(1, count, inner, dtype=torch.float64, generator=generator)


def naive(mixture: SMoRA, x: Tensor) -> Tensor:
    """The equation, one token and one rank after another."""
    own, stack, W, b = (
        mixture.spec,
        mixture.stack(MAP),
        mixture.routers.weight(MAP),
        mixture.bias(MAP),
    )
    rows = []
    for token in x.reshape(-1, x.shape[-1]):
        q = [torch.sigmoid(W[rank // own.rank_partition] @ token) for rank in range(len(b))]
        key = [score + bias for score, bias in zip(q, b, strict=True)]
        awake = sorted(range(len(b)), key=lambda rank: -key[rank].item())[: own.top_k]
        value = key if own.bias_counts else q
        total = sum(value[rank] for rank in awake)
        row = torch.zeros(stack.B.shape[0], dtype=x.dtype)
        for rank in awake:
            g = own.top_k * value[rank] / total
            row = row + own.alpha / own.top_k * g * (stack.A[rank] @ token) * stack.B[:, rank]
        rows.append(row)
    return torch.stack(rows).view(*x.shape[:-1], -1)


def seen(counts: list[int], padding: int = 0) -> GateTrace:
    """A batch in which rank i was selected `counts[i]` times, and the last rank on every padded token."""
    ranks = [rank for rank, count in enumerate(counts) for _ in range(count)]
    ranks += [len(counts) - 1] * padding
    selected = torch.nn.functional.one_hot(torch.tensor(ranks), len(counts)).bool().unsqueeze(0)
    mask = (torch.arange(len(ranks)) < sum(counts)).long().unsqueeze(0)
    gates = selected.double()
    return GateTrace(mask=mask, gates={MAP: Gate(gates, gates, selected)})


def test_the_worked_example(
    make_new: Make,
    woven: Woven,
    parts: list[Part],
    router: Tensor,
    x: Tensor,
    base_output: Tensor,
) -> None:
    mixture = make_new("smora", {MAP: (2, 3)}, rank=6, top_k=2, alpha=4.0)
    more = torch.tensor([[0, 0.1, 0], [0.2, -0.2, 0.1], [-0.1, -0.1, -0.1]], dtype=torch.float64)
    with torch.no_grad():
        mixture.stack(MAP).A.copy_(torch.cat([part.A for part in parts]))
        mixture.stack(MAP).B.copy_(torch.cat([part.B for part in parts], dim=1))
        mixture.routers.weight(MAP).copy_(torch.cat([router, more]))
    trace = GateTrace()
    out = woven(mixture, x, trace=trace)
    gates = torch.zeros(1, 2, 6, dtype=torch.float64)
    gates[0, 0, [0, 2]] = torch.tensor([1.108111, 0.891889], dtype=torch.float64)
    gates[0, 1, [0, 4]] = torch.tensor([0.990414, 1.009586], dtype=torch.float64)
    assert_close(trace.gates[MAP].gates, gates, atol=1e-6, rtol=0)
    assert trace.gates[MAP].selected.equal(gates > 0)
    wanted = torch.tensor([[[-0.432444, 6.135111], [-1.480829, -4.009586]]], dtype=torch.float64)
    assert_close(base_output + out, wanted, atol=1e-6, rtol=0)
    mixture.observe(trace)
    assert mixture.tallies()[0].tolist() == [2, 0, 1, 0, 1, 0]
    mixture.after_step(1, 10)
    moved = torch.tensor([-1, 1, -1, 1, -1, 1], dtype=torch.float64)
    assert_close(mixture.bias(MAP), 1e-5 * moved, rtol=1e-12, atol=0)


@pytest.mark.parametrize("bias_counts", [True, False])
@pytest.mark.parametrize(("top_k", "partition"), [(1, 1), (3, 1), (2, 2), (6, 3), (6, 1)])
def test_it_is_the_equation(
    make_new: Make, woven: Woven, top_k: int, partition: int, bias_counts: bool
) -> None:
    mixture = filled(
        make_new,
        rank=6,
        alpha=12.0,
        top_k=top_k,
        rank_partition=partition,
        bias_counts=bias_counts,
    )
    x = tokens()
    trace = GateTrace()
    found = woven(mixture, x, trace=trace)
    assert_close(found, naive(mixture, x))
    assert (trace.gates[MAP].selected.sum(-1) == top_k).all()
    assert ((trace.gates[MAP].gates > 0) == trace.gates[MAP].selected).all()
    assert_close(trace.gates[MAP].gates.sum(-1), torch.full((1, 12), float(top_k)).double())
    found.square().sum().backward()
    grads = {name: value.grad for name, value in mixture.named_parameters()}
    mixture.zero_grad()
    naive(mixture, x).square().sum().backward()
    assert_close(grads, {name: value.grad for name, value in mixture.named_parameters()})


@pytest.mark.parametrize("rank", [1, 4])
def test_all_ranks_awake_without_a_word_of_the_gate_are_a_plain_lora(
    make_new: Make, woven: Woven, rank: int
) -> None:
    mixture = filled(make_new, rank=rank, top_k=rank, alpha=2.0 * rank)
    with torch.no_grad():
        mixture.routers.weight(MAP).zero_()
        mixture.bias(MAP).zero_()
    stack, x = mixture.stack(MAP), tokens()
    assert torch.equal(woven(mixture, x), (2 * (x @ stack.A.T)) @ stack.B.T)


def test_blocks_are_a_mixture_of_loras(make_new: Make, woven: Woven) -> None:
    experts, wide, kept = 4, 3, 2
    mixture = filled(make_new, rank=experts * wide, top_k=kept * wide, rank_partition=wide)
    mixture.bias(MAP).zero_()
    x, stack, trace = tokens(), mixture.stack(MAP), GateTrace()
    out = woven(mixture, x, trace=trace)
    blocks = trace.gates[MAP].gates.unflatten(-1, (experts, wide))
    assert torch.equal(blocks, blocks[..., :1].expand_as(blocks))
    rows = []
    for token in x[0]:
        q = torch.sigmoid(mixture.routers.weight(MAP) @ token)
        chosen = q.topk(kept).indices.tolist()
        row = torch.zeros(stack.B.shape[0], dtype=x.dtype)
        for expert in chosen:
            own = slice(expert * wide, (expert + 1) * wide)
            delta = stack.B[:, own] @ (stack.A[own] @ token)
            row = row + mixture.spec.alpha / wide * q[expert] / q[chosen].sum() * delta
        rows.append(row)
    assert_close(out[0], torch.stack(rows))


def test_the_bias_moves_against_use_once_a_step(make_new: Make) -> None:
    mixture = make_new("smora", {MAP: (5, 7)}, rank=4, top_k=1, bias_rate=0.5)
    mixture.observe(seen([6, 2, 0, 0], padding=9))
    mixture.observe(seen([4, 0, 0, 0], padding=1))
    mixture.after_step(1, 10)
    wanted = torch.tensor([-0.5, 0.5, 0.5, 0.5], dtype=torch.float64)
    assert torch.equal(mixture.bias(MAP), wanted)
    # Counts start anew; nothing seen, nothing but padding, or equal use moves nothing.
    for trace in ([], [seen([0, 0, 0, 0], padding=3)], [seen([2, 2, 2, 2])]):
        for batch in trace:
            mixture.observe(batch)
        mixture.after_step(2, 10)
        assert torch.equal(mixture.bias(MAP), wanted)
    mixture.eval()
    mixture.observe(seen([9, 0, 0, 0]))
    mixture.after_step(3, 10)
    assert torch.equal(mixture.bias(MAP), wanted)


def test_processes_that_sum_their_counts_are_one_that_saw_all(make_new: Make) -> None:
    batches = [seen([5, 1, 0, 0]), seen([0, 3, 3, 1])]
    apart = [make_new("smora", {MAP: (5, 7)}, rank=4, top_k=1) for _ in batches]
    whole = make_new("smora", {MAP: (5, 7)}, rank=4, top_k=1)
    for mixture, batch in zip(apart, batches, strict=True):
        mixture.observe(batch)
        whole.observe(batch)
    (total,) = [sum(each) for each in zip(*(mixture.tallies() for mixture in apart), strict=True)]
    for mixture in apart:
        mixture.tallies()[0].copy_(total)
    for mixture in (whole, *apart):
        mixture.after_step(1, 10)
        assert torch.equal(mixture.bias(MAP), whole.bias(MAP))
    assert whole.bias(MAP).sign().tolist() == [-1, -1, 1, 1]


def test_the_bias_is_saved_and_has_no_gradient(make_new: Make, woven: Woven) -> None:
    mixture = filled(make_new, rank=6, top_k=2)
    before, x = GateTrace(), tokens()
    woven(mixture, x, trace=before)
    mixture.observe(before)
    assert {name for name in mixture.state_dict() if "bias" in name or "count" in name} == {"bias0"}
    assert not mixture.bias(MAP).requires_grad
    assert "bias0" not in dict(mixture.named_parameters())
    again = make_new("smora", {MAP: (5, 7)}, rank=6, top_k=2, seed=5)
    again.load_state_dict(mixture.state_dict())
    after = GateTrace()
    assert torch.equal(woven(again, x, trace=after), woven(mixture, x))
    assert all(torch.equal(a, b) for a, b in zip(after.gates[MAP], before.gates[MAP], strict=True))


def test_a_bias_that_outweighs_every_score_leaves_gates_finite(
    make_new: Make, woven: Woven
) -> None:
    mixture = filled(make_new, rank=6, top_k=2)
    x, trace = tokens(), GateTrace()
    mixture.bias(MAP).fill_(-1.5)
    woven(mixture, x, trace=trace).sum().backward()
    assert_close(trace.gates[MAP].gates, trace.gates[MAP].selected.double())
    assert all(bool(value.grad.isfinite().all()) for value in mixture.parameters())  # type: ignore[union-attr]


@pytest.mark.parametrize("missing", [(), (1,), (0, 2)])
def test_experts_all_awake_are_their_sum(
    make: Make, woven: Woven, parts: list[Part], x: Tensor, missing: tuple[int, ...]
) -> None:
    own = [None if at in missing else part for at, part in enumerate(parts)]
    left = [part for part in own if part is not None]
    mixture = make("smora", own, start="experts", top_k=2 * len(left))
    with torch.no_grad():
        mixture.routers.weight(MAP).zero_()
    assert_close(woven(mixture, x), sum(part.scale * (x @ part.A.T @ part.B.T) for part in left))


def test_gates_are_of_ranks_where_experts_are_as_many(
    make: Make, woven: Woven, parts: list[Part], x: Tensor
) -> None:
    part = parts[0]
    mixture = make("smora", [part, None], start="experts", top_k=1)
    mixture.bias(MAP).copy_(torch.tensor([0.0, 2.0]))
    lone = part.scale * (x @ part.A[1:].T @ part.B[:, 1:].T)
    assert_close(woven(mixture, x), lone)


def test_what_cannot_be_is_refused(make: Make, make_new: Make, parts: list[Part]) -> None:
    with pytest.raises(ValueError, match="top_k 7 is more than the 6 ranks"):
        make("smora", parts, start="experts", top_k=7)
    for settings in ({"top_k": 3, "rank_partition": 2}, {"top_k": 4, "rank_partition": 4}):
        with pytest.raises(ValueError, match="does not divide"):
            make_new("smora", {MAP: (5, 7)}, rank=6, **settings)
    with pytest.raises(ValidationError, match="num_experts"):
        Spec(num_experts=2)


def test_it_starts_as_the_base_and_equal_scores_wake_the_first_ranks(
    make_new: Make, woven: Woven
) -> None:
    mixture = make_new("smora", {MAP: (5, 7)}, rank=6, top_k=2)
    assert torch.equal(woven(mixture, tokens()), torch.zeros(1, 12, 5, dtype=torch.float64))
    assert float(mixture.routers.weight(MAP).detach().abs().max()) <= 7**-0.5
    assert not mixture.bias(MAP).any()
    with torch.no_grad():
        mixture.routers.weight(MAP).zero_()
    trace = GateTrace()
    woven(mixture, tokens(), trace=trace)
    wanted = torch.tensor([True, True, False, False, False, False])
    assert torch.equal(trace.gates[MAP].selected, wanted.expand(1, 12, 6))


def test_rows_of_any_shape_and_part_are_the_same(make_new: Make, woven: Woven) -> None:
    mixture = filled(make_new, rank=6, top_k=2)
    x = tokens().view(3, 4, 7)
    whole = woven(mixture, x)
    with given_rows(torch.tensor([0, 2])):
        assert_close(woven(mixture, x[[0, 2]]), whole[[0, 2]])
    trace = GateTrace(mask=torch.ones(12, 5, dtype=torch.long))
    assert_close(woven(mixture, x.view(12, 7), trace=trace), whole.view(12, 5))
    mixture.observe(trace)
    assert int(mixture.tallies()[0].sum()) == 2 * 12


def test_half_precision_gates_in_single(make_new: Make) -> None:
    mixture = filled(make_new, rank=6, top_k=2).float()
    x, call = tokens().float(), Call()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = mixture.weave(MAP, x.bfloat16(), call)
    assert low.dtype == torch.bfloat16
    assert call.trace.gates[MAP].gates.dtype == torch.float32
    assert_close(call.trace.gates[MAP].gates.sum(-1), torch.full((1, 12), 2.0))


def test_it_counts_without_memory() -> None:
    spec, frame = Spec(rank_partition=4), Frame("bert", 768, 12)
    weight, generator = torch.empty(3072, 768, device="meta"), torch.Generator()
    stack = SMoRA.from_nothing(MAP, weight, frame, spec, generator)
    mixture = SMoRA(("expert0",), {MAP: stack}, frame, spec, generator)
    count = sum(value.numel() for value in mixture.parameters() if value.requires_grad)
    assert count == 32 * (768 + 3072) + 32 // 4 * 768
