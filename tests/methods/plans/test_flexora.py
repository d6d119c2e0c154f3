"""Flexora: the gradient of its layers' weights against finite differences, its choice, and what is trained of it."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM

from tests.methods.adapters.starts import draw
from weft.answering.inference import padding_id
from weft.base.loading import load_base
from weft.config import load_run
from weft.methods.plans.flexora import Flexora, FlexoraSettings, Inner, layer_weights
from weft.model.batching import collate
from weft.model.heads import kind_of
from weft.runs import RunFolder
from weft.storage.experts import load_expert
from weft.training.assembly import Session, assemble
from weft.training.loop import train
from weft.training.preparation.trial import Trial
from weft.training.settings import completed

Settings = Callable[..., dict[str, Any]]
MAPS = ["layer.0.query", "layer.0.value", "layer.1.query", "layer.2.query", "pooler"]
LAYERS = ["layer.0", "layer.1", "layer.2"]
QUERY = "encoder.layer.{}.attention.self.query"


class Toy:
    """Products on a chain of maps, in double precision: `x <- tanh(x W + w x A B)`, and squares of what comes out."""

    def __init__(self) -> None:
        self.start = {f"{name}.{part}": 0.3 * draw(4, 4, seed=n) for n, (name, part) in _pairs()}
        self.rates = dict.fromkeys(self.start, 0.01)
        self.W = {name: draw(4, 4, seed=70 + at) / 2 for at, name in enumerate(MAPS)}

    def loss(
        self, weights: Mapping[str, Tensor], scales: Mapping[str, Tensor], *, held: bool, at: int
    ) -> Tensor:
        x = draw(5, 4, seed=100 + 10 * held + at % 3)
        wanted = draw(5, 4, seed=200 + 10 * held + at % 3)
        for name in MAPS:
            scale = scales.get(name, torch.tensor(1.0))
            x = (x @ self.W[name] + scale * x @ weights[f"{name}.A"] @ weights[f"{name}.B"]).tanh()
        return (x - wanted).square().mean()


def _pairs() -> list[tuple[int, tuple[str, str]]]:
    return list(enumerate((name, part) for name in MAPS for part in "AB"))


def by_a_plain_loop(toy: Toy, h: Tensor, rounds: int, steps: int) -> float:
    """The held loss of the last of some rounds by torch's Adam on tensors; only the last round sees `h`."""
    own = {n: v.clone().requires_grad_() for n, v in toy.start.items()}
    adam = torch.optim.Adam(own.values(), lr=0.01)
    for number in range(rounds):
        seen = h if number == rounds - 1 else torch.zeros_like(h)
        w = 3 * seen.exp() / seen.exp().sum()
        scales = dict(zip(MAPS, [w[0], w[0], w[1], w[2]], strict=False))
        for step in range(steps):
            adam.zero_grad()
            toy.loss(own, scales, held=False, at=number * steps + step).backward()
            adam.step()
    return toy.loss(own, scales, held=True, at=rounds - 1).item()


def differences(f: Callable[[Tensor], float], h: Tensor, by: float = 1e-5) -> Tensor:
    """Central finite differences."""
    moves = by * torch.eye(len(h), dtype=h.dtype)
    return torch.tensor([(f(h + m) - f(h - m)) / (2 * by) for m in moves], dtype=h.dtype)


@pytest.mark.parametrize(("rounds", "steps"), [(1, 1), (1, 4), (3, 2)])
def test_the_unrolled_gradient_is_that_of_a_plain_loop(rounds: int, steps: int) -> None:
    toy, h = Toy(), draw(3, seed=9).requires_grad_()
    inner = Inner(toy, MAPS)
    for number in range(rounds - 1):
        inner.round(torch.zeros_like(h), number, steps, unrolled=True)
        inner.cut()
    loss = inner.round(h, rounds - 1, steps, unrolled=True)
    (found,) = torch.autograd.grad(loss, h)
    plain = partial(by_a_plain_loop, toy, rounds=rounds, steps=steps)
    # Adam's eps stands inside of the root here: 1e-8 beside gradients of 1e-3 and more.
    assert loss.item() == pytest.approx(plain(h.detach()), rel=1e-7)
    torch.testing.assert_close(found, differences(plain, h.detach()), rtol=1e-4, atol=1e-8)


def test_at_first_order_what_was_learnt_stands_still() -> None:
    """And the gradient is the softmax's: `sum_k dL/dw_k w_k (1[k=l] - w_l / L)`, which sums to nothing."""
    toy, h = Toy(), draw(3, seed=9).requires_grad_()
    inner = Inner(toy, MAPS)
    (found,) = torch.autograd.grad(inner.round(h, 0, 2, unrolled=False), h)
    w = (3 * h.detach().softmax(0)).requires_grad_()
    scales = dict(zip(MAPS, [w[0], w[0], w[1], w[2]], strict=False))
    loss = toy.loss(inner.weights, scales, held=True, at=0)
    (by_w,) = torch.autograd.grad(loss, w)
    expected = by_w * w - (by_w * w).sum() * w / 3
    torch.testing.assert_close(found, expected.detach(), rtol=1e-10, atol=1e-14)
    assert abs(found.sum().item()) < 1e-15
    other = Inner(toy, MAPS)
    (unrolled,) = torch.autograd.grad(other.round(h, 0, 2, unrolled=True), h)
    assert (unrolled - found).abs().max() > 1e-6
    for name, value in other.weights.items():
        torch.testing.assert_close(value.detach(), inner.weights[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("order", ["unrolled", "first"])
def test_the_layers_weights_follow_adam(order: Any) -> None:
    settings = FlexoraSettings(rounds=3, order=order, layer_rate=0.02)
    found = layer_weights(Toy(), MAPS, settings)
    h = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    inner, m, v = Inner(Toy(), MAPS), 0.0, 0.0
    for number in range(3):
        loss = inner.round(h, number, 1, unrolled=order == "unrolled")
        (g,) = torch.autograd.grad(loss, h)
        inner.cut()
        m, v, t = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g, number + 1
        step = (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
        h = (h - 0.02 * step).detach().requires_grad_()
    torch.testing.assert_close(found, h.detach(), rtol=1e-10, atol=1e-14)


def test_layers_over_the_mean_are_chosen_and_others_have_no_rank() -> None:
    plan = Flexora(FlexoraSettings(rounds=3))
    spec = dict.fromkeys(MAPS, 4)
    assert plan.plan({}, spec) == spec
    layers = plan.choose("x", MAPS, Toy)
    h = layer_weights(Toy(), MAPS, FlexoraSettings(rounds=3))
    assert layers == [own for own, value in zip(LAYERS, h, strict=True) if value >= h.mean()]
    assert 0 < len(layers) < len(LAYERS)
    plan.keep(layers)
    # What is in no layer stays.
    kept = {name: rank for name, rank in plan.plan({}, spec).items() if rank}
    assert kept == {n: 4 for n in MAPS if n.rpartition(".")[0] in layers or n == "pooler"}


def test_what_was_chosen_before_is_not_tried_again() -> None:
    def never() -> Trial:
        raise AssertionError("tried")

    plan = Flexora(FlexoraSettings(chosen={"x": ["layer.1"]}))
    assert plan.choose("x", MAPS, never) == ["layer.1"]
    with pytest.raises(AssertionError, match="tried"):
        plan.choose("y", MAPS, never)
    wrong = Flexora(FlexoraSettings(chosen={"x": ["layer.7"], "y": []}))
    with pytest.raises(ValueError, match=r"chosen: x: no layer with a target named 'layer\.7'"):
        wrong.choose("x", MAPS, never)
    with pytest.raises(ValueError, match="chosen: y: names no layer"):
        wrong.choose("y", MAPS, never)


def session_of(run: dict[str, Any]) -> Session:
    return assemble(completed(load_run(run)), torch.device("cpu"))


def trial_on(session: Session, name: str) -> Trial:
    streams = [stream for stream in session.streams if name in stream.members]
    return Trial(session.model, name, streams, session.run, rate=0.01)


# The other two round to single precision within their layers, which differences do not see through.
@pytest.mark.parametrize("base", ["bert", "gpt2"])
def test_a_trial_on_a_model_has_the_gradient_of_finite_differences(
    run_of: Settings, base: str
) -> None:
    task = "go_on" if base == "gpt2" else "tags"
    session = session_of(run_of(task, base=base, recipe={"name": "lora", "dropout": 0.3}))
    trial = trial_on(session, task)
    before = {name: value.clone() for name, value in session.model.state_dict().items()}
    maps = list(session.model.expert(task).adapters)

    def held(h: Tensor) -> Tensor:
        inner = Inner(trial, maps)
        return inner.round(h, 0, 2, unrolled=True)

    h = draw(2, seed=4).requires_grad_()
    (found,) = torch.autograd.grad(held(h), h)
    expected = differences(lambda at: held(at).item(), h.detach())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-8)
    after = session.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert session.model.training


def test_a_scale_multiplies_what_an_adapter_adds(run_of: Settings) -> None:
    """1 is the plain model, 0 the model with that adapter's B at 0."""
    session = session_of(run_of("tags"))
    trial = trial_on(session, "tags")
    module = QUERY.format(1)
    weights = {n: v + 0.1 * draw(*v.shape, seed=1) for n, v in trial.start.items()}
    names = {id(p): n for n, p in session.model.named_parameters()}
    adapter: Any = session.model.expert("tags").adapters[module]
    silent = {**weights, names[id(adapter.B)]: torch.zeros_like(adapter.B)}
    whole, none = (
        trial.loss(weights, {module: torch.tensor(s)}, held=False, at=0) for s in (1.0, 0.0)
    )
    torch.testing.assert_close(whole, trial.loss(weights, {}, held=False, at=0), rtol=1e-12, atol=0)
    torch.testing.assert_close(none, trial.loss(silent, {}, held=False, at=0), rtol=1e-12, atol=0)
    assert abs((whole - none).item()) > 1e-6


@pytest.fixture
def planted(tiny_folder: Callable[[str], Path], tmp_path: Path) -> str:
    """A base of four layers of which only the attention of the second and third reaches the output."""
    folder = tmp_path / "planted"
    config = BertConfig.from_pretrained(tiny_folder("bert"))
    config.num_hidden_layers = 4
    torch.manual_seed(1)
    model: Any = BertForMaskedLM(config)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.1 * torch.randn_like(value))
        for at in (0, 3):
            model.bert.encoder.layer[at].attention.output.dense.weight.zero_()
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tiny_folder("bert") / name).read_bytes())
    return str(folder)


FLEXORA = {
    "name": "flexora",
    "rank": 4,
    "rounds": 12,
    "layer_rate": 0.05,
    "targets": ["query", "value"],
}


def adapted(folder: RunFolder, base: str) -> set[str]:
    expert, _ = load_expert(folder.expert, load_base(base))
    return {".".join(name.split(".")[:3]) for name in expert.adapters}


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.parametrize("order", ["unrolled", "first"])
def test_the_layers_that_matter_are_chosen_and_they_alone_are_trained(
    run_of: Settings, planted: str, tmp_path: Path, order: str
) -> None:
    """As a LoRA on these layers that nothing was tried for, to the bit; and PEFT has adapters there alone."""
    run = run_of("tags", recipe={**FLEXORA, "order": order}) | {"base": planted}
    folder = train(run, out=tmp_path / "run")
    layers = ["encoder.layer.1", "encoder.layer.2"]
    assert adapted(folder, planted) == set(layers)
    recipe: Any = folder.run.recipe
    assert recipe.chosen == {"tags": layers}
    plain = {"name": "lora", "rank": 4, "layers": [1, 2], "targets": ["query", "value"]}
    other = train({**run, "recipe": plain}, out=tmp_path / "other")
    for file in folder.expert.glob("*.safetensors"):
        found, expected = load_file(file), load_file(other.expert / file.name)
        assert found.keys() == expected.keys()
        assert all(torch.equal(value, expected[name]) for name, value in found.items())
    bare: Any = BertForMaskedLM.from_pretrained(planted)
    theirs = PeftModel.from_pretrained(bare, str(folder.expert))
    wrapped = [name for name, module in theirs.named_modules() if hasattr(module, "lora_A")]
    assert {name.partition("encoder.layer.")[2][0] for name in wrapped} == {"1", "2"}
    assert len(wrapped) == 4


def test_no_row_of_validation_has_a_say(run_of: Settings, planted: str, tmp_path: Path) -> None:
    words = ["cat", "dog", "house", "city", "film", "book"]
    rows = [
        {"tokens": [words[(at * k) % 6] for k in range(4)], "tags": ["O", "B-animal", "O", "O"]}
        for at in range(12)
    ]
    flipped = [{**row, "tags": row["tags"][::-1]} for row in rows]
    run = run_of("tags", recipe=FLEXORA) | {"base": planted}
    found = []
    for name, held in (("one", rows[:4]), ("other", flipped)):
        folder = train(run, out=tmp_path / name, data={"train": rows, "validation": held})
        found.append(load_file(folder.expert / "adapter_model.safetensors"))
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_the_trial_s_two_parts_are_all_rows_of_train_once(run_of: Settings) -> None:
    session = session_of(run_of("tags"))
    trial = trial_on(session, "tags")
    [stream] = session.streams
    parts = trial.rows["tags"]
    assert sorted(parts[True] + parts[False]) == list(range(len(stream.records)))
    assert len(parts[True]) == max(1, round(0.1 * len(stream.records)))
    for held, rows in parts.items():
        # Of each part, in its order, from the beginning again after the end.
        size = min(stream.training.batch_size, len(rows))
        items = [stream.item(rows[at % len(rows)], step=1) for at in range(size, 2 * size)]
        batch = collate(items, padding_id(session.base))
        kind, part = kind_of(stream.kind), batch.parts[0]
        assert part.labels is not None
        logits = session.model.snapshot(batch)["tags"]
        expected = kind.loss(logits, part.labels, 0.0, part.weights) / part.count
        found = trial.loss(trial.start, {}, held=held, at=1)
        torch.testing.assert_close(found.detach(), expected.detach(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("experts", ["separate", "shared", "both"])
def test_every_expert_has_layers_of_its_own(
    run_of: Settings, planted: str, tmp_path: Path, experts: str
) -> None:
    run = run_of("tags", "topic", recipe=FLEXORA, experts=experts, training={"max_steps": 2})
    folder = train({**run, "base": planted}, out=tmp_path / "run")
    recipe: Any = folder.run.recipe
    own = ["tags", "topic"] if experts != "shared" else []
    assert set(recipe.chosen) == {*own, *(["shared"] if experts != "separate" else [])}
    for layers in recipe.chosen.values():
        assert layers == ["encoder.layer.1", "encoder.layer.2"]


# Whatever it would have chosen: it is not both.
@pytest.mark.parametrize("layer", [0, 1])
def test_a_run_that_starts_from_an_expert_has_its_layers(
    run_of: Settings, tmp_path: Path, layer: int
) -> None:
    recipe = {"name": "lora", "rank": 4, "layers": [layer], "targets": ["query", "value"]}
    first = train(run_of("tags", recipe=recipe), out=tmp_path / "first")
    run = run_of("tags", recipe=FLEXORA, init_from=str(first.path), training={"max_steps": 2})
    further = train(run, out=tmp_path / "further")
    assert adapted(further, run["base"]) == {f"encoder.layer.{layer}"}


def test_too_few_rows_are_refused_before_anything_is_written(
    run_of: Settings, tmp_path: Path
) -> None:
    row = [{"tokens": ["cat"], "tags": ["B-animal"]}]
    with pytest.raises(ValueError, match="task tags: the recipe's plan learns on some rows"):
        train(
            run_of("tags", recipe=FLEXORA),
            out=tmp_path / "run",
            data={"train": row, "validation": row},
        )
    assert not (tmp_path / "run").exists()


def test_the_weights_sum_to_the_layers_and_begin_at_one() -> None:
    seen: list[Tensor] = []

    class Watching(Toy):
        def loss(
            self, weights: Any, scales: Mapping[str, Tensor], *, held: bool, at: int
        ) -> Tensor:
            seen.append(torch.stack([scales[f"{layer}.query"] for layer in LAYERS]).detach())
            return super().loss(weights, scales, held=held, at=at)

    layer_weights(Watching(), MAPS, FlexoraSettings(rounds=4, layer_rate=0.5))
    assert torch.equal(seen[0], torch.ones(3, dtype=torch.float64))
    assert all(math.isclose(w.sum().item(), 3, rel_tol=1e-12) for w in seen)
    assert (seen[-1] - 1).abs().max() > 0.1
