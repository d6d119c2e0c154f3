"""What a map finds of gates that were made for all maps at once."""

import pytest
import torch
from torch import Tensor

from weft.lowrank.route import given_rows
from weft.methods.gates.call import Call
from weft.methods.gates.gate import GateSpec, gate
from weft.methods.gates.lookup import AtOnce, labels_of, rows
from weft.methods.gates.trace import GateTrace

MAPS, EXPERTS = 3, 2
LOGITS = torch.randn(4, 5, MAPS, EXPERTS, generator=torch.Generator().manual_seed(0))
FOUND = gate(LOGITS, GateSpec(select="top_k", k=1))


def test_each_map_finds_its_own_of_the_sequences_at_hand() -> None:
    ahead = AtOnce(LOGITS, FOUND)
    index = torch.tensor([1, 3])
    for at in range(MAPS):
        assert torch.equal(ahead.logits_of(at), LOGITS[:, :, at])
        for own, every in zip(ahead.gate_of(at), FOUND, strict=True):
            assert torch.equal(own, every[:, :, at])
        with given_rows(index):
            assert torch.equal(ahead.logits_of(at), LOGITS[index, :, at])
            for own, every in zip(ahead.gate_of(at), FOUND, strict=True):
                assert torch.equal(own, every[index, :, at])


def test_gates_are_spread_over_the_ranks_that_each_map_asks_with() -> None:
    ahead = AtOnce(LOGITS, FOUND)
    asked: list[tuple[int, tuple[int, ...]]] = [
        (0, (1, 3)),
        (1, (2, 2)),
        (2, (1, 3)),
        (0, (0, 2)),
        (1, (1, 3)),
    ]
    for at, ranks in asked:
        by_hand = torch.stack(
            [FOUND.gates[:, :, at, e] for e, rank in enumerate(ranks) for _ in range(rank)], -1
        )
        assert torch.equal(ahead.by_rank(at, ranks), by_hand)


@pytest.mark.parametrize("like", [torch.zeros(4, 5, 2), torch.zeros(4, 2)])
def test_a_token_s_label_is_its_sequence_s(like: Tensor) -> None:
    call = Call(GateTrace(labels=torch.tensor([1, 0, 2, 0])))
    wanted = torch.tensor([1, 0, 2, 0]).view(-1, *[1] * (like.dim() - 2)).expand(like.shape[:-1])
    assert torch.equal(labels_of(call, like), wanted)
    with given_rows(torch.tensor([0, 2])):
        assert torch.equal(labels_of(call, like[:2]), wanted[[0, 2]])
        one = Call(GateTrace(labels=torch.tensor([3])))
        assert torch.equal(labels_of(one, like[:2]), torch.full_like(wanted[:2], 3))
    with pytest.raises(ValueError, match="the call names none"):
        labels_of(Call(), like)
    with pytest.raises(ValueError, match="a row belongs to none of the mixture's experts"):
        labels_of(Call(GateTrace(labels=torch.tensor([1, -1, 2, 0]))), like)


def test_outside_of_a_part_all_rows_are_at_hand() -> None:
    value = torch.arange(6).view(3, 2)
    assert rows(value) is value
