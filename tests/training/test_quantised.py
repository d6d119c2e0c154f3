"""Bases in few bits: torchao's own maps, whole tensors; experts on them train, come back, are merged and refused."""

import copy
import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import AutoModelForSequenceClassification

import weft
from weft.base.loading import Base, load_base
from weft.base.quantised import QuantisedLinear, whole
from weft.lowrank.route import Route
from weft.model.model import Model
from weft.runs import RunFolder
from weft.storage.experts import load_expert
from weft.storage.exporting import export
from weft.storage.loading import load_beside, load_run_model
from weft.training.settings import completed

needs_torchao = pytest.mark.skipif(
    importlib.util.find_spec("torchao") is None, reason="torchao is not installed"
)
pytestmark = [
    # torchao 0.18 on torch 2.13: of its own enums, and of kernels for GPUs that this machine lacks.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
BITS = pytest.mark.parametrize("bits", ["int8", "int4"])
LEVELS = {"int8": 127.0, "int4": 7.5}
"""Steps from 0 to the largest number of a group."""


@needs_torchao
@BITS
@pytest.mark.parametrize("width", [64, 20])
def test_a_weight_is_off_by_half_a_step_at_most(bits: Any, width: int) -> None:
    torch.manual_seed(0)
    exact = nn.Linear(width, 24)
    found = QuantisedLinear(exact, bits)
    off = (found.weight - exact.weight).abs().double()
    groups = exact.weight.detach().double().abs()
    size = 32 if bits == "int4" and width % 32 == 0 else width
    step = groups.reshape(24, -1, size).amax(dim=2) / LEVELS[bits]
    # The largest number of a group may lie a whole step beyond the last level.
    limit = step if bits == "int4" else step / 2
    assert (off.reshape(24, -1, size) <= limit[..., None] * (1 + 1e-3)).all()
    assert off.max() > 0


@needs_torchao
@BITS
def test_a_map_computes_with_the_weight_that_it_stands_for(bits: Any) -> None:
    torch.manual_seed(0)
    found = QuantisedLinear(nn.Linear(64, 24), bits)
    x = torch.randn(3, 5, 64, requires_grad=True)
    y = found(x)
    torch.testing.assert_close(y, whole(found)(x), atol=1e-5, rtol=1e-5)
    (grad,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(grad, found.weight.sum(0).expand_as(x), atol=1e-5, rtol=1e-5)


@needs_torchao
@BITS
def test_an_expert_trains_comes_back_and_answers_the_same(
    run_of: Callable[..., dict[str, Any]], tmp_path: Path, bits: str
) -> None:
    settings = run_of("topic", quantise=bits, training={"precision": "fp32"})
    before = weft.train(settings, out=tmp_path / "run").metrics
    assert before
    loaded = load_run_model(tmp_path / "run")
    assert loaded.model.base.quantised == bits
    maps = [own for own in loaded.model.base.trunk.modules() if isinstance(own, QuantisedLinear)]
    assert maps
    weft.evaluate(tmp_path / "run")
    assert RunFolder(tmp_path / "run").metrics == before


@needs_torchao
@BITS
def test_gradients_are_those_on_whole_weights(
    run_of: Callable[..., dict[str, Any]], tmp_path: Path, bits: Any
) -> None:
    """The same expert on the rounded base and on one whose weights are what the rounded ones stand for."""
    settings = run_of("topic", quantise=bits, training={"precision": "fp32", "max_steps": 2})
    weft.train(settings, out=tmp_path / "run")
    rounded = load_base(settings["base"], quantised=bits)
    plain = replace(rounded, trunk=whole(copy.deepcopy(rounded.trunk)), quantised=None)
    assert not any(isinstance(own, QuantisedLinear) for own in plain.trunk.modules())
    ids = torch.randint(5, 40, (3, 7), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def gradients(base: Base) -> list[torch.Tensor]:
        expert, _ = load_expert(tmp_path / "run" / "expert", base)
        model = Model(base)
        model.add(expert, trainable=True)
        states = model.states(inputs, Route.everywhere(expert.name))
        learned = [
            own for name, own in expert.trained().items() if own.ndim == 2 and "head" not in name
        ]
        return list(torch.autograd.grad(states.square().sum(), learned, allow_unused=True))

    for mine, theirs in zip(gradients(rounded), gradients(plain), strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            assert mine.abs().max() > 0
            torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


@needs_torchao
def test_exports_hold_what_answered(run_of: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    settings = run_of("topic", quantise="int8", training={"precision": "fp32"})
    weft.train(settings, out=tmp_path / "run")
    export(tmp_path / "run", tmp_path / "merged", "merged")
    loaded = load_run_model(tmp_path / "run")
    ids = torch.randint(5, 40, (3, 7), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").base_model
    with torch.no_grad():
        ours = loaded.model.states(inputs, Route.everywhere(loaded.name))
        torch.testing.assert_close(theirs(**inputs)[0], ours, atol=1e-5, rtol=1e-4)
    export(tmp_path / "run", tmp_path / "peft", "peft")
    base = AutoModelForSequenceClassification.from_pretrained(
        settings["base"], num_labels=len(loaded.card.labels)
    )
    peft: Any = PeftModel.from_pretrained(base, str(tmp_path / "peft")).peft_config["default"]
    assert peft.r == 8
    onnx = export(tmp_path / "run", tmp_path / "onnx", "onnx")
    assert (onnx / "model.onnx").is_file()


@needs_torchao
def test_experts_of_another_form_of_the_base_are_not_answered_beside(
    run_of: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    training = {"precision": "fp32", "max_steps": 1}
    weft.train(run_of("topic", training=training), out=tmp_path / "exact")
    weft.train(run_of("tags", quantise="int8", training=training), out=tmp_path / "rounded")
    with pytest.raises(ValueError, match=r"was trained on its base in int8, and this one is as it"):
        load_beside(tmp_path / "rounded", load_run_model(tmp_path / "exact"))


@needs_torchao
def test_what_cannot_be_rounded_is_refused_before_work(
    run_of: Callable[..., dict[str, Any]],
) -> None:
    from weft.config import Run

    with pytest.raises(ValueError, match="fp64 is to avoid"):
        completed(Run.model_validate(run_of("topic", quantise="int8")))
    values = run_of("topic", quantise="int4", recipe="full", training={"precision": "fp32"})
    with pytest.raises(ValueError, match="recipe full trains the base's own weights"):
        completed(Run.model_validate(values))


def test_without_torchao_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torchao" else found(name)
    )
    with pytest.raises(ValueError, match=r"int8 needs torchao; install it with pip install"):
        load_base("minilm", quantised="int8")
