"""Arrow: prototypes are singular vectors, gates follow from them, and general knowledge is taken out."""

from collections.abc import Callable

import pytest
import torch
from peft.tuners.lora.arrow import ArrowLoraLinearLayer
from peft.tuners.lora.config import ArrowConfig
from torch import Tensor, nn
from torch.testing import assert_close

from weft.methods.gates.call import Call
from weft.methods.gates.gate import Gate
from weft.methods.gates.stack import Part
from weft.methods.mixtures.contract import Mixture

MAP = "layer.0.attention.self.query"
Make = Callable[..., Mixture]
Woven = Callable[..., Tensor]

PROTOTYPES = [
    [-0.408248, 0.408248, 0.816497],
    [0.260956, 0.929410, 0.260956],
    [0.707107, 0.707107, 0],
]
SIMILARITIES = [[2.857738, 2.902646, 2.121320], [1.020621, 0.277019, 0.353553]]
GATES = [[0.488775, 0.511225, 0], [0.660846, 0, 0.339154]]
OUTPUT = [[5.112252, 5.932649], [0.771827, -2.102250]]


def double(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def change(part: Part) -> Tensor:
    return part.scale * part.B @ part.A


def drawn(count: int, ranks: tuple[int, ...] = (2,), inner: int = 10, out: int = 7) -> list[Part]:
    """Experts of the ranks in turn, each with its own scale."""
    generator = torch.Generator().manual_seed(count)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    sizes = [ranks[at % len(ranks)] for at in range(count)]
    return [Part(draw(r, inner), draw(out, r), 0.5 + at) for at, r in enumerate(sizes)]


def tokens(inner: int = 10) -> Tensor:
    generator = torch.Generator().manual_seed(99)
    return torch.randn(2, 5, inner, generator=generator, dtype=torch.float64)


def prototypes(mixture: Mixture) -> Tensor:
    return mixture.get_buffer("prototypes0")


def found(mixture: Mixture, x: Tensor) -> Gate:
    call = Call()
    mixture.weave(MAP, x, call)
    return call.trace.gates[MAP]


def token_by_token(x: Tensor, v: Tensor, changes: list[Tensor], k: int, T: float) -> Tensor:
    """The sum over each token's k best experts, written out."""
    rows = []
    for token in x.reshape(-1, x.shape[-1]):
        similarity = [abs(float(v[e] @ token)) for e in range(len(changes))]
        best = sorted(range(len(changes)), key=lambda e: -similarity[e])[:k]
        weights = (double([similarity[e] for e in best]) / T).softmax(0)
        rows.append(sum(w * (changes[e] @ token) for w, e in zip(weights, best, strict=True)))
    return torch.stack(rows).view(*x.shape[:-1], -1)


def test_the_worked_example(
    make: Make, parts: list[Part], x: Tensor, woven: Woven, base_output: Tensor
) -> None:
    mixture = make("arrow", parts, top_k=2, iterations=60)
    v, wanted = prototypes(mixture), double(PROTOTYPES)
    assert_close(v * (v * wanted).sum(-1, keepdim=True).sign(), wanted, atol=1e-6, rtol=0)
    gate = found(mixture, x)
    assert_close(gate.scores[0], double(SIMILARITIES), atol=1e-6, rtol=0)
    assert_close(gate.gates[0], double(GATES), atol=1e-6, rtol=0)
    y = base_output + woven(mixture, x)
    assert_close(y[0], double(OUTPUT), atol=1e-6, rtol=0)


def test_fifteen_iterations_find_the_top_right_singular_vector(make: Make) -> None:
    generator = torch.Generator().manual_seed(0)
    parts = []
    for gap in (2.0, 3.0, 10.0):
        U, _ = torch.linalg.qr(torch.randn(7, 3, generator=generator, dtype=torch.float64))
        V, _ = torch.linalg.qr(torch.randn(10, 3, generator=generator, dtype=torch.float64))
        core = torch.randn(3, 3, generator=generator, dtype=torch.float64)
        # The same change in factors that are not singular vectors.
        parts.append(Part(core @ (double([gap, 1, 0.5]) * V).T, U @ core.inverse(), 0.1))
    v = prototypes(make("arrow", parts))
    assert_close(v.norm(dim=-1), torch.ones(3, dtype=torch.float64))
    for own, part in zip(v, parts, strict=True):
        top = torch.linalg.svd(change(part)).Vh[0]
        assert abs(float(own @ top)) > 0.999
        assert own[own.abs().argmax()] > 0


@pytest.mark.parametrize(("k", "T"), [(1, 1.0), (3, 1.0), (5, 0.25), (None, 4.0)])
def test_output_is_the_sum_written_out(make: Make, woven: Woven, k: int | None, T: float) -> None:
    parts, x = drawn(5, ranks=(1, 3, 2)), tokens()
    mixture = make("arrow", parts, top_k=k, temperature=T)
    wanted = token_by_token(x, prototypes(mixture), [change(part) for part in parts], k or 3, T)
    for path in ("dense", "grouped"):
        mixture.path = path
        assert_close(woven(mixture, x), wanted)
        assert_close(woven(mixture, x[0]), wanted[0])


def test_one_kept_expert_is_that_expert(make: Make, woven: Woven) -> None:
    parts, x = drawn(4), tokens()
    mixture = make("arrow", parts, top_k=1)
    best = (x @ prototypes(mixture).T).abs().argmax(-1)
    each = torch.stack([x @ change(part).T for part in parts], dim=-2)
    assert len(best.unique()) > 1
    index = best[..., None, None].expand(*best.shape, 1, each.shape[-1])
    assert_close(woven(mixture, x), each.gather(-2, index).squeeze(-2))
    assert_close(woven(make("arrow", parts[:1]), x), each[..., 0, :])


def test_the_sign_of_an_input_and_the_order_of_experts_do_not_matter(make: Make) -> None:
    parts, x, order = drawn(4), tokens(), [2, 0, 3, 1]
    gates = found(make("arrow", parts), x).gates
    assert torch.equal(found(make("arrow", parts), -x).gates, gates)
    moved = found(make("arrow", [parts[at] for at in order]), x).gates
    assert_close(moved, gates[..., order])


def test_equal_experts_get_equal_gates_and_ties_fall_to_the_earlier(make: Make) -> None:
    part, x = drawn(1)[0], tokens()
    # One iteration: equal even while they have not converged.
    gates = found(make("arrow", [part] * 4, iterations=1), x).gates
    assert_close(gates, double([1 / 3, 1 / 3, 1 / 3, 0]).expand_as(gates))


def test_an_expert_without_an_adapter_has_no_prototype_and_keeps_its_share(
    make: Make, woven: Woven
) -> None:
    parts, x = drawn(3), tokens()
    mixture = make("arrow", [parts[0], None, parts[2]])
    v = prototypes(mixture)
    assert torch.equal(v[1], torch.zeros(10, dtype=torch.float64))
    nothing = torch.zeros_like(change(parts[0]))
    wanted = token_by_token(x, v, [change(parts[0]), nothing, change(parts[2])], 3, 1.0)
    assert_close(woven(mixture, x), wanted)


def test_very_small_changes_have_prototypes_too(make: Make) -> None:
    small = [part._replace(scale=1e-7) for part in drawn(2)]
    assert_close(prototypes(make("arrow", small)), prototypes(make("arrow", drawn(2))))


@pytest.mark.parametrize("general", [0, 2])
def test_peft_gives_the_same_prototypes_and_output(make: Make, woven: Woven, general: int) -> None:
    parts, x = drawn(6, inner=24), tokens(24)
    names = [f"task_{at}" for at in range(6 - general)] + [f"gks_{at}" for at in range(general)]
    config = ArrowConfig(top_k=2, router_temperature=0.5, use_gks=general > 0, rng_seed=3)
    config.task_adapter_names, config.gks_adapter_names = names[: 6 - general], names[6 - general :]
    peft = ArrowLoraLinearLayer(24, config)
    A = nn.ModuleDict({name: nn.Linear(24, 2, bias=False) for name in names}).double()
    B = nn.ModuleDict({name: nn.Linear(2, 7, bias=False) for name in names}).double()
    with torch.no_grad():
        for name, part in zip(names, parts, strict=True):
            A[name].weight.copy_(part.A)
            B[name].weight.copy_(part.B)
    peft.gen_know_sub(A, B)
    peft.build_prototypes(A, B)
    scaling = {name: part.scale for name, part in zip(names, parts, strict=True)}
    wanted = peft(x, A, B, nn.Identity(), scaling)
    mixture = make(
        "arrow",
        parts,
        seed=3,
        top_k=2,
        temperature=0.5,
        general=[f"expert{at}" for at in (4, 5)][:general],
    )
    v = prototypes(mixture)[: 6 - general]
    theirs = peft.prototypes
    # PEFT iterates in single precision.
    assert_close(v * (v * theirs).sum(-1, keepdim=True).sign(), theirs, atol=1e-5, rtol=0)
    assert_close(woven(mixture, x), wanted, atol=1e-4, rtol=1e-4)
    assert not found(mixture, x).selected[..., 6 - general :].any()


def test_the_mean_general_change_is_subtracted_exactly_whatever_the_ranks(
    make: Make, woven: Woven
) -> None:
    parts: list[Part | None] = [*drawn(5, ranks=(2, 3, 1))]
    parts[1] = None
    mixture = make("arrow", parts, general=["expert0", "expert3"], subtract="change", iterations=80)
    changes = [torch.zeros(7, 10).double() if part is None else change(part) for part in parts]
    left = [changes[at] - (changes[0] + changes[3]) / 2 for at in (1, 2, 4)]
    v = prototypes(mixture)
    assert not v[[0, 3]].any()
    for own, residual in zip(v[[1, 2, 4]], left, strict=True):
        assert abs(float(own @ torch.linalg.svd(residual).Vh[0])) > 0.999
    x = tokens()
    assert_close(woven(mixture, x), token_by_token(x, v[[1, 2, 4]], left, 3, 1.0))
    assert not found(mixture, x).selected[..., [0, 3]].any()


def test_what_cannot_be_is_refused(make: Make) -> None:
    parts = drawn(3, ranks=(2, 1))
    with pytest.raises(ValueError, match="top_k 4 is more than the 3 experts"):
        make("arrow", parts, top_k=4)
    with pytest.raises(ValueError, match="top_k 3 is more than the 2 experts"):
        make("arrow", parts, top_k=3, general=["expert0"], subtract="change")
    with pytest.raises(ValueError, match="general: no expert named 'expert7'"):
        make("arrow", parts, general=["expert7"])
    with pytest.raises(ValueError, match="all experts are general"):
        make("arrow", parts, general=["expert0", "expert1", "expert2"])
    with pytest.raises(ValueError, match="subtract: change"):
        make("arrow", parts, general=["expert0"])


def test_nothing_is_trained_and_stored_gates_come_back_bit_by_bit(make: Make) -> None:
    x = tokens()
    for general in ([], ["expert1"]):
        first = make("arrow", drawn(4), iterations=1, general=general)
        second = make("arrow", drawn(4), iterations=1, general=general, seed=1)
        assert not any(value.requires_grad for value in first.parameters())
        assert not torch.equal(found(first, x).gates, found(second, x).gates)
        second.load_state_dict(first.state_dict())
        assert torch.equal(found(first, x).gates, found(second, x).gates)


def test_shapes_are_known_without_weights_and_gates_stay_single_under_autocast(
    make: Make, woven: Woven
) -> None:
    hollow = [Part(part.A.to("meta"), part.B.to("meta"), part.scale) for part in drawn(3)]
    assert prototypes(make("arrow", hollow)).shape == (3, 10)
    assert prototypes(make("arrow", hollow, general=["expert0"])).device.type == "meta"
    mixture, x = make("arrow", drawn(3)).float(), tokens().float()
    wide = found(mixture, x).gates
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(found(mixture, x).gates, wide)
        assert woven(mixture, x).isfinite().all()
