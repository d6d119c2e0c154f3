"""HydraLoRA beside its equation written token by token and expert by expert."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from weft.methods.gates.call import Call
from weft.methods.gates.frame import Frame
from weft.methods.gates.stack import Part, Stack
from weft.methods.mixtures import hydralora
from weft.methods.mixtures.contract import Mixture

MAP = "layer.0.attention.self.query"
Make = Callable[..., Mixture]
Woven = Callable[..., Tensor]


def naive(x: Tensor, router: Tensor, A: Tensor, Bs: list[Tensor], scale: float) -> Tensor:
    """What the experts add, `(tokens, in)` to `(tokens, out)`."""
    outputs = []
    for token in x:
        gates = (router @ token).softmax(0)
        outputs.append(sum(scale * g * (B @ (A @ token)) for g, B in zip(gates, Bs, strict=True)))
    return torch.stack(outputs)  # type: ignore[arg-type]


def filled(mixture: Mixture, seed: int = 1) -> Mixture:
    """B and all else drawn anew, so that nothing is zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in mixture.parameters():
            value.normal_(generator=generator)
    return mixture.eval()


def values(mixture: Mixture) -> tuple[Tensor, Tensor, Tensor]:
    stack = mixture.stack(MAP)
    return stack.A, stack.B, mixture.routers.weight(MAP)  # type: ignore[union-attr, operator]


def test_shared_a_of_the_fixture(
    make_new: Make, parts: list[Part], x: Tensor, router: Tensor, woven: Woven, base_output: Tensor
) -> None:
    mixture = make_new("hydralora", {MAP: (2, 3)}, num_experts=3, rank=2, alpha=4.0).eval()
    wanted = torch.cat([part.B for part in parts], dim=1)
    with torch.no_grad():
        for value, known in zip(values(mixture), (parts[0].A, wanted, router), strict=True):
            value.copy_(known)
    known = torch.tensor([[[4.685138, 0.605616], [1.424368, -4.556847]]], dtype=torch.float64)
    assert_close(base_output + woven(mixture, x), known, rtol=0, atol=1e-6)


@pytest.mark.parametrize("experts", [1, 3])
@pytest.mark.parametrize("shape", [(2, 5, 6), (5, 6)])
def test_it_is_the_equation_in_values_and_gradients(
    make_new: Make, woven: Woven, experts: int, shape: tuple[int, ...]
) -> None:
    mixture = filled(make_new("hydralora", {MAP: (4, 6)}, num_experts=experts, rank=2, alpha=3.0))
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    own = [x.clone().requires_grad_(True), *values(mixture)]
    found = woven(mixture, own[0])
    copies = [value.detach().clone().requires_grad_(True) for value in own]
    tokens, A, B, router = copies
    wanted = naive(tokens.reshape(-1, 6), router, A, list(B.split(2, dim=1)), 1.5)
    assert_close(found, wanted.view(*shape[:-1], 4))
    found.square().sum().backward()
    wanted.square().sum().backward()
    assert_close([value.grad for value in own], [value.grad for value in copies])


def test_one_expert_is_lora(make_new: Make, woven: Woven) -> None:
    spec = hydralora.Spec(num_experts=1, rank=3, alpha=6.0)
    weight, frame = torch.empty(4, 6), Frame("bert", 6, 2)
    one, lora = (torch.Generator().manual_seed(5) for _ in range(2))
    made = hydralora.HydraLoRA.from_nothing(MAP, weight, frame, spec, one)
    plain = Stack.new(weight, 1, spec.rank, spec.alpha, lora)
    assert torch.equal(made.A, plain.A)
    assert torch.equal(made.B, plain.B)
    assert torch.equal(made.scale, plain.scale)
    mixture = filled(make_new("hydralora", {MAP: (4, 6)}, num_experts=1, rank=3, alpha=6.0))
    A, B, _ = values(mixture)
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    assert_close(woven(mixture, x), 2.0 * x @ A.T @ B.T)


def test_equal_bs_leave_the_gate_no_say(make_new: Make, woven: Woven) -> None:
    mixture = filled(make_new("hydralora", {MAP: (4, 6)}, num_experts=3, rank=2))
    _, B, router = values(mixture)
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    with torch.no_grad():
        B.copy_(B[:, :2].repeat(1, 3))
        before = woven(mixture, x)
        router.copy_(torch.randn_like(router))
        assert_close(woven(mixture, x), before)


def test_it_counts_as_the_formula_says_and_is_built_without_memory() -> None:
    spec = hydralora.Spec(rank=8, num_experts=4)
    frame, generator = Frame("bert", 768, 12), torch.Generator()
    shapes = {MAP: (768, 768), "layer.0.intermediate.dense": (3072, 768)}
    stacks = {
        module: hydralora.HydraLoRA.from_nothing(
            module, torch.empty(shape, device="meta"), frame, spec, generator
        )
        for module, shape in shapes.items()
    }
    mixture = hydralora.HydraLoRA(["e"] * 4, stacks, frame, spec, generator)
    wanted = sum(8 * inner + 4 * 8 * out + 4 * inner for out, inner in shapes.values())
    assert sum(value.numel() for value in mixture.parameters() if value.requires_grad) == wanted
    assert all(value.is_meta for value in mixture.parameters())


def test_it_starts_as_nothing_and_learns_its_bs_first(make_new: Make, woven: Woven) -> None:
    mixture = make_new("hydralora", {MAP: (4, 6)}, num_experts=3, rank=2, dropout=0.0)
    out = woven(mixture, torch.randn(2, 5, 6, dtype=torch.float64))
    assert torch.equal(out, torch.zeros_like(out))
    (out + 1).square().sum().backward()
    A, B, router = values(mixture)
    assert (B.grad != 0).all()  # type: ignore[operator]
    assert_close((A.grad, router.grad), (torch.zeros_like(A), torch.zeros_like(router)))


def ragged() -> list[Part | None]:
    """Experts of ranks 2, 1 and 3 with scales of their own, and one that is absent."""
    generator = torch.Generator().manual_seed(3)
    shapes = [(2, 2.0), (1, 0.5), (3, 1.5)]
    made = [
        Part(
            torch.randn(rank, 6, generator=generator, dtype=torch.float64),
            torch.randn(4, rank, generator=generator, dtype=torch.float64),
            scale,
        )
        for rank, scale in shapes
    ]
    return [made[0], None, *made[1:]]


def test_experts_are_taken_over_without_loss(make: Make) -> None:
    experts = ragged()
    mixture = make("hydralora", experts, start="experts", hidden=6)
    stack = mixture.stack(MAP)
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    for at, part in enumerate(experts):
        gates = torch.zeros(2, 5, 4, dtype=torch.float64)
        gates[..., at] = 1
        found = stack.up(mixture.mid(MAP, x @ stack.A.T, gates))
        if part is None:
            assert torch.equal(found, torch.zeros_like(found))
        else:
            assert_close(found, part.scale * (x @ part.A.T @ part.B.T))
    assert all(value.requires_grad for value in mixture.parameters())


def test_a_missing_expert_keeps_its_gate(make: Make, woven: Woven) -> None:
    experts = ragged()
    mixture = make("hydralora", experts, start="experts", hidden=6)
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    gates = (x @ mixture.routers.weight(MAP).T).softmax(-1)  # type: ignore[union-attr, operator]
    wanted = sum(
        gates[..., at, None] * part.scale * (x @ part.A.T @ part.B.T)
        for at, part in enumerate(experts)
        if part is not None
    )
    assert_close(woven(mixture, x), wanted)
    constant = woven(mixture, x, constant=0.5)
    all_half = sum(0.5 * part.scale * (x @ part.A.T @ part.B.T) for part in experts if part)
    assert_close(constant, all_half)
    with pytest.raises(ValueError, match="no expert has an adapter"):
        make("hydralora", [None, None], start="experts")


def test_half_precision_keeps_gates_in_single(make_new: Make) -> None:
    mixture = filled(make_new("hydralora", {MAP: (4, 6)}, num_experts=3)).float()
    call = Call()
    x = torch.randn(2, 5, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = mixture.weave(MAP, x, call)
    assert call.trace.gates[MAP].gates.dtype == torch.float32
    full = mixture.weave(MAP, x, Call())
    assert_close(half.float(), full, rtol=0.1, atol=0.1 * float(full.detach().abs().max()))


def test_a_stored_state_says_the_same_under_another_seed(make_new: Make) -> None:
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    said = []
    first = make_new("hydralora", {MAP: (4, 6)}, seed=0)
    for mixture in (first, make_new("hydralora", {MAP: (4, 6)}, seed=9)):
        mixture.load_state_dict(first.state_dict())
        call = Call()
        mixture.eval().weave(MAP, x, call)
        said.append(call.trace.gates[MAP])
    assert all(torch.equal(one, other) for one, other in zip(*said, strict=True))
