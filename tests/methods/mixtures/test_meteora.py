"""MeteoRA at one map against its equation, token by token and expert by expert."""

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
from weft.methods.mixtures.meteora import MeteoRA

MAP = "layer.0.attention.self.query"
ABOVE = "layer.1.attention.self.query"
Make = Callable[..., MeteoRA]
Woven = Callable[..., Tensor]


def build(
    make: Callable[..., Mixture],
    parts: Sequence[Part | None],
    router: Tensor | None = None,
    **settings: object,
) -> MeteoRA:
    mixture = make("meteora", parts, **settings)
    assert isinstance(mixture, MeteoRA)
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


def naive(
    parts: Sequence[Part | None], router: Tensor, x: Tensor, k: int, temperature: float
) -> Tensor:
    """What the experts add to one token."""
    logits = [float(row @ x) for row in router.detach()]
    best = sorted(range(len(parts)), key=lambda e: -logits[e])[:k]
    shares = [math.exp((logits[e] - logits[best[0]]) / temperature) for e in best]
    total = torch.zeros(4, dtype=torch.float64)
    for e, share in zip(best, shares, strict=True):
        part = parts[e]
        if part is not None:
            total += share / sum(shares) * part.scale * (part.B @ (part.A @ x))
    return total


@pytest.mark.parametrize(
    ("temperature", "gates", "outputs"),
    [
        (
            1.0,
            [[0.689974, 0, 0.310026], [0.562177, 0, 0.437823]],
            [[2.170179, 5.899745], [1.141838, -2.422926]],
        ),
        (
            15.0,
            [[0.513330, 0, 0.486670], [0.504167, 0, 0.495833]],
            [[3.406689, 4.133302], [1.359375, -2.611459]],
        ),
    ],
)
def test_known_experts_give_the_figures_worked_out_by_hand(
    make: Make,
    parts: list[Part],
    router: Tensor,
    x: Tensor,
    base_output: Tensor,
    temperature: float,
    gates: list[list[float]],
    outputs: list[list[float]],
) -> None:
    call = Call()
    added = build(make, parts, router, temperature=temperature).weave(MAP, x, call)
    wanted = torch.tensor([gates], dtype=torch.float64)
    assert_close(call.trace.gates[MAP].gates, wanted, atol=1e-6, rtol=0)
    wanted = torch.tensor([outputs], dtype=torch.float64)
    assert_close(base_output + added, wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize("path", ["dense", "grouped"])
@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("training", [False, True])
def test_every_token_gets_the_sum_of_its_selected_experts(
    make: Make, woven: Woven, path: str, k: int, training: bool
) -> None:
    parts, x = drawn()
    mixture = build(make, parts, top_k=k, temperature=7.0, dropout=0).train(training)
    mixture.path = path
    # The temperature belongs to inference.
    router, temperature = mixture.routers.weight(MAP), 1.0 if training else 7.0
    wanted = [[naive(parts, router, token, k, temperature) for token in row] for row in x]
    wanted = torch.stack([torch.stack(row) for row in wanted])
    assert_close(woven(mixture, x), wanted)
    assert_close(woven(mixture, x[:, 0]), wanted[:, 0])
    with given_rows(torch.tensor([0, 2])):
        assert_close(woven(mixture, x[[0, 2]]), wanted[[0, 2]])


def test_all_experts_selected_is_the_dense_softmax(
    make: Make, parts: list[Part], router: Tensor, x: Tensor, woven: Woven
) -> None:
    gates = (x @ router.T).softmax(-1)
    each = torch.stack([part.scale * (x @ part.A.T @ part.B.T) for part in parts], dim=-2)
    found = woven(build(make, parts, router, top_k=3), x)
    assert_close(found, (gates.unsqueeze(-1) * each).sum(-2))


def test_one_expert_selected_is_that_expert_whatever_the_gate_says(make: Make) -> None:
    parts, x = drawn()
    mixture = build(make, parts, top_k=1)
    outputs = []
    for stretch in (1.0, 0.01, 1000.0):
        mixture.routers.weight(MAP).data.mul_(stretch)
        call = Call()
        outputs.append(mixture.weave(MAP, x, call))
        found = call.trace.gates[MAP]
        assert torch.equal(found.gates, found.selected.double())
        assert (found.selected.sum(-1) == 1).all()
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


def test_the_number_selected_fits_the_experts(
    make: Make, parts: list[Part], x: Tensor, woven: Woven
) -> None:
    assert build(make, parts).k == 2
    alone = parts[0]
    wanted = alone.scale * (x @ alone.A.T @ alone.B.T)
    assert torch.equal(woven(build(make, parts[:1]), x), woven(build(make, parts[:1], seed=1), x))
    assert_close(woven(build(make, parts[:1]), x), wanted)
    with pytest.raises(ValueError, match="more than the 3 experts"):
        build(make, parts, top_k=4)


def test_of_equal_logits_the_earlier_experts_are_selected(
    make: Make, parts: list[Part], x: Tensor
) -> None:
    call = Call()
    build(make, parts, torch.zeros(3, 3)).weave(MAP, x, call)
    wanted = torch.tensor([0.5, 0.5, 0], dtype=torch.float64).expand(1, 2, 3)
    assert torch.equal(call.trace.gates[MAP].gates, wanted)


def test_both_paths_have_the_same_gradients(make: Make) -> None:
    parts, x = drawn()
    results = []
    for path in ("dense", "grouped"):
        mixture = build(make, parts, train_experts=True)
        mixture.path = path
        own = x.clone().requires_grad_(True)
        mixture.weave(MAP, own, Call()).square().sum().backward()
        grads = {name: value.grad for name, value in mixture.named_parameters()}
        assert all(grad is not None for grad in grads.values())
        results.append((own.grad, grads))
    assert_close(results[0], results[1])


def label_loss(mixture: MeteoRA, x: Tensor, **trace: Tensor | None) -> Tensor:
    call = Call(GateTrace(**trace))  # type: ignore[arg-type]
    for module in mixture.modules_woven:
        mixture.weave(module, x, call)
    found = mixture.losses(call.trace)
    assert set(found) == {"label_ce"}
    weight, value = found["label_ce"]
    assert weight == mixture.spec.label_weight
    return value


def test_the_label_loss_of_gates_that_know_and_gates_that_do_not(make: Make) -> None:
    parts, _ = drawn()
    margin = 3.0
    x = torch.eye(4, 5, dtype=torch.float64).unsqueeze(1)
    labels = torch.arange(4)
    knowing = build(make, parts, margin * torch.eye(4, 5))
    wanted = torch.tensor(math.log(1 + 3 * math.exp(-margin)), dtype=torch.float64)
    assert_close(label_loss(knowing, x, labels=labels), wanted)
    assert_close(label_loss(knowing, x[:, 0], labels=labels), wanted)
    blind = build(make, parts, torch.zeros(4, 5))
    assert_close(label_loss(blind, x, labels=labels), torch.tensor(math.log(4)).double())


def test_the_label_loss_of_known_gates(
    make: Make, parts: list[Part], router: Tensor, x: Tensor
) -> None:
    value = label_loss(build(make, parts, router), x, labels=torch.tensor([1]))
    assert value.item() == pytest.approx(1.648783, abs=1e-6)


def test_the_label_loss_is_one_mean_over_real_tokens_of_known_tasks_and_maps(make: Make) -> None:
    parts, x = drawn()
    mixture = build(make, parts, maps=[MAP, ABOVE])
    labels = torch.tensor([3, -1, 0])
    mask = torch.tensor([[1] * 6, [1] * 6, [1] * 2 + [0] * 4])
    terms = [
        -(mixture.routers.weight(module) @ x[row, at]).log_softmax(-1)[labels[row]]
        for module in (MAP, ABOVE)
        for row in (0, 2)
        for at in range(int(mask[row].sum()))
    ]
    wanted = torch.stack(terms).mean()
    assert_close(label_loss(mixture, x, labels=labels, mask=mask), wanted)
    hidden = x.clone()
    hidden[1], hidden[2, 2:] = 100.0, -100.0
    assert_close(label_loss(mixture, hidden, labels=labels, mask=mask), wanted)
    # One owner of all rows says as much as one for each.
    several = label_loss(mixture, x, labels=torch.tensor([3, 3, 3]), mask=mask)
    assert_close(label_loss(mixture, x, labels=torch.tensor([3]), mask=mask), several)


def test_a_batch_without_known_tasks_has_no_label_loss(make: Make) -> None:
    parts, x = drawn()
    mixture = build(make, parts)
    value = label_loss(mixture, x, labels=torch.tensor([-1, -1, -1]))
    value.backward()
    assert value.item() == 0
    assert torch.equal(mixture.routers.weight(MAP).grad, torch.zeros(4, 5).double())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="label_weight 0"):
        label_loss(mixture, x)
    free = build(make, parts, label_weight=0)
    call = Call()
    free.weave(MAP, x, call)
    assert free.losses(call.trace) == {}


@pytest.mark.parametrize("train_experts", [False, True])
def test_only_what_is_trained_gets_gradients(make: Make, train_experts: bool) -> None:
    parts, x = drawn()
    mixture = build(make, parts, train_experts=train_experts, top_k=4).train()
    label_loss(mixture, x, labels=torch.tensor([0, 1, 3])).backward()
    stack, router = mixture.stack(MAP), mixture.routers.weight(MAP)
    assert router.grad is not None
    assert router.grad.abs().sum() > 0
    assert stack.A.grad is stack.B.grad is None
    mixture.weave(MAP, x, Call()).square().sum().backward()
    assert (stack.A.grad is not None) == (stack.B.grad is not None) == train_experts
    trained = {name for name, value in mixture.named_parameters() if value.requires_grad}
    assert trained >= {"routers.weights.0"}
    assert (len(trained) > 1) == train_experts


def test_stored_gates_are_the_same_under_another_seed(make: Make, woven: Woven) -> None:
    parts, x = drawn()
    first, second = build(make, parts, seed=1), build(make, parts, seed=2)
    assert not torch.equal(woven(first, x), woven(second, x))
    second.load_state_dict(first.state_dict())
    calls = [Call(), Call()]
    outputs = [m.weave(MAP, x, call) for m, call in zip((first, second), calls, strict=True)]
    assert torch.equal(*outputs)
    assert torch.equal(*[call.trace.gates[MAP].gates for call in calls])


def test_low_precision_selects_and_weighs_in_single(make: Make) -> None:
    parts, x = drawn()
    mixture, call = build(make, parts).float(), Call()
    with torch.autocast("cpu", torch.bfloat16):
        added = mixture.weave(MAP, x.bfloat16(), call)
        loss = label_loss(mixture, x.bfloat16(), labels=torch.tensor([0, 1, 3]))
    assert call.trace.gates[MAP].gates.dtype == loss.dtype == torch.float32
    assert added.isfinite().all()
    assert_close(call.trace.gates[MAP].gates.sum(-1), torch.ones(3, 6))


def test_a_mixture_that_is_only_counted_has_no_values() -> None:
    part = Part(torch.empty(8, 768, device="meta"), torch.empty(768, 8, device="meta"))
    spec, frame = MeteoRA.settings_type(), Frame("bert", 768, 12)
    stacks = {MAP: MeteoRA.from_experts(MAP, [part] * 28, frame, spec)}
    mixture = MeteoRA([str(at) for at in range(28)], stacks, frame, spec, torch.Generator())
    trained = [value for value in mixture.parameters() if value.requires_grad]
    assert sum(value.numel() for value in trained) == 28 * 768
    assert all(value.is_meta for value in mixture.parameters())
