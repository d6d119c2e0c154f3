"""Omni-AVSR in this house: three tasks of the same rows, three ways to share, any trained rate."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor

import weft
from tests.tiny_sounds import INPUTS, sound_task, write_sounds
from weft.answering.inference import padding_id
from weft.config import load_run
from weft.lowrank.route import Route
from weft.methods.adapters.lora import LoRA, Spec
from weft.model.batching import Batch, collate
from weft.model.heads import kind_of
from weft.model.model import Model
from weft.model.prefix import state_of
from weft.storage.experts import load_expert
from weft.storage.exporting import export
from weft.training.assembly import SHARED, Session, assemble
from weft.training.settings import completed
from weft.training.stepping import Stepper

TASKS = tuple(INPUTS)
STRATEGIES = ("shared", "separate", "both")
RECIPE = {"name": "lora", "rank": 2, "alpha": 0.25, "zero": "A", "targets": ["query", "value"]}
"""Published: queries and values, A at 0, a scale of 4 / 32."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sounds(tmp_path_factory.mktemp("sounds"))


@pytest.fixture
def run_of(tiny_folder: Callable[[str], Path], folder: Path) -> Callable[..., dict[str, Any]]:
    """A short run of the three tasks, or of some, weighted as published."""

    def settings(*names: str, **values: Any) -> dict[str, Any]:
        tasks = [
            sound_task(name, folder, loss_weight=1.5 if name == "see" else 1.0)
            for name in names or TASKS
        ]
        what = {"task": tasks[0]} if len(tasks) == 1 else {"tasks": tasks}
        training = {"max_steps": 4, "batch_size": 4, "precision": "fp64"}
        training |= values.pop("training", {})
        base = str(tiny_folder("llama"))
        return {"base": base, "recipe": RECIPE, "training": training, "seed": 3, **what, **values}

    return settings


def session_of(run: dict[str, Any]) -> Session:
    return assemble(completed(load_run(run)), torch.device("cpu"))


def loss_of(session: Session, name: str, step: int = 0) -> Tensor:
    """The mean loss of one task's rows of a step, without a stepper."""
    stream = next(stream for stream in session.streams if stream.name == name)
    batch = collate(stream.items(step), padding_id(session.base))
    (part,) = batch.parts
    assert part.labels is not None
    kind = kind_of(part.kind)
    return kind.loss(session.model(batch)[name], part.labels, 0.0) / kind.count(part.labels)


def adapters_of(session: Session, name: str) -> dict[str, Tensor]:
    """The parameters of an expert's adapters, by name."""
    expert = session.model.expert(name)
    return {
        f"{module}.{key}": value
        for module, adapter in expert.adapters.items()
        for key, value in adapter.named_parameters()
    }


def shake(session: Session) -> None:
    """Move all that learns, so that no factor is 0."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for learner in session.learners:
            for value in learner.parameters.values():
                draws = torch.randn(value.shape, generator=generator, dtype=value.dtype)
                value.add_(0.1 * draws)


def delta(session: Session, stream_name: str) -> dict[str, Tensor]:
    """What a task's members change of every weight."""
    stream = next(stream for stream in session.streams if stream.name == stream_name)
    found: dict[str, Tensor] = {}
    for member in stream.members:
        for module, adapter in session.model.expert(member).adapters.items():
            weight = session.base.trunk.get_submodule(module).get_parameter("weight")
            found[module] = found.get(module, 0) + adapter.delta(weight)  # type: ignore[operator]
    return found


def test_with_a_at_zero_the_first_gradient_is_lora_s_mirrored() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 5, generator=generator)
    x, G = (torch.randn(7, n, generator=generator) for n in (5, 6))
    for zero in ("A", "B"):
        spec = Spec(rank=3, alpha=1.5, zero=zero)
        adapter = LoRA(weight, spec, torch.Generator().manual_seed(1))
        assert torch.count_nonzero(adapter.delta(weight)) == 0
        (adapter(x, weight) * G).sum().backward()
        dW, s = G.T @ x, 0.5
        assert adapter.A.grad is not None
        assert adapter.B.grad is not None
        torch.testing.assert_close(adapter.A.grad, s * adapter.B.T @ dW)
        torch.testing.assert_close(adapter.B.grad, s * dW @ adapter.A.T)
        still, moved = (adapter.B, adapter.A) if zero == "A" else (adapter.A, adapter.B)
        assert torch.count_nonzero(still.grad) == 0  # type: ignore[arg-type]
        assert torch.count_nonzero(moved.grad) == moved.numel()  # type: ignore[arg-type]
        # Uniform within one over the root of what the drawn factor reads.
        bound = still.shape[1] ** -0.5
        assert 0.5 * bound < still.abs().max() <= bound


def test_shared_is_identical_across_tasks(run_of: Callable[..., Any]) -> None:
    session = session_of(run_of(experts="shared"))
    shake(session)
    changes = [delta(session, name) for name in TASKS]
    assert len(changes[0]) == 4
    for other in changes[1:]:
        for module, change in changes[0].items():
            assert torch.equal(change, other[module])
    assert {stream.members for stream in session.streams} == {(SHARED,)}


def test_a_task_s_gradient_touches_no_other_task_s_adapter(run_of: Callable[..., Any]) -> None:
    session = session_of(run_of(experts="separate"))
    shake(session)
    for name in TASKS:
        session.model.zero_grad(set_to_none=True)
        loss_of(session, name).backward()
        for other in TASKS:
            touched = {
                key: value.grad is not None and bool(value.grad.abs().max() > 0)
                for key, value in adapters_of(session, other).items()
            }
            assert set(touched.values()) == {name == other}, (name, other)


def test_shared_and_own_without_the_shared_equals_own(run_of: Callable[..., Any]) -> None:
    both, own = session_of(run_of(experts="both")), session_of(run_of(experts="separate"))
    for session in (both, own):
        shake(session)
    with torch.no_grad():
        for key, value in adapters_of(both, SHARED).items():
            if key.endswith(".B"):
                value.zero_()
        for name in TASKS:
            for there, here in (
                (adapters_of(both, name), adapters_of(own, name)),
                (
                    dict(both.model.expert(name).head.encoders.named_parameters()),  # type: ignore[union-attr]
                    dict(own.model.expert(name).head.encoders.named_parameters()),  # type: ignore[union-attr]
                ),
            ):
                assert there.keys() == here.keys()
                for key, value in here.items():
                    there[key].copy_(value)
        for name in TASKS:
            torch.testing.assert_close(loss_of(both, name), loss_of(own, name), rtol=1e-12, atol=0)


def test_each_row_passes_the_trunk_once_a_task_with_the_same_rows_and_draws(
    run_of: Callable[..., Any],
) -> None:
    """Three passes, where every modality at every pair of rates would be eight."""
    session = session_of(run_of(experts="shared"))
    passed: list[tuple[int, tuple[int, ...]]] = []
    trunk = session.model.trunk
    handle = trunk.register_forward_pre_hook(
        lambda _, __, given: passed.append(given["inputs_embeds"].shape), with_kwargs=True
    )
    Stepper(session, Accelerator(cpu=True)).step(session.learners, 0)
    handle.remove()
    assert sum(shape[0] for shape in passed) == 3 * 4
    drawn = set()
    for step in range(4):
        rows: list[list[str]] = []
        rates: dict[str, set[int]] = {}
        for stream in session.streams:
            items = stream.items(step)
            rows.append([item.record["id"] for item in items])
            for item in items:
                for one in item.record["given"]:
                    rates.setdefault(one["name"], set()).add(one["rate"])
        assert rows[0] == rows[1] == rows[2]
        assert {name: len(own) for name, own in rates.items()} == {"audio": 1, "image": 1}
        drawn.add(tuple(min(own) for own in rates.values()))
    assert len(drawn) > 1
    # By the length of what they are read from, they would be in other batches.
    hear, see = (
        [len(record["input_ids"][0]) for record in stream.records] for stream in session.streams[:2]
    )
    assert sorted(range(14), key=hear.__getitem__) != sorted(range(14), key=see.__getitem__)


@pytest.mark.parametrize("experts", STRATEGIES)
@pytest.mark.parametrize("accumulation", [1, 3])
def test_a_step_s_gradient_is_that_of_the_weighted_sum(
    experts: str, accumulation: int, run_of: Callable[..., Any]
) -> None:
    """L = 1 L_A + 1.5 L_V + 1 L_AV, each alone, whatever batches the stepper makes of them."""
    session = session_of(run_of(experts=experts, training={"accumulation": accumulation}))
    shake(session)
    (learner,) = session.learners
    total = loss_of(session, "hear") + 1.5 * loss_of(session, "see") + loss_of(session, "both")
    total.backward()
    expected = {n: p.grad for n, p in learner.parameters.items() if p.grad is not None}
    session.model.zero_grad(set_to_none=True)
    learner.step = lambda *_: None  # type: ignore[method-assign] - gradients are to stay
    Stepper(session, Accelerator(cpu=True)).step([learner], 0)
    found = {n: p.grad for n, p in learner.parameters.items() if p.grad is not None}
    assert expected.keys() == found.keys() == learner.parameters.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12, msg=name)


def test_encoders_are_one_for_all_tasks_unless_each_is_to_own_them(
    run_of: Callable[..., Any],
) -> None:
    def heads(session: Session) -> dict[str, Any]:
        return {name: session.model.expert(name).head.encoders for name in TASKS}  # type: ignore[union-attr]

    one = heads(session_of(run_of()))
    assert one["hear"].encoders["audio"] is one["both"].encoders["audio"]
    assert one["see"].projectors["image"] is one["both"].projectors["image"]
    session = session_of(run_of(encoders="own"))
    own = heads(session)
    assert own["hear"].encoders["audio"] is not own["both"].encoders["audio"]
    # Nothing is shared, so each learns as it would alone.
    assert len(session.learners) == 3


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_what_tasks_share_is_clipped_once(run_of: Callable[..., Any]) -> None:
    session = session_of(run_of(experts="separate", training={"max_grad_norm": 0.5}))
    (learner,) = session.learners
    for value in learner.parameters.values():
        value.grad = torch.ones_like(value)
    learner._clip()
    first = [p for n, p in learner.parameters.items() if n.startswith("hear/")]
    norm = torch.stack([p.grad.norm() for p in first if p.grad is not None]).norm()
    torch.testing.assert_close(norm, torch.tensor(0.5, dtype=norm.dtype), rtol=1e-4, atol=0)


def all_tensors(path: Path) -> dict[str, Tensor]:
    return {
        f"{file.relative_to(path)}/{name}": value
        for file in sorted(path.rglob("*.safetensors"))
        for name, value in load_file(file).items()
    }


@pytest.mark.parametrize("experts", STRATEGIES)
def test_an_interrupted_run_ends_in_the_same_bits(
    experts: str, run_of: Callable[..., Any], tmp_path: Path
) -> None:
    run = run_of(experts=experts, training={"checkpoint_every": 2})
    weft.train(run, out=tmp_path / "whole")

    def stop(event: Any) -> None:
        if event.step == 3:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        weft.train(run, out=tmp_path / "parts", on={"step": stop})
    weft.train(resume=tmp_path / "parts")
    whole, parts = (all_tensors(tmp_path / name) for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert sum("encoders" in name for name in whole) > 20
    for name, value in whole.items():
        assert torch.equal(value, parts[name]), name


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_shared_and_own_are_saved_as_one_lora_and_read_back(
    run_of: Callable[..., Any], tmp_path: Path
) -> None:
    """A' = [A_sh; A_t], B' = [B_sh, B_t] with twice the rank, the scale in B' and alpha' = its rank."""
    run = run_of(experts="both", training={"max_steps": 3, "learning_rate": 0.05})
    session = session_of(run)
    stepper = Stepper(session, Accelerator(cpu=True))
    for step in range(3):
        stepper.step(session.learners, step)
    from weft.storage.experts import save_expert

    expert, card = session.result("both", {})
    save_expert(expert, card, session.base, tmp_path / "e")
    config = json.loads((tmp_path / "e" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["task_type"]) == (4, 4, "CAUSAL_LM")
    state = load_file(tmp_path / "e" / "adapter_model.safetensors")
    s = session.model.expert("both").adapters
    scale = next(iter(s.values())).spec.alpha / 2  # type: ignore[attr-defined]
    for module in expert.adapters:
        shared = session.model.expert(SHARED).adapters[module]
        own = session.model.expert("both").adapters[module]
        A = torch.cat([shared.A, own.A])  # type: ignore[list-item]
        B = scale * torch.cat([shared.B, own.B], dim=1)  # type: ignore[list-item]
        prefix = f"base_model.model.model.{module}"
        torch.testing.assert_close(state[f"{prefix}.lora_A.weight"], A.detach())
        torch.testing.assert_close(state[f"{prefix}.lora_B.weight"], B.detach())
    # None of PEFT's tensors is an encoder's: those lie beside.
    assert not [name for name in state if "encoder" in name or "projector" in name]
    read, _ = load_expert(tmp_path / "e", session.base)
    stream = next(stream for stream in session.streams if stream.name == "both")
    model = Model(session.base)
    model.add(read)
    batch = collate(stream.items(0), padding_id(session.base))
    alone = Batch(batch.inputs, batch.parts, Route.everywhere("both"))
    with torch.no_grad():
        ours = session.model.snapshot(batch)["both"]
        torch.testing.assert_close(model.snapshot(alone)["both"], ours, rtol=1e-9, atol=1e-9)
        bare = model.snapshot(Batch(batch.inputs, batch.parts, Route.everywhere()))["both"]
    assert (bare - ours).abs().max() > 1e-4
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(run["base"], dtype=torch.float64)
    opened = PeftModel.from_pretrained(plain, tmp_path / "e", autocast_adapter_dtype=False)
    held = session.model.snapshot
    own = [(part.head, slice(part.start, part.stop), part.places) for part in batch.parts]
    with torch.no_grad():
        embedded = held.embed(batch.inputs["input_ids"], own)
        mask = batch.inputs["attention_mask"]
        theirs = opened(inputs_embeds=embedded, attention_mask=mask).logits
    torch.testing.assert_close(theirs[mask.bool()], ours[mask.bool()], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("recipe", ["lora", "head", "full"])
def test_evaluate_and_predict_say_what_training_said(
    recipe: str, run_of: Callable[..., Any], tmp_path: Path, folder: Path
) -> None:
    run = run_of("both", recipe={"name": recipe}, training={"max_steps": 2})
    path = weft.train(run, out=tmp_path / "run").path
    read = lines_of(path / "predictions-validation.jsonl")
    again = weft.evaluate(path, save=False)
    assert again.predictions == read  # type: ignore[union-attr]
    rows = lines_of(folder / "validation.jsonl")
    asked = [
        {"id": row["id"], **{name: str(folder / row[name]) for name in ("audio", "image")}}
        for row in rows
    ]
    loaded = weft.load(path)
    assert loaded.predict(asked) == read
    # Nothing that stands beside a row in its batch has a say.
    assert [loaded.predict([row])[0] for row in asked] == read


def test_any_trained_rate_answers_and_the_finest_is_the_default(
    run_of: Callable[..., Any], tmp_path: Path
) -> None:
    path = weft.train(run_of("hear", training={"max_steps": 1}), out=tmp_path / "run").path
    before = (path / "metrics.json").read_bytes()
    said = {
        rate: weft.evaluate(path, rates={"audio": rate}).predictions  # type: ignore[union-attr]
        for rate in (2, 4)
    }
    assert said[2] == weft.evaluate(path, save=False).predictions  # type: ignore[union-attr]
    assert said[2] != said[4]
    assert (path / "metrics.json").read_bytes() == before
    with pytest.raises(ValueError, match="not trained at rate 3; choose one of 2, 4"):
        weft.evaluate(path, rates={"audio": 3})


def test_what_knows_only_texts_refuses_it(
    run_of: Callable[..., Any], tmp_path: Path, folder: Path
) -> None:
    path = weft.train(run_of("hear", training={"max_steps": 1}), out=tmp_path / "run").path
    with pytest.raises(ValueError, match="no place in a transformers checkpoint or a graph"):
        export(path, tmp_path / "merged", to="merged")
    export(path, tmp_path / "peft", to="peft")
    state = load_file(tmp_path / "peft" / "encoders.safetensors")
    loaded = weft.load(path)
    head = loaded.model.expert(loaded.name).head
    assert head is not None
    assert head.encoders is not None
    for name, value in state_of(head.encoders).items():
        assert torch.equal(value, state[name])
    # What weft exported comes back whole, and answers.
    weft.import_expert(tmp_path / "peft", tmp_path / "back")
    rows = [{"audio": str(folder / "validation0.wav")}]
    assert weft.predict(tmp_path / "back", rows) == weft.predict(path, rows)
    with pytest.raises(ValueError, match="encoders of several experts have no sum"):
        weft.merge([path, path], out=tmp_path / "sum")
    with pytest.raises(ValueError, match="hidden states are of texts"):
        loaded.hidden([{"audio": "a.wav"}])
    with pytest.raises(ValueError, match="no mixture's gates know"):
        session_of(run_of() | {"recipe": {"name": "lora"}, "mixture": {"name": "mixlora"}})


def test_damaged_encoders_are_named(run_of: Callable[..., Any], tmp_path: Path) -> None:
    path = weft.train(run_of("hear", training={"max_steps": 1}), out=tmp_path / "run").path
    file = path / "expert" / "encoders.safetensors"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"encoders\.safetensors"):
        weft.load(path)
