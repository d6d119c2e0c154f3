"""What the loop calls: preparation, parameter groups, gradient transforms, penalties, controllers, plans."""

import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from os import getpid, kill
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor, nn

from weft.config import load_run
from weft.methods.adapters.lora import LoRA
from weft.methods.controllers.contract import Controller
from weft.methods.optimizers.contract import Optimizer
from weft.methods.penalties.contract import Penalty
from weft.methods.plans.contract import Plan
from weft.methods.recipes import resolve
from weft.model.batching import Item, collate
from weft.model.expert import plan_ranks
from weft.model.heads import kind_of
from weft.runs import RunFolder
from weft.training.assembly import Session, assemble
from weft.training.loop import Interrupted, Loop, train
from weft.training.preparation.starting import frozen_weights, weight_gradients
from weft.training.settings import completed

Settings = Callable[..., dict[str, Any]]


class FasterUp(Optimizer):
    """B learns sixteen times as fast as A, and A's gradient is halved at every step."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def param_groups(self, adapters: Mapping[str, nn.Module], lr: float) -> list[dict[str, Any]]:
        pairs = [adapter for adapter in adapters.values() if isinstance(adapter, LoRA)]
        return [
            {"params": [adapter.A for adapter in pairs], "lr": lr},
            {"params": [adapter.B for adapter in pairs], "lr": 16 * lr},
        ]

    def transform(self, pairs: Mapping[str, nn.Module], step: int) -> None:
        self.seen.append(step)
        for adapter in pairs.values():
            assert isinstance(adapter, LoRA)
            assert adapter.A.grad is not None
            adapter.A.grad *= 0.5

    def state_dict(self) -> dict[str, Tensor]:
        return {"seen": torch.tensor(self.seen)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.seen = state["seen"].tolist()


class Pull(Penalty):
    """Pulls every B towards one."""

    def loss(self, outputs: Tensor | None, batch: Any, adapters: Mapping[str, nn.Module]) -> Tensor:
        pairs = [adapter for adapter in adapters.values() if isinstance(adapter, LoRA)]
        return torch.stack([(adapter.B - 1).pow(2).sum() for adapter in pairs]).sum()


class Freeze(Controller):
    """From step three on, puts A back to what it was."""

    def __init__(self) -> None:
        self.kept: dict[str, Tensor] = {}
        self.totals: set[int] = set()

    def after_step(
        self,
        adapters: Mapping[str, nn.Module],
        optimizer: torch.optim.Optimizer,
        step: int,
        total: int,
    ) -> None:
        self.totals.add(total)
        for name, adapter in adapters.items():
            assert isinstance(adapter, LoRA)
            if step == 3:
                self.kept[name] = adapter.A.clone()
            elif step > 3:
                adapter.A.copy_(self.kept[name])

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.kept)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.kept = dict(state)


def session_with(run: dict[str, Any], **parts: Any) -> Session:
    """A training whose one expert has other method parts than its recipe file names."""
    session = assemble(completed(load_run(run)), torch.device("cpu"))
    learner = session.learners[0]
    expert, recipe = learner.experts[0]
    learner.experts = [(expert, replace(recipe, **parts))]
    learner.rebuild_optimizer()
    return session


def finish(session: Session, path: Path, report: Any = None) -> RunFolder:
    folder = RunFolder(path)
    if not path.exists():
        RunFolder.create(path, session.run)
    torch.manual_seed(0)
    Loop(session, folder, Accelerator(), report).run()
    return folder


def adapters_of(session: Session) -> dict[str, LoRA]:
    return {
        name: a
        for name, a in session.learners[0].experts[0][0].adapters.items()
        if isinstance(a, LoRA)
    }


def test_parameter_groups_and_transforms_reach_adamw(run_of: Settings, tmp_path: Path) -> None:
    run = run_of(
        "tags", training={"max_steps": 1, "warmup": 0.0, "weight_decay": 0.0, "learning_rate": 1e-3}
    )
    rule = FasterUp()
    session = session_with(run, optimizer=rule)
    finish(session, tmp_path / "run")
    for adapter in adapters_of(session).values():
        # AdamW's first step is the rate itself wherever there is a gradient well above its epsilon.
        assert adapter.B.abs().max().item() == pytest.approx(16e-3, rel=1e-4)
    assert rule.seen == [0]


def test_a_penalty_is_added_once_whatever_the_accumulation(
    run_of: Settings, tmp_path: Path
) -> None:
    found = []
    for pieces in (1, 3):
        training = {"max_steps": 5, "accumulation": pieces, "max_grad_norm": 0.0}
        session = session_with(run_of("tags", training=training), penalties=(Pull(),))
        finish(session, tmp_path / str(pieces))
        found.append({name: a.B.detach().clone() for name, a in adapters_of(session).items()})
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=0, atol=1e-9)
        assert value.mean() > 0.01


def test_a_controller_acts_after_each_step_and_survives_a_resume(
    run_of: Settings, tmp_path: Path
) -> None:
    run = run_of("tags", training={"checkpoint_every": 1})
    whole = session_with(run, controller=Freeze(), optimizer=FasterUp())
    finish(whole, tmp_path / "whole")

    def interrupt(event: Any) -> None:
        if event.step == 6:
            kill(getpid(), signal.SIGINT)

    broken = session_with(run, controller=Freeze(), optimizer=FasterUp())
    with pytest.raises(Interrupted):
        finish(broken, tmp_path / "broken", interrupt)
    resumed = session_with(run, controller=Freeze(), optimizer=FasterUp())
    finish(resumed, tmp_path / "broken")
    rule = resumed.learners[0].experts[0][1].optimizer
    assert isinstance(rule, FasterUp)
    assert rule.seen == list(range(8))
    for name, adapter in adapters_of(resumed).items():
        assert torch.equal(adapter.A, adapters_of(whole)[name].A)
        assert torch.equal(adapter.B, adapters_of(whole)[name].B)


def test_gradients_for_preparation_equal_full_fine_tuning_s_first_gradient(
    run_of: Settings,
) -> None:
    session = assemble(completed(load_run(run_of("tags"))), torch.device("cpu"))
    stream = session.learners[0].streams[0]
    weights = frozen_weights(session.model, session.learners[0].experts[0][0])
    seen = weight_gradients(session.model, stream, 4, weights)
    assert not any(weight.requires_grad for weight in weights.values())
    items = [Item(stream.head, stream.kind, (), record) for record in stream.records[:4]]
    batch = collate(items, 0)
    for weight in weights.values():
        weight.requires_grad_(True)
    part = batch.parts[0]
    logits = session.model(batch)[part.head]
    assert part.labels is not None
    (kind_of(stream.kind).loss(logits, part.labels, 0.0) / 4).backward()
    assert seen.keys() == weights.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(seen[name], weight.grad, rtol=0, atol=1e-12)
        weight.requires_grad_(False)


def test_a_plan_skips_maps_and_sets_ranks(run_of: Settings) -> None:
    class Taper(Plan):
        def plan(
            self, base: Mapping[str, Tensor], spec: Mapping[str, int]
        ) -> dict[str, int | None]:
            return {name: None if ".0." in name else rank // 2 for name, rank in spec.items()}

    on = {"name": "lora", "targets": ["query", "value"]}
    run = load_run(run_of("tags", recipe=on))
    session = assemble(completed(run), torch.device("cpu"))
    recipe = replace(resolve(run.recipe), plan=Taper())
    ranks = plan_ranks(session.base.trunk, recipe)
    assert ranks == {
        "encoder.layer.1.attention.self.query": 4,
        "encoder.layer.1.attention.self.value": 4,
    }


@pytest.mark.parametrize("name", ["lora_ggpo", "increlora"])
def test_what_a_step_sees_is_the_same_where_activations_are_computed_twice(
    name: str, run_of: Settings, tmp_path: Path
) -> None:
    found = []
    for again in (False, True):
        training = {"max_steps": 4, "accumulation": 2, "gradient_checkpointing": again}
        run = run_of("tags", recipe={"name": name}, training=training)
        folder = train(run, out=tmp_path / str(again))
        found.append(load_file(folder.expert / "adapter_model.safetensors"))
    assert found[0].keys() == found[1].keys()
    for key, value in found[0].items():
        torch.testing.assert_close(found[1][key], value, rtol=1e-9, atol=1e-9)
