"""MixLoRA: a feed-forward block in slots is the sum of whole experts, on every kind of trunk."""

import copy
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from weft.base.loading import load_base
from weft.lowrank.attach import frozen_linear
from weft.lowrank.roles import resolve
from weft.lowrank.route import Route, given_rows
from weft.methods.gates.call import Call
from weft.methods.gates.frame import Frame
from weft.methods.gates.losses import balance_mixtral
from weft.methods.gates.trace import GateTrace, traced
from weft.methods.mixtures import mixtures
from weft.methods.mixtures.contract import Mixture
from weft.model.mixed import Mix
from weft.model.mixing import frame_of
from weft.model.model import Model

MODEL_TYPES = ["bert", "distilbert", "gpt2", "llama", "modernbert"]
FIRST, LAST = "layer.0.intermediate.dense", "layer.0.output.dense"
SHAPES = {FIRST: (12, 8), LAST: (8, 12)}
MIX = Route.everywhere("mix")
Make = Callable[..., Mixture]
Folder = Callable[[str], Path]


def scattered(module: nn.Module) -> Any:
    """Every trained number away from its start, so that gates differ and changes are not 0."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in module.parameters():
            value.add_(0.5 * torch.randn(value.shape, generator=draw))
    return module


def mixed(folder: Path, *, is_new: bool = False, **settings: Any) -> tuple[Model, Any, nn.Module]:
    """A trunk with a mixture in double precision, the mixture, and the bare trunk."""
    base = load_base(str(folder), dtype=torch.float64)
    bare = copy.deepcopy(base.trunk)
    kind: Any = mixtures.load("mixlora")
    spec = kind.settings_type(**{"rank": 2, "num_experts": 4, **settings})
    frame = frame_of(base.trunk)
    draw = torch.Generator().manual_seed(1)
    weights = {at: frozen_linear(base.trunk, at).weight for at in resolve(base.trunk, spec.targets)}
    stacks = {at: kind.from_nothing(at, W0, frame, spec, draw) for at, W0 in weights.items()}
    experts = [f"expert{at}" for at in range(spec.num_experts)]
    mixture = kind(experts, stacks, frame, spec, draw).double()
    if not is_new:
        scattered(mixture)
    model = Model(base).eval()
    model.add(Mix("mix", mixture), trainable=True)
    return model.eval(), mixture, bare


def inputs(sequences: int = 2, seq: int = 6) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(5)
    ids = torch.randint(10, 90, (sequences, seq), generator=draw)
    lengths = torch.arange(seq, seq - sequences, -1).unsqueeze(1)
    return {"input_ids": ids, "attention_mask": (torch.arange(seq) < lengths).long()}


def changed(mixture: Any, name: str, expert: int) -> Tensor:
    """`s_e B_e A_e` of one expert at one map."""
    stack, at = mixture.stack(name), slice(2 * expert, 2 * expert + 2)
    return (stack.B[:, at] * stack.scale[at]) @ stack.A[at]


def kept(p: Tensor, spec: Any) -> dict[int, float]:
    """A token's experts with their weights, from the router's probabilities."""
    order = sorted(range(len(p)), key=lambda e: -float(p[e]))
    if spec.routing == "dynamic":
        count = next(n for n in range(1, 5) if sum(float(p[e]) for e in order[:n]) > spec.top_p)
        return {e: float(p[e]) for e in order[:count]}
    if spec.routing == "switch":
        return {order[0]: float(p[order[0]])}
    best = order[: spec.top_k or 2]
    return {e: float(p[e]) / sum(float(p[f]) for f in best) for e in best}


def loop_over_tokens_and_experts(bare: nn.Module, mixture: Any) -> None:
    """Give `bare` feed-forward blocks that are the sum of whole experts, written out."""
    kind, seen = mixture.frame.model_type, {}

    def expert(names: list[str], e: int, x: Tensor) -> Tensor:
        def linear(name: str, x: Tensor) -> Tensor:
            own = bare.get_submodule(name)
            return functional.linear(x, own.weight + changed(mixture, name, e), own.bias)

        first = linear(names[0], x)
        if kind == "llama":
            return linear(names[2], functional.silu(first) * linear(names[1], x))
        if kind == "modernbert":
            a, b = first.chunk(2, dim=-1)
            return linear(names[1], functional.gelu(a) * b)
        act = functional.gelu(first, approximate="tanh" if kind == "gpt2" else "none")
        return linear(names[1], act)

    def block(names: list[str], router: Tensor) -> None:
        def replaced(module: nn.Module, args: Any, out: Tensor) -> Tensor:
            y = torch.zeros_like(out)
            for at in product(*map(range, out.shape[:2])):
                x = seen[names[0]][at]
                for e, weight in kept((router @ x).softmax(-1), mixture.spec).items():
                    y[at] += weight * expert(names, e, x)
            return y

        first, last = bare.get_submodule(names[0]), bare.get_submodule(names[-1])
        first.register_forward_pre_hook(lambda _, args: seen.update({names[0]: args[0]}))
        last.register_forward_hook(replaced)

    for layer in range(mixture.frame.layers):
        names = resolve(bare, ["ffn_in", "ffn_out"], layers=[layer])
        block(names, mixture.routers.weight(names[0]))


@pytest.mark.parametrize(
    ("model_type", "settings"),
    [
        *[(name, {}) for name in MODEL_TYPES],
        ("llama", {"routing": "dynamic"}),
        ("bert", {"routing": "dynamic", "top_p": 0.5}),
        ("llama", {"routing": "switch"}),
        ("bert", {"top_k": 4, "targets": ["query", "ffn_in", "output", "ffn_out"]}),
        ("gpt2", {"top_k": 1, "targets": ["key", "ffn_in", "ffn_out"]}),
    ],
)
@torch.no_grad()
def test_a_trunk_in_slots_is_the_loop_over_tokens_and_experts(
    tiny_folder: Folder, model_type: str, settings: dict[str, Any]
) -> None:
    model, mixture, bare = mixed(tiny_folder(model_type), **settings)
    for name in set(mixture.modules_woven) - set(resolve(bare, ["ffn_in", "ffn_out"])):
        assert mixture.stack(name).ranks == (2,)
        bare.get_submodule(name).weight += changed(mixture, name, 0)
    loop_over_tokens_and_experts(bare, mixture)
    wanted = bare(**inputs()).last_hidden_state
    assert_close(model.states(inputs(), MIX), wanted)
    assert not torch.allclose(model.states(inputs(), None), wanted, atol=1e-3)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@torch.no_grad()
def test_without_changes_it_is_the_base_for_any_gate_unless_weights_do_not_sum_to_1(
    tiny_folder: Folder, model_type: str
) -> None:
    for routing in ("top_k", "dynamic", "switch"):
        model, mixture, _ = mixed(tiny_folder(model_type), is_new=True, routing=routing)
        scattered(mixture.routers)
        same = torch.allclose(model.states(inputs(), MIX), model.states(inputs(), None), atol=1e-12)
        assert same == (routing == "top_k")


@pytest.mark.parametrize("model_type", ["bert", "llama"])
def test_gradients_reach_the_router_and_the_selected_experts_only(
    tiny_folder: Folder, model_type: str
) -> None:
    model, mixture, bare = mixed(tiny_folder(model_type), num_experts=12)
    with traced(GateTrace()) as trace:
        model.states(inputs(1, 3), MIX).square().sum().backward()
    assert all(value.grad is None for value in model.base.trunk.parameters())
    for layer in range(2):
        names = resolve(bare, ["ffn_in", "ffn_out"], layers=[layer])
        chosen = trace.gates[names[0]].selected.flatten(0, 1).any(0)
        assert 2 <= int(chosen.sum()) <= 6
        router = mixture.routers.weight(names[0]).grad
        # Shares of a softmax over all: what the others get is rounding.
        assert torch.equal(router.abs().sum(-1) > 1e-9, chosen)
        for stack in (mixture.stack(name) for name in names):
            for grad in (stack.A.grad, stack.B.grad.T):
                assert torch.equal(grad.abs().sum(-1) > 0, chosen.repeat_interleave(2))


def block(mixture: Any, x: Tensor, call: Call) -> Tensor:
    """A feed-forward block whose frozen maps are 0."""
    hidden = functional.gelu(1 + mixture.weave(FIRST, x, call))
    return mixture.finish(LAST, mixture.weave(LAST, hidden, call), call)


def made(make_new: Make, **settings: Any) -> Any:
    settings = {"rank": 2, "num_experts": 4, "dropout": 0.0, **settings}
    return scattered(make_new("mixlora", SHAPES, **settings))


def tokens(*shape: int) -> Tensor:
    draw = torch.Generator().manual_seed(3)
    return torch.randn(shape, generator=draw, dtype=torch.float64)


def test_slots_take_the_largest_first_and_ties_fall_to_the_earlier(make_new: Make) -> None:
    mixture, call = made(make_new), Call()
    assert mixture.weave(FIRST, tokens(2, 5, 8), call).shape == (2, 2, 5, 12)
    chosen, weights = call.once[FIRST]
    assert (weights[0] >= weights[1]).all()
    assert_close(weights.sum(0), torch.ones(2, 5, dtype=torch.float64))
    assert torch.equal(chosen.sum(0).bool(), call.trace.gates[FIRST].selected)
    nn.init.zeros_(mixture.routers.weight(FIRST))
    mixture.weave(FIRST, tokens(2, 5, 8), call)
    chosen, weights = call.once[FIRST]
    assert torch.equal(chosen[:, 0, 0].argmax(-1), torch.tensor([0, 1]))
    assert (weights == 0.5).all()


def test_a_router_starts_normal_small_or_as_wide_as_the_switch_has_it(make_new: Make) -> None:
    shapes = {FIRST: (12, 600), LAST: (600, 12)}
    for routing, std in (("top_k", 0.02), ("dynamic", 0.02), ("switch", 1.0)):
        own = make_new("mixlora", shapes, num_experts=8, routing=routing).routers.weight(FIRST)
        # Four deviations of a deviation and of a mean of 4,800 draws.
        assert own.std().item() == pytest.approx(std, rel=4 / (2 * 4800) ** 0.5)
        assert own.mean().item() == pytest.approx(0, abs=4 * std / 4800**0.5)
        assert own.abs().max() > 3 * std


def test_inputs_without_a_sequence_dimension_and_one_expert_run(make_new: Make) -> None:
    mixture, x = made(make_new), tokens(2, 5, 8)
    assert_close(block(mixture, x[0], Call()), block(mixture, x, Call())[0])
    alone = made(make_new, num_experts=1)
    hidden = functional.gelu(1 + x @ changed(alone, FIRST, 0).T)
    assert_close(block(alone, x, Call()), hidden @ changed(alone, LAST, 0).T)


def test_a_recomputed_block_has_the_same_gradients(make_new: Make) -> None:
    grads = []
    for again in (False, True):
        mixture, call, x = made(make_new), Call(), tokens(2, 5, 8).requires_grad_()
        own = (mixture, x, call)
        y = checkpoint(block, *own, use_reentrant=False) if again else block(*own)
        y.square().sum().backward()
        grads.append([x.grad, *[value.grad for value in mixture.parameters()]])
    assert_close(grads[0], grads[1])


def test_losses_are_those_of_the_worked_example_and_ignore_padding(
    make_new: Make, x: Tensor, router: Tensor
) -> None:
    shapes = {FIRST: (4, 3), LAST: (3, 4)}
    mixture = make_new("mixlora", shapes, hidden=3, num_experts=3, rank=1, z_weight=1e-3)
    mixture.routers.weight(FIRST).data.copy_(router)
    junk = torch.cat([x, 9 * x.flip(1)], dim=1)
    for rows, mask in ((x, None), (junk, torch.tensor([[1, 1, 0, 0]]))):
        trace = GateTrace(mask=mask)
        mixture.weave(FIRST, rows, Call(trace))
        (balance_weight, balance), (z_weight, z) = mixture.losses(trace).values()
        assert (balance_weight, z_weight) == (1e-3, 1e-3)
        assert balance.item() == pytest.approx(2.400479, abs=1e-6)
        assert z.item() == pytest.approx(2.729360, abs=1e-6)
        assert_close(balance, balance_mixtral(trace.counted(trace.gates[FIRST].scores), 2))


def test_the_balance_counts_selected_experts_where_scores_are_even(make_new: Make) -> None:
    for routing, wanted in {"top_k": 2, "switch": 1, "dynamic": 4}.items():
        mixture, trace = made(make_new, routing=routing), GateTrace()
        nn.init.zeros_(mixture.routers.weight(FIRST))
        mixture.weave(FIRST, tokens(2, 5, 8), Call(trace))
        assert mixture.losses(trace)["balance_mixtral"][1].item() == pytest.approx(wanted)
        assert set(mixture.losses(trace)) == {"balance_mixtral"}


def test_noise_and_dropout_act_in_training_only(make_new: Make) -> None:
    x = tokens(2, 5, 8)
    for settings in ({"routing": "switch"}, {"dropout": 0.5}):
        mixture = made(make_new, **settings)
        first, second = (block(mixture.train(), x, Call()) for _ in range(2))
        assert not torch.equal(first, second)
        first, second = (block(mixture.eval(), x, Call()) for _ in range(2))
        assert torch.equal(first, second)


def test_stored_tensors_come_back_bit_by_bit_under_another_seed(make_new: Make) -> None:
    x = tokens(2, 5, 8)
    first, second = made(make_new), make_new("mixlora", SHAPES, rank=2, num_experts=4, seed=7)
    second.load_state_dict(first.state_dict())
    assert torch.equal(block(first.eval(), x, Call()), block(second.eval(), x, Call()))


def test_numbers_trained_are_known_without_weights_and_gates_stay_single(make_new: Make) -> None:
    with torch.device("meta"):
        hollow = make_new("mixlora", SHAPES)
    count = sum(value.numel() for value in hollow.parameters() if value.requires_grad)
    assert count == 8 * 8 * 2 * (8 + 12) + 8 * 8
    mixture, x, trace = made(make_new).float().eval(), tokens(2, 5, 8).float(), GateTrace()
    wanted = block(mixture, x, Call())
    with torch.autocast("cpu", torch.bfloat16):
        found = block(mixture, x, Call(trace))
    assert trace.gates[FIRST].gates.dtype == torch.float32
    assert_close(trace.logits[FIRST], x @ mixture.routers.weight(FIRST).T)
    assert_close(found.float(), wanted, atol=0.2, rtol=0.05)


def test_what_cannot_be_is_refused(make_new: Make, tiny_folder: Folder) -> None:
    with pytest.raises(ValueError, match="top_k 5 is more than the 4 experts"):
        made(make_new, top_k=5)
    for shapes in ({FIRST: (12, 8)}, {LAST: (8, 12)}, {"layer.0.attention.self.query": (8, 8)}):
        with pytest.raises(ValueError, match=r"targets: \[ffn_in, ffn_out\]"):
            make_new("mixlora", shapes)
    with pytest.raises(ValueError, match="whole feed-forward blocks"):
        mixed(tiny_folder("llama"), targets=["gate_proj", "down_proj"])
    kind = mixtures.load("mixlora")
    with pytest.raises(ValueError, match="start: nothing"):
        kind.from_experts(FIRST, [None], Frame("bert", 8, 2), kind.settings_type())
    with given_rows(torch.tensor([0])), pytest.raises(ValueError, match="as a whole"):
        made(make_new).weave(FIRST, tokens(1, 5, 8), Call())
