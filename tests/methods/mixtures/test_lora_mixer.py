"""LoRA-Mixer at one map against its equations, and its two phases of training."""

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from weft.lowrank.route import given_rows
from weft.methods.gates.call import Call
from weft.methods.gates.frame import Frame
from weft.methods.gates.stack import Part
from weft.methods.gates.trace import GateTrace
from weft.methods.mixtures.contract import Mixture
from weft.methods.mixtures.lora_mixer import LoRAMixer

MAP = "layer.0.attention.self.query"
ABOVE = "layer.1.attention.self.query"
Make = Callable[..., Mixture]
Woven = Callable[..., Tensor]
HARD = {"train_experts": True, "hard_share": 0.7}


def build(
    make: Make, parts: Sequence[Part | None], router: Tensor | None = None, **settings: object
) -> LoRAMixer:
    mixture = make("lora_mixer", parts, **settings)
    assert isinstance(mixture, LoRAMixer)
    if router is not None:
        mixture.routers.weight(MAP).data.copy_(router)
    return mixture


def drawn(seed: int = 0) -> tuple[list[Part | None], Tensor]:
    """Four experts of ranks 1, 3, none and 2 on a map of 5 to 4, and an input of 3 sequences of 6 tokens."""
    source = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=source, dtype=torch.float64)

    parts: list[Part | None] = [Part(draw(r, 5), draw(4, r), 0.5 + r) for r in (1, 3, 2)]
    parts.insert(2, None)
    return parts, draw(3, 6, 5)


def softmax(router: Tensor, x: Tensor) -> list[float]:
    powers = [math.exp(float(row @ x)) for row in router.detach()]
    return [power / sum(powers) for power in powers]


def best_of(scores: list[float], k: int) -> list[int]:
    return sorted(range(len(scores)), key=lambda e: -scores[e])[:k]


def naive(parts: Sequence[Part | None], router: Tensor, x: Tensor, k: int) -> Tensor:
    """What the k best experts add to one token."""
    scores = softmax(router, x)
    best = best_of(scores, k)
    total = torch.zeros(4, dtype=torch.float64)
    for e in best:
        part = parts[e]
        if part is not None:
            share = scores[e] / sum(scores[of] for of in best)
            total += share * part.scale * (part.B @ (part.A @ x))
    return total


def traced(mixture: LoRAMixer, x: Tensor, **trace: Tensor) -> GateTrace:
    call = Call(GateTrace(**trace))  # type: ignore[arg-type]
    for module in mixture.modules_woven:
        mixture.weave(module, x, call)
    return call.trace


def test_known_experts_give_the_figures_worked_out_by_hand(
    make: Make, parts: list[Part], router: Tensor, x: Tensor, base_output: Tensor, woven: Woven
) -> None:
    wanted = {
        (True, 2): [[3.308678, 5.478106], [1.868598, -3.078212]],
        (False, None): [[3.308678, 5.478106], [1.868598, -3.078212]],
        (False, 2): [[2.170179, 5.899745], [1.141838, -2.422926]],
    }
    for (training, k), figures in wanted.items():
        mixture = build(make, parts, router, top_k=k).train(training)
        expected = torch.tensor([figures], dtype=torch.float64)
        assert_close(base_output + woven(mixture, x), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("path", ["dense", "grouped"])
@pytest.mark.parametrize(("k", "training"), [(None, True), (None, False), (1, False), (4, False)])
def test_every_token_gets_all_experts_in_training_and_the_best_afterwards(
    make: Make, woven: Woven, path: str, k: int | None, training: bool
) -> None:
    parts, x = drawn()
    mixture = build(make, parts, top_k=k).train(training)
    mixture.path = path
    taken = 4 if training else k or 3
    router = mixture.routers.weight(MAP)
    wanted = torch.stack(
        [torch.stack([naive(parts, router, token, taken) for token in row]) for row in x]
    )
    assert_close(woven(mixture, x), wanted)
    assert_close(woven(mixture, x[:, 0]), wanted[:, 0])
    with given_rows(torch.tensor([0, 2])):
        assert_close(woven(mixture, x[[0, 2]]), wanted[[0, 2]])


@pytest.mark.parametrize("training", [False, True])
def test_both_paths_have_the_same_gradients(make: Make, training: bool) -> None:
    parts, x = drawn()
    results = []
    for path in ("dense", "grouped"):
        mixture = build(make, parts, train_experts=True, top_k=2).train(training)
        mixture.path = path
        own = x.clone().requires_grad_(True)
        mixture.weave(MAP, own, Call()).square().sum().backward()
        results.append((own.grad, {n: value.grad for n, value in mixture.named_parameters()}))
    assert_close(results[0], results[1])


def test_the_number_selected_fits_the_experts(
    make: Make, parts: list[Part], x: Tensor, woven: Woven
) -> None:
    alone = parts[0]
    wanted = alone.scale * (x @ alone.A.T @ alone.B.T)
    assert_close(woven(build(make, parts[:1]), x), wanted)
    assert_close(woven(build(make, parts[:1]).train(), x), wanted)
    with pytest.raises(ValueError, match="more than the 3 experts"):
        build(make, parts, top_k=4)
    call = Call()
    build(make, parts, torch.zeros(3, 3), top_k=2).weave(MAP, x, call)
    halves = torch.tensor([0.5, 0.5, 0], dtype=torch.float64).expand(1, 2, 3)
    assert torch.equal(call.trace.gates[MAP].gates, halves)


@pytest.mark.parametrize("sign", [-1, 1])
def test_rsl_of_flat_and_of_collapsed_gates(make: Make, sign: int) -> None:
    parts, x = drawn()

    def found(router: Tensor, k: int) -> tuple[float, float]:
        mixture = build(make, parts, router, top_k=k, entropy_sign=sign).train()
        (a, balance), (weight, entropy) = mixture.losses(traced(mixture, x.abs())).values()
        assert a == pytest.approx(0.04)
        assert weight == sign * 1e-3
        return balance.item(), entropy.item()

    assert found(torch.zeros(4, 5), 2) == pytest.approx((1 / 4, math.log(4)))
    one = torch.zeros(4, 5)
    one[2] = 1e4
    for k in (1, 2):
        assert found(one, k) == pytest.approx((1 / k, 0))


def test_rsl_is_a_mean_over_maps_of_real_tokens(make: Make) -> None:
    parts, x = drawn()
    settings = {"top_k": 2, "balance_weight": 3.0, "entropy_weight": 0.5}
    mixture = build(make, parts, maps=[MAP, ABOVE], **settings).train()
    mask = torch.tensor([[1] * 6, [0] * 6, [1] * 2 + [0] * 4])
    tokens = [x[row, at] for row in range(3) for at in range(6) if mask[row, at]]
    balance = entropy = 0.0
    for module in (MAP, ABOVE):
        p = [softmax(mixture.routers.weight(module), token) for token in tokens]
        chosen = [e for scores in p for e in best_of(scores, 2)]
        for e in range(4):
            mean = sum(scores[e] for scores in p) / len(p)
            balance += mean * chosen.count(e) / len(chosen) / 2
        entropy -= sum(s * math.log(s) for scores in p for s in scores) / len(p) / 2
    wanted = {
        "balance": (3.0, torch.tensor(balance).double()),
        "entropy": (-0.5, torch.tensor(entropy).double()),
    }
    assert_close(mixture.losses(traced(mixture, x, mask=mask)), wanted)
    padded = x.masked_fill(mask.unsqueeze(-1) == 0, 50.0)
    assert_close(mixture.losses(traced(mixture, padded, mask=mask)), wanted)
    # A map that sees one state a sequence counts every sequence.
    found = mixture.losses(traced(mixture, x[:, 0], mask=mask))
    assert_close(found, mixture.losses(traced(mixture, x[:, :1])))


@pytest.mark.parametrize("sign", [-1, 1])
def test_the_entropys_sign_says_where_its_gradient_leads(make: Make, sign: int) -> None:
    parts, x = drawn()
    mixture = build(make, parts, entropy_sign=sign).train()
    router = mixture.routers.weight(MAP)

    def step() -> float:
        router.grad = None
        weight, value = mixture.losses(traced(mixture, x))["entropy"]
        (weight * value).backward()
        return value.item()

    before = step()
    assert router.grad is not None
    router.data -= router.grad * (1e-2 / router.grad.norm())
    assert (step() - before) * sign < 0
    router.data.zero_()
    step()
    assert_close(router.grad, torch.zeros(4, 5).double())


def test_a_gate_that_is_sure_in_single_precision_has_a_finite_gradient(make: Make) -> None:
    parts, x = drawn()
    mixture = build(make, parts, torch.randn(4, 5) * 1e4).float().train()
    with torch.autocast("cpu", torch.bfloat16):
        trace = traced(mixture, x.bfloat16())
        losses = mixture.losses(trace)
    assert trace.gates[MAP].gates.dtype == torch.float32
    assert (trace.gates[MAP].scores == 0).any()
    torch.stack([weight * value for weight, value in losses.values()]).sum().backward()
    grad = mixture.routers.weight(MAP).grad
    assert grad is not None
    assert grad.isfinite().all()


def test_experts_are_held_where_they_started(make: Make) -> None:
    parts, x = drawn()
    frozen = build(make, parts, preserve_weight=2.0).train()
    assert set(frozen.losses(traced(frozen, x))) == {"balance", "entropy"}
    assert not frozen.stack(MAP).A.requires_grad
    mixture = build(make, parts, preserve_weight=2.0, train_experts=True, maps=[MAP, ABOVE]).train()
    stack = mixture.stack(MAP)
    weight, value = mixture.losses(traced(mixture, x))["preserve"]
    value.backward()
    assert (weight, value.item()) == (2.0, 0.0)
    assert torch.equal(stack.A.grad, torch.zeros_like(stack.A))  # type: ignore[arg-type]
    stack.A.data += 1.0
    stack.B.data -= 2.0
    _, value = mixture.losses(traced(mixture, x))["preserve"]
    assert value.item() == pytest.approx((6 * 5 * 1.0 + 4 * 6 * 4.0) / 2)


def test_hard_routing_trains_the_rows_own_experts_alone(make: Make, woven: Woven) -> None:
    parts, x = drawn()
    mixture = build(make, parts, **HARD).train()
    labels = torch.tensor([3, 0, 3])
    call = Call(GateTrace(labels=labels))
    added = mixture.weave(MAP, x, call)
    one_hot = torch.eye(4, dtype=torch.float64)[labels].unsqueeze(1).expand(3, 6, 4)
    assert torch.equal(call.trace.gates[MAP].gates, one_hot)
    for row, label in enumerate(labels.tolist()):
        own = parts[label]
        assert own is not None
        assert_close(added[row], own.scale * (x[row] @ own.A.T @ own.B.T))
    added.square().sum().backward()
    ranks = slice(1, 4)  # of the second expert, whose task no row has
    stack = mixture.stack(MAP)
    for grad in (stack.A.grad, stack.B.grad.T):  # type: ignore[union-attr]
        assert grad is not None
        assert torch.equal(grad[ranks], torch.zeros_like(grad[ranks]))
        assert (grad[0] != 0).all()
        assert (grad[4:] != 0).all()
    assert mixture.routers.weight(MAP).grad is None
    assert mixture.losses(call.trace) == {}
    with pytest.raises(ValueError, match="none of the mixture's experts"):
        woven(mixture, x, trace=GateTrace(labels=torch.tensor([3, -1, 0])))
    # Inference knows no tasks.
    assert_close(woven(mixture.eval(), x), woven(build(make, parts), x))
    with pytest.raises(ValueError, match="train_experts"):
        build(make, parts, hard_share=0.5)


def test_soft_routing_begins_after_its_share_of_the_steps_and_a_checkpoint_knows(
    make: Make,
) -> None:
    parts, x = drawn()
    labels = torch.tensor([3, 0, 3])
    mixture = build(make, parts, preserve_weight=1.0, **HARD).train()
    hard = []
    for done in range(1, 11):
        gates = traced(mixture, x, labels=labels).gates[MAP].gates
        hard.append(bool((gates.max(-1).values == 1).all()))
        mixture.stack(MAP).A.data += 1.0
        mixture.after_step(done, 10)
    assert hard == [True] * 7 + [False] * 3
    # Held where soft routing began, three steps ago.
    _, moved = mixture.losses(traced(mixture, x, labels=labels))["preserve"]
    assert moved.item() == pytest.approx(6 * 5 * 3.0**2)

    resumed = build(make, parts, preserve_weight=1.0, seed=1, **HARD).train()
    assert resumed.losses(traced(resumed, x, labels=labels)) == {}
    resumed.load_state_dict(mixture.state_dict())
    traces = [traced(each, x, labels=labels) for each in (mixture, resumed)]
    assert torch.equal(*[trace.gates[MAP].gates for trace in traces])
    found, again = mixture.losses(traces[0]), resumed.losses(traces[1])
    assert_close(found, again, rtol=0, atol=0)


def test_a_mixture_that_is_only_counted_has_no_values() -> None:
    part = Part(torch.empty(8, 768, device="meta"), torch.empty(768, 8, device="meta"))
    spec = LoRAMixer.settings_type(preserve_weight=1.0, **HARD)
    frame = Frame("bert", 768, 12)
    stacks = {MAP: LoRAMixer.from_experts(MAP, [part] * 5, frame, spec)}
    mixture = LoRAMixer([str(at) for at in range(5)], stacks, frame, spec, torch.Generator())
    trained = [value for value in mixture.parameters() if value.requires_grad]
    assert sum(value.numel() for value in trained) == 5 * 768 + 5 * 2 * 8 * 768
    assert all(value.is_meta for value in [*mixture.parameters(), *mixture.buffers()])
