"""Three experts at one map with known outputs, and ways to run a mixture without a trunk."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from weft.methods.gates.call import Call
from weft.methods.gates.frame import Frame
from weft.methods.gates.stack import Part
from weft.methods.gates.trace import GateTrace
from weft.methods.mixtures import mixtures
from weft.methods.mixtures.contract import Mixture

MAP = "layer.0.attention.self.query"
X = torch.tensor([[1.0, 2, 3], [0.5, -1, 2]], dtype=torch.float64)
W0 = torch.tensor([[1.0, 0, 1], [0, 1, -1]], dtype=torch.float64)
ROUTER = torch.tensor([[0.1, 0.2, 0.3], [0.3, 0, -0.1], [-0.2, 0.1, 0.2]], dtype=torch.float64)
EXPERTS = (
    ([[1.0, 0, -1], [0, 1, 1]], [[1.0, 0], [0, 1]], 2.0),
    ([[0.0, 2, 0], [1, 1, 1]], [[0.0, 1], [1, 0]], 1.0),
    ([[1.0, 1, 0], [0, 0, 1]], [[1.0, 1], [1, -1]], 0.5),
)


ROLES = {
    "query": ("attention.self.query",),
    "ffn_in": ("intermediate.dense",),
    "ffn_out": ("output.dense",),
}
"""Of BERT's maps, as far as these tests weave them."""


@pytest.fixture
def x() -> Tensor:
    """Two tokens, (1, 2, 3)."""
    return X.unsqueeze(0)


@pytest.fixture
def base_output() -> Tensor:
    """`x W0ᵀ`, (1, 2, 2)."""
    return (X @ W0.T).unsqueeze(0)


@pytest.fixture
def router() -> Tensor:
    """A linear gate for the three experts, (3, 3)."""
    return ROUTER.clone()


@pytest.fixture
def parts() -> list[Part]:
    """Three experts of rank 2, in double precision."""
    return [
        Part(torch.tensor(A, dtype=torch.float64), torch.tensor(B, dtype=torch.float64), scale)
        for A, B, scale in EXPERTS
    ]


@pytest.fixture
def make() -> Callable[..., Mixture]:
    """`make(name, parts, hidden=3, maps=[MAP], layers=2, seed=0, **settings)`: a mixture of trained experts."""

    def build(
        name: str,
        parts: Sequence[Part | None],
        *,
        hidden: int = 3,
        maps: Sequence[str] = (MAP,),
        layers: int = 2,
        seed: int = 0,
        **settings: Any,
    ) -> Mixture:
        kind = mixtures.load(name)
        spec = kind.settings_type(**settings)
        frame = Frame("bert", hidden, layers, roles=ROLES)
        stacks = {module: kind.from_experts(module, parts, frame, spec) for module in maps}
        names = [f"expert{at}" for at in range(len(parts))]
        generator = torch.Generator().manual_seed(seed)
        return kind(names, stacks, frame, spec, generator).double().eval()

    return build


@pytest.fixture
def make_new() -> Callable[..., Mixture]:
    """`make_new(name, shapes, hidden=8, layers=2, seed=0, **settings)`: new experts, by map `(out, in)`."""

    def build(
        name: str,
        shapes: dict[str, tuple[int, int]],
        *,
        hidden: int = 8,
        layers: int = 2,
        seed: int = 0,
        **settings: Any,
    ) -> Mixture:
        kind = mixtures.load(name)
        spec = kind.settings_type(**settings)
        frame = Frame("bert", hidden, layers, roles=ROLES)
        generator = torch.Generator().manual_seed(seed)
        stacks = {
            module: kind.from_nothing(module, torch.empty(shape), frame, spec, generator)
            for module, shape in shapes.items()
        }
        names = [f"expert{at}" for at in range(spec.num_experts)]
        return kind(names, stacks, frame, spec, generator).double()

    return build


@pytest.fixture
def woven() -> Callable[..., Tensor]:
    """`woven(mixture, x, module=MAP, **call)`: what the experts add, and nothing of the base."""

    def run(mixture: Mixture, x: Tensor, module: str = MAP, **call: Any) -> Tensor:
        own = Call(**{"trace": GateTrace(), **call})
        if own.hidden is not None:
            mixture.begin(own)
        return mixture.weave(module, x, own)

    return run
