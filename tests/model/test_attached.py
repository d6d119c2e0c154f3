"""Low-rank terms on modules of a user's own: W0 + B A, the terms alone trained, everything as it was afterwards."""

import copy
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import GPT2Config, GPT2Model
from transformers.pytorch_utils import Conv1D

import weft
from weft.methods.adapters import adapters
from weft.model.attached import maps_of

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "attach.md"


class Net(nn.Module):
    """Convolution, a branch, a map used twice, a frozen part: no Transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.body = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 8, bias=False))
        self.gate = nn.Linear(8, 8)
        self.head = nn.Linear(8, 2)
        self.gate.bias.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.body(self.conv(x).flatten(1))
        return self.head(h * torch.sigmoid(self.gate(self.gate(h))))


def net() -> Net:
    torch.manual_seed(0)
    return Net().double()


def rows() -> torch.Tensor:
    return torch.randn(5, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def moved(module: nn.Module, seed: int = 2) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in module.parameters():
            if value.requires_grad:
                noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
                value.add_(0.3 * noise.to(value.dtype))


def test_the_module_is_w0_plus_the_scaled_product() -> None:
    module, plain, x = net(), net(), rows()
    assert weft.attach(module, ["gate", "body.0"], rank=3, alpha=6) is module
    assert torch.equal(module(x), plain(x))
    moved(module)
    terms = {name: own.adapter for name, own in maps_of(module).items()}
    assert list(terms) == ["body.0", "gate"]
    with torch.no_grad():
        for name, term in terms.items():
            A, B = term.get_parameter("A"), term.get_parameter("B")
            plain.get_submodule(name).get_parameter("weight").add_(2.0 * (B @ A))
    torch.testing.assert_close(module(x), plain(x), rtol=1e-12, atol=1e-12)


def test_gradients_reach_the_factors_and_nothing_else() -> None:
    module, x = net(), rows()
    weft.attach(module, "all-linear", rank=2)
    moved(module)
    module(x).square().sum().backward()
    names = {name for name, value in module.named_parameters() if value.grad is not None}
    assert names == {name for name, value in module.named_parameters() if value.requires_grad}
    maps = ("body.0", "body.2", "gate", "head")
    assert names == {f"{name}.adapter.{part}" for name in maps for part in "AB"}
    assert all(
        value.grad.abs().sum() > 0 for value in module.parameters() if value.grad is not None
    )
    W0 = module.head._parameters["weight"]
    assert W0 is not None
    # Against the gradient of the plain product, written out.
    A, B = (module.head.get_submodule("adapter").get_parameter(n) for n in "AB")
    h: list[torch.Tensor] = []
    handle = module.head.register_forward_hook(lambda own, args, out: h.append(args[0].detach()))
    module(x)
    handle.remove()
    A2, B2 = (value.detach().clone().requires_grad_(True) for value in (A, B))
    (h[0] @ (W0 + 8 * B2 @ A2).T + module.head.bias).square().sum().backward()
    torch.testing.assert_close(A.grad, A2.grad, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(B.grad, B2.grad, rtol=1e-10, atol=1e-10)


def test_what_was_attached_is_taken_away_to_the_last_object() -> None:
    module, plain = net(), net()
    objects = {name: id(value) for name, value in module.named_parameters()}
    state = {name: value.clone() for name, value in module.state_dict().items()}
    weft.attach(module, rank=2)
    moved(module)
    # A checkpoint of the plain module loads as before.
    assert set(state) <= set(module.state_dict())
    weft.detach(module)
    assert {name: id(value) for name, value in module.named_parameters()} == objects
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    flags = {name: value.requires_grad for name, value in module.named_parameters()}
    assert flags == {name: value.requires_grad for name, value in plain.named_parameters()}
    assert flags["gate.bias"] is False
    assert {type(own) for own in module.modules()} == {type(own) for own in plain.modules()}
    weft.attach(module, rank=2)


@pytest.mark.parametrize("name", adapters.names())
def test_every_variant_merges_into_what_it_was(name: str) -> None:
    module, x = net(), rows()
    if name == "lora_sb":
        with pytest.raises(ValueError, match="starts from gradients of training rows"):
            weft.attach(module, "body", "lora_sb")
        return
    weft.attach(module, ["body.0", "body.2"], name, rank=2)
    moved(module)
    expected = module(x).detach()
    assert (expected - net()(x)).abs().max() > 1e-6
    twin = copy.deepcopy(module)
    moved(module, seed=9)
    torch.testing.assert_close(twin(x), expected, rtol=0, atol=0)
    weft.detach(twin, merge=True)
    assert maps_of(twin) == {}
    torch.testing.assert_close(twin(x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["lora", "vera", "dora"])
def test_the_state_of_the_terms_comes_back(name: str, tmp_path: Path) -> None:
    module, x = net(), rows()
    weft.attach(module, ["body.0", "gate"], name, rank=2, seed=4)
    moved(module)
    state = weft.adapter_state(module)
    assert {key.split(".adapter")[0] for key in state} == {"body.0", "gate"}
    torch.save(state, tmp_path / "terms.pt")
    other = weft.attach(net(), ["body.0", "gate"], name, rank=2, seed=5)
    assert not torch.allclose(other(x), module(x))
    weft.load_adapter_state(other, torch.load(tmp_path / "terms.pt"))
    assert torch.equal(other(x), module(x))
    whole = weft.attach(net(), ["body.0", "gate"], name, rank=2, seed=6)
    whole.load_state_dict(module.state_dict())
    assert torch.equal(whole(x), module(x))
    assert torch.equal(pickle.loads(pickle.dumps(module))(x), module(x))
    for targets, rank in ((["gate"], 2), (["body.0", "gate"], 3)):
        with pytest.raises(ValueError, match=r"not the terms that are attached|expected shape"):
            weft.load_adapter_state(weft.attach(net(), targets, name, rank=rank), {**state})
        if name == "vera":
            break


def test_terms_reach_what_reads_weights_without_calling() -> None:
    """Torch's attention takes `out_proj.weight`, and in eval mode without gradients its fast path takes all of them."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    module = nn.TransformerEncoder(layer, 2).double().eval()
    plain, x = copy.deepcopy(module), torch.randn(3, 5, 16, dtype=torch.float64)
    weft.attach(module, rank=2, alpha=2)
    moved(module)
    with torch.no_grad():
        for name, own in maps_of(module).items():
            A, B = own.adapter.get_parameter("A"), own.adapter.get_parameter("B")
            plain.get_submodule(name).get_parameter("weight").add_(B @ A)
    assert len(maps_of(module)) == 6
    torch.testing.assert_close(module(x), plain(x), rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        torch.testing.assert_close(module(x), plain(x), rtol=1e-10, atol=1e-10)
    module(x).sum().backward()
    assert all(own.adapter.get_parameter("B").grad is not None for own in maps_of(module).values())


def test_a_transposed_map_of_transformers_is_read_as_it_is_stored() -> None:
    torch.manual_seed(0)
    config = GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=11, n_positions=8)
    module = GPT2Model(config).double().eval()
    plain, ids = copy.deepcopy(module), torch.tensor([[1, 5, 7]])
    weft.attach(module, ["c_attn", "mlp.c_fc"], rank=2, alpha=2)
    moved(module)
    with torch.no_grad():
        for name, own in maps_of(module).items():
            A, B = own.adapter.get_parameter("A"), own.adapter.get_parameter("B")
            plain.get_submodule(name).get_parameter("weight").add_((B @ A).T)
        found, expected = (own(ids).last_hidden_state for own in (module, plain))
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
        weft.detach(module, merge=True)
        torch.testing.assert_close(module(ids).last_hidden_state, expected, rtol=1e-10, atol=1e-10)
    assert type(module.h[0].attn.c_attn) is Conv1D


def test_compiled_it_answers_the_same() -> None:
    module, x = net(), rows()
    weft.attach(module, rank=2)
    moved(module)
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), module(x), rtol=1e-12, atol=1e-12)


def test_dropout_of_a_term_acts_while_training_alone() -> None:
    module = nn.Linear(4, 3).double()
    x = torch.randn(6, 4, dtype=torch.float64)
    weft.attach(module, rank=2, dropout=0.5)
    moved(module)
    torch.manual_seed(3)
    found = module(x)
    torch.manual_seed(3)
    term = module.get_submodule("adapter")
    A, B = term.get_parameter("A"), term.get_parameter("B")
    W0 = module._parameters["weight"]
    assert W0 is not None
    expected = x @ W0.T + module.bias + 8 * F.dropout(x, 0.5) @ A.T @ B.T
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    module.eval()
    assert torch.equal(module(x), module(x))


@pytest.mark.parametrize(
    ("what", "settings", "kind", "message"),
    [
        (net, {"targets": "all"}, ValueError, r"no target named 'all'\. Did you mean 'all-linear'"),
        (net, {"targets": "gates"}, ValueError, r"no target named 'gates'\. Did you mean 'gate'"),
        (net, {"targets": []}, ValueError, "no targets given; name maps, or all-linear"),
        (net, {"targets": "re:("}, ValueError, "is no regular expression"),
        (net, {"adapter": "lorra"}, KeyError, r"no adapter named 'lorra'\. Did you mean"),
        (net, {"alpa": 3}, ValueError, "adapter lora: .*alpa"),
        (net, {"rank": 9}, ValueError, "rank 9 is larger than the layer: body.0 is 8 x 12"),
        (lambda: nn.Conv2d(1, 1, 1), {}, ValueError, "a Conv2d holds no torch.nn.Linear"),
        (lambda: weft.attach(net(), rank=1), {}, ValueError, "terms already; detach them first"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_changed(
    what: Any, settings: dict[str, Any], kind: type[Exception], message: str
) -> None:
    module = what()
    before = [(n, type(m)) for n, m in module.named_modules()]
    flags = [value.requires_grad for value in module.parameters()]
    with pytest.raises(kind, match=message):
        weft.attach(module, **settings)
    assert [(n, type(m)) for n, m in module.named_modules()] == before
    assert [value.requires_grad for value in module.parameters()] == flags


def test_a_module_without_terms_has_none_to_take() -> None:
    for verb in (weft.detach, weft.adapter_state):
        with pytest.raises(ValueError, match="has no low-rank terms; attach some first"):
            verb(net())


def test_the_page_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) == 4
    exec(compile("\n".join(blocks), str(PAGE), "exec"), {})
    # linear1, linear2 and out_proj of two layers at rank 4.
    count = 2 * 4 * ((32 + 64) + (64 + 32) + (32 + 32))
    assert capsys.readouterr().out.startswith(f"{count:,} of ")
