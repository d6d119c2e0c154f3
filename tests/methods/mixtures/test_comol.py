"""CoMoL against its equation, expert by expert, and what it makes of trained experts."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from weft.base.dropout import dropout
from weft.lowrank.route import given_rows
from weft.methods.gates.call import Call
from weft.methods.gates.stack import Part
from weft.methods.gates.trace import GateTrace
from weft.methods.mixtures.comol import CoMoL, Spec
from weft.methods.mixtures.contract import Frame

MAP = "layer.0.attention.self.query"
SHAPE = (9, 7)
Make = Callable[..., CoMoL]
Woven = Callable[..., Tensor]


def filled(make_new: Make, **settings: object) -> CoMoL:
    """A mixture from nothing whose B is no longer zero."""
    mixture = make_new("comol", {MAP: SHAPE}, **{"rank": 4, "num_experts": 3, **settings})
    with torch.no_grad():
        mixture.stack(MAP).B.normal_(generator=torch.Generator().manual_seed(1))
    return mixture


def tokens(inner: int = 7) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(2, 6, inner, dtype=torch.float64, generator=generator)


def trained(*ranks: int, shape: tuple[int, int] = (30, 40)) -> list[Part]:
    """Experts of these ranks, of different strength."""
    generator = torch.Generator().manual_seed(3)

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, dtype=torch.float64, generator=generator)

    return [
        Part(draw(rank, shape[1]), draw(shape[0], rank), 0.5 + at) for at, rank in enumerate(ranks)
    ]


def delta(part: Part | None, shape: tuple[int, int] = (30, 40)) -> Tensor:
    return torch.zeros(shape).double() if part is None else part.scale * part.B @ part.A


def alone(mixture: CoMoL, x: Tensor, expert: int) -> Tensor:
    """What the mixture adds where one expert's gate is 1."""
    stack = mixture.stack(MAP)
    gates = torch.zeros(*x.shape[:-1], len(mixture.experts), dtype=x.dtype)
    gates[..., expert] = 1
    return stack.up(mixture.mid(MAP, x @ stack.A.T, gates))


def naive(mixture: CoMoL, x: Tensor) -> Tensor:
    """The sum of gated LoRAs, each with a core: one token and one expert after another."""
    stack, cores, W = mixture.stack(MAP), mixture.cores(MAP), mixture.routers.weight(MAP)
    scale = mixture.spec.alpha / mixture.spec.rank
    rows = []
    for token in x.reshape(-1, x.shape[-1]):
        z = stack.A @ token
        gates = (W @ (z if mixture.spec.router == "core" else token)).softmax(0)
        row = torch.zeros(stack.B.shape[0], dtype=x.dtype)
        for gate, M in zip(gates, cores, strict=True):
            row = row + gate * scale * (stack.B @ M.T @ z)
        rows.append(row)
    return torch.stack(rows).view(*x.shape[:-1], -1)


def test_the_worked_example(
    make_new: Make, woven: Woven, parts: list[Part], x: Tensor, base_output: Tensor
) -> None:
    settings = {"rank": 2, "alpha": 2.0, "num_experts": 3}
    mixture = make_new("comol", {MAP: (2, 3)}, **settings).eval()
    # The third core is not symmetric, so that z from the left and from the right differ.
    cores = torch.tensor([[[1.0, 0], [0, 1]], [[0, 1], [1, 0]], [[1, 1], [0, 1]]])
    with torch.no_grad():
        mixture.stack(MAP).A.copy_(parts[0].A)
        mixture.stack(MAP).B.copy_(parts[0].B)
        mixture.cores(MAP).copy_(cores)
        mixture.routers.weight(MAP).copy_(torch.tensor([[0.1, 0], [0, 0.1], [0.1, -0.1]]).double())
    trace = GateTrace()
    out = base_output + woven(mixture, x, trace=trace)
    gates = [[0.276221, 0.556242, 0.167537], [0.313591, 0.402659, 0.283749]]
    wanted = [[5.893692, -0.228766], [2.006648, -3.432272]]
    assert_close(trace.gates[MAP].gates, torch.tensor([gates]).double(), atol=1e-6, rtol=0)
    assert_close(out, torch.tensor([wanted]).double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("router", ["core", "input"])
def test_it_is_the_equation_in_values_and_gradients(
    make_new: Make, woven: Woven, router: str
) -> None:
    mixture, x = filled(make_new, router=router, dropout=0), tokens()
    found = woven(mixture, x)
    assert_close(found, naive(mixture, x))
    found.square().sum().backward()
    grads = {name: value.grad for name, value in mixture.named_parameters()}
    assert all(grad is not None and bool(grad.any()) for grad in grads.values())
    mixture.zero_grad()
    naive(mixture, x).square().sum().backward()
    assert_close(grads, {name: value.grad for name, value in mixture.named_parameters()})


def test_one_expert_is_a_lora_with_its_core(make_new: Make, woven: Woven) -> None:
    mixture, x = filled(make_new, num_experts=1, alpha=8.0).eval(), tokens()
    stack = mixture.stack(MAP)
    assert_close(woven(mixture, x), 2 * x @ stack.A.T @ mixture.cores(MAP)[0] @ stack.B.T)
    with torch.no_grad():
        mixture.cores(MAP).copy_(torch.eye(4))
    assert_close(woven(mixture, x), 2 * x @ stack.A.T @ stack.B.T)


def test_equal_cores_leave_the_gate_nothing_to_say(make_new: Make, woven: Woven) -> None:
    mixture, x = filled(make_new).eval(), tokens()
    with torch.no_grad():
        mixture.cores(MAP).copy_(mixture.cores(MAP)[:1].clone().expand(3, 4, 4))
    before = woven(mixture, x)
    with torch.no_grad():
        mixture.routers.weight(MAP).mul_(-5)
    assert_close(woven(mixture, x), before)


def test_it_starts_as_the_base_with_cores_within_their_bound(make_new: Make, woven: Woven) -> None:
    mixture = make_new("comol", {MAP: SHAPE})
    assert torch.equal(woven(mixture, tokens()), torch.zeros(2, 6, 9, dtype=torch.float64))
    cores = mixture.cores(MAP)
    assert cores.shape == (8, 16, 16)
    assert 0.24 < float(cores.detach().abs().max()) <= 0.25
    assert float(mixture.routers.weight(MAP).detach().abs().max()) <= 0.25


def test_training_drops_input_core_and_product_at_one_rate(make_new: Make, woven: Woven) -> None:
    mixture, x, trace = filled(make_new, dropout=0.3), tokens(), GateTrace()
    torch.manual_seed(4)
    found = woven(mixture, x, trace=trace)
    torch.manual_seed(4)
    stack = mixture.stack(MAP)
    z = dropout(x, 0.3) @ stack.A.T
    gates = (z @ mixture.routers.weight(MAP).T).softmax(-1)
    assert_close(trace.gates[MAP].gates, gates)
    M = sum(gates[..., at, None, None] * core for at, core in enumerate(mixture.cores(MAP)))
    h = dropout((z.unsqueeze(-2) @ dropout(M, 0.3)).squeeze(-2), 0.3)
    assert_close(found, 16 / 4 * h @ stack.B.T)
    mixture.eval()
    assert_close(woven(mixture, x), naive(mixture, x))


@pytest.mark.parametrize("ranks", [(2, 3, 4), (4,), (20, 20, 5)])
def test_joint_bases_hold_every_expert_exactly(make: Make, woven: Woven, ranks: tuple) -> None:
    # 45 ranks are more than the map is wide and tall: cores are 40 x 30 then.
    parts: list[Part | None] = [*trained(*ranks), None]
    mixture, x = make("comol", parts, start="experts"), tokens(40)
    stack, total = mixture.stack(MAP), sum(ranks)
    assert mixture.cores(MAP).shape == (len(parts), min(total, 40), min(total, 30))
    assert_close(stack.A @ stack.A.T, torch.eye(min(total, 40)).double())
    assert_close(stack.B.T @ stack.B, torch.eye(min(total, 30)).double())
    for expert, part in enumerate(parts):
        assert_close(alone(mixture, x, expert), x @ delta(part).T)
    with torch.no_grad():
        mixture.routers.weight(MAP).zero_()
    # An expert without an adapter here takes its share all the same.
    mean = torch.stack([delta(part) for part in parts]).sum(0) / len(parts)
    assert_close(woven(mixture, x), x @ mean.T)


def test_joint_bases_of_the_worked_experts(
    make: Make, woven: Woven, parts: list[Part], x: Tensor
) -> None:
    mixture = make("comol", parts, start="experts")
    for expert, part in enumerate(parts):
        assert_close(alone(mixture, x, expert), part.scale * (x @ part.A.T @ part.B.T))


def test_bases_of_a_reference_hold_it_exactly_and_project_the_others(make: Make) -> None:
    parts, x = trained(2, 3, 4), tokens(40)
    mixture = make("comol", parts, start="experts", warm="reference", reference=1)
    assert mixture.cores(MAP).shape == (3, 3, 3)
    U, V = torch.linalg.qr(parts[1].B)[0], torch.linalg.qr(parts[1].A.T)[0]
    for expert, part in enumerate(parts):
        assert_close(alone(mixture, x, expert), x @ (U @ U.T @ delta(part) @ V @ V.T).T)
    assert_close(alone(mixture, x, 1), x @ delta(parts[1]).T)


def test_a_reference_that_is_not_there_is_refused(make: Make) -> None:
    parts = [trained(2)[0], None]
    for reference in (1, 2):
        with pytest.raises(ValueError, match=f"reference {reference}: of the 2 experts none"):
            make("comol", parts, start="experts", warm="reference", reference=reference)
    with pytest.raises(ValueError, match="no expert has an adapter"):
        make("comol", [None, None], start="experts")


def test_a_saved_state_gives_the_same_gates_under_another_seed(
    make: Make, make_new: Make, woven: Woven
) -> None:
    new = filled(make_new).eval()
    warm = make("comol", trained(2, 3), start="experts")
    others = (
        make_new("comol", {MAP: SHAPE}, rank=4, num_experts=3, seed=5).eval(),
        make("comol", trained(3, 2), start="experts", seed=5),
    )
    for mixture, other, x in zip((new, warm), others, (tokens(), tokens(40)), strict=True):
        traces = GateTrace(), GateTrace()
        other.load_state_dict(mixture.state_dict())
        found = woven(other, x, trace=traces[0])
        assert torch.equal(found, woven(mixture, x, trace=traces[1]))
        assert torch.equal(traces[0].gates[MAP].gates, traces[1].gates[MAP].gates)


def test_rows_of_any_shape_and_part_are_the_same(make_new: Make, woven: Woven) -> None:
    mixture, x = filled(make_new).eval(), tokens()
    whole = woven(mixture, x)
    with given_rows(torch.tensor([1])):
        assert_close(woven(mixture, x[[1]]), whole[[1]])
    assert_close(woven(mixture, x.view(12, 7)), whole.view(12, 9))
    mixture.train()
    assert woven(mixture, x.view(12, 7)).shape == (12, 9)


@pytest.mark.parametrize("training", [True, False])
def test_half_precision_gates_in_single(make_new: Make, training: bool) -> None:
    mixture, call = filled(make_new).float().train(training), Call()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = mixture.weave(MAP, tokens().bfloat16(), call)
    assert low.dtype == torch.bfloat16
    assert call.trace.gates[MAP].gates.dtype == torch.float32


def parameters(shapes: dict[str, tuple[int, int]], **settings: object) -> int:
    """Trained numbers of a mixture from nothing, built without memory."""
    spec, frame, generator = Spec(**settings), Frame("qwen3", 4096, 36), torch.Generator()
    stacks = {
        name: CoMoL.from_nothing(name, torch.empty(shape, device="meta"), frame, spec, generator)
        for name, shape in shapes.items()
    }
    names = tuple(f"expert{at}" for at in range(spec.num_experts))
    mixture = CoMoL(names, stacks, frame, spec, generator)
    return sum(value.numel() for value in mixture.parameters() if value.requires_grad)


@pytest.mark.parametrize(
    ("experts", "router", "published"),
    [
        (8, "core", 25_164_288),
        (64, "core", 27_906_048),
        (8, "input", 33_398_784),
        (64, "input", 93_782_016),
    ],
)
def test_the_published_counts_on_qwen3(experts: int, router: str, published: int) -> None:
    shapes = {
        "q": (4096, 4096),
        "k": (1024, 4096),
        "v": (1024, 4096),
        "o": (4096, 4096),
        "down": (4096, 12288),
    }
    maps = {f"{layer}.{name}": shape for layer in range(36) for name, shape in shapes.items()}
    lora = sum(16 * sum(shape) for shape in maps.values())
    cores = len(maps) * experts * 16 * 16
    routers = sum(experts * (16 if router == "core" else inner) for _, inner in maps.values())
    assert lora == 24_772_608
    assert parameters(maps, num_experts=experts, router=router) == published
    assert published == lora + cores + routers


def test_trained_experts_are_counted_without_memory() -> None:
    spec, frame = Spec(start="experts"), Frame("bert", 768, 12)
    part = Part(torch.empty(8, 768, device="meta"), torch.empty(768, 8, device="meta"))
    stack = CoMoL.from_experts(MAP, [part, None, part], frame, spec)
    mixture = CoMoL(("a", "b", "c"), {MAP: stack}, frame, spec, torch.Generator())
    count = sum(value.numel() for value in mixture.parameters())
    assert count == 2 * 16 * 768 + 3 * 16 * 16 + 3 * 16
