"""What a call leaves of its gates."""

import pytest
import torch

from weft.methods.gates.gate import Gate
from weft.methods.gates.trace import GateTrace, current_trace, traced


def test_a_trace_belongs_to_its_call_and_padding_never_counts() -> None:
    assert current_trace() is None
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    trace = GateTrace(mask=mask, labels=torch.tensor([2, 0]))
    scores = torch.arange(18.0).view(2, 3, 3)
    with traced(trace):
        for _ in range(2):  # gradient checkpointing runs a module twice
            found = current_trace()
            assert found is trace
            found.record("a", scores, Gate(scores, scores, scores > 0))
    assert current_trace() is None
    assert list(trace.gates) == ["a"]
    assert trace.counted(scores).tolist() == [[0, 1, 2], [3, 4, 5], [9, 10, 11]]
    assert trace.tokens_of_labels().tolist() == [2, 2, 0]
    assert GateTrace().counted(scores).shape == (6, 3)
    assert torch.equal(trace.tokens(scores), trace.counted(scores))
    # At a map without positions every row counts.
    assert torch.equal(trace.tokens(scores[:, 0]), scores[:, 0])
    with pytest.raises(ValueError, match="have no labels"):
        GateTrace(mask=mask).tokens_of_labels()
