"""Exports whose intruder dimensions are shrunk: by the formula in double precision, and as PEFT shrinks them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.intruders import reduce_intruder_dimension
from safetensors.torch import load_file
from torch import Tensor, nn
from typer.testing import CliRunner

from weft.base.loading import load_base
from weft.cli import app
from weft.lowrank.attach import frozen_linear
from weft.storage.card import read_card
from weft.storage.experts import load_expert
from weft.storage.exporting import export
from weft.storage.loading import load_run_model

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

KIND = "sequence_classification"
LARGE = {"rank": 3, "alpha": 120}
"""So much that some of the ten strongest directions are new."""


def shrunk(weight: Tensor, delta: Tensor, shrink: float) -> tuple[Tensor, int]:
    """`W0 + dW + (lambda - 1) sum s_j u_j v_j^T` over the intruders among the ten strongest, and how many those are."""
    weight, delta = weight.double(), delta.double()
    before = torch.linalg.svd(weight, full_matrices=False)[0]
    U, S, Vh = torch.linalg.svd(weight + delta, full_matrices=False)
    own = [j for j in range(10) if (before.T @ U[:, j]).abs().max() < 0.5]
    taken = sum((S[j] * torch.outer(U[:, j], Vh[j]) for j in own), torch.zeros_like(weight))
    return weight + delta + (shrink - 1) * taken, len(own)


@pytest.mark.parametrize("recipe", [LARGE, LARGE | {"name": "dora"}, LARGE | {"name": "kasa"}])
def test_a_merged_export_has_the_weights_of_the_formula(
    tmp_path: Path, run_folder: Callable[..., Any], recipe: dict[str, Any]
) -> None:
    made, run = run_folder("bert", KIND, **recipe)
    export(run, tmp_path / "out", "merged", mitigate_intruders=0.25)
    found = load_file(tmp_path / "out" / "model.safetensors")
    count = 0
    for module, adapter in made.expert.adapters.items():
        weight = frozen_linear(made.base.trunk, module).weight.detach()
        expected, own = shrunk(weight, adapter.delta(weight).detach(), 0.25)
        theirs = found[f"bert.{module}.weight"]
        torch.testing.assert_close(theirs.double(), expected, rtol=1e-4, atol=2e-5)
        count += own
    assert count > 5


def test_a_peft_export_holds_the_same_exactly(
    tmp_path: Path, run_folder: Callable[..., Any]
) -> None:
    """Each intruder takes a rank of its own, which PEFT's `rank_pattern` says."""
    made, run = run_folder("bert", KIND, **LARGE)
    export(run, tmp_path / "out", "peft", mitigate_intruders=0.25)
    opened = opened_by_peft(made, tmp_path / "out")
    ranks = set()
    for module, layer in layers(opened, made):
        weight = frozen_linear(made.base.trunk, module).weight.detach()
        delta = made.expert.adapters[module].delta(weight).detach()
        expected, own = shrunk(weight, delta, 0.25)
        ours = weight.double() + layer.get_delta_weight("default").detach().double()
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=2e-5)
        assert layer.r["default"] == 3 + own
        ranks.add(own)
    assert len(ranks) > 1
    card = read_card(tmp_path / "out")
    assert set(card.metrics) == {"mitigated_intruders"}
    loaded, _ = load_expert(tmp_path / "out", load_base(str(made.folder)))
    assert {own.rank - 3 for own in loaded.adapters.values()} == ranks


@pytest.mark.parametrize("shrink", [0.0, 0.75])
def test_with_a_rank_it_is_what_peft_makes_of_the_adapter(
    tmp_path: Path, run_folder: Callable[..., Any], shrink: float
) -> None:
    made, run = run_folder("bert", KIND, **LARGE)
    export(run, tmp_path / "out", "peft", rank=3, mitigate_intruders=shrink)
    ours = opened_by_peft(made, tmp_path / "out")
    theirs = opened_by_peft(made, run / "expert")
    said: list[str] = []
    reduce_intruder_dimension(theirs, mitigation_lambda=shrink, logging_sink=said.append)
    for (_, one), (_, other) in zip(layers(ours, made), layers(theirs, made), strict=True):
        torch.testing.assert_close(
            one.get_delta_weight("default"),
            other.get_delta_weight("intruder_reduced"),
            rtol=1e-3,
            atol=1e-4,
        )
    counts = [int(line.rpartition(" ")[2]) for line in said if "Intruders" in line]
    assert read_card(tmp_path / "out").metrics["mitigated_intruders"] == sum(counts) > 5


def test_a_share_of_1_leaves_the_expert_as_it_is(
    lab: Any, tmp_path: Path, run_folder: Callable[..., Any]
) -> None:
    made, run = run_folder("bert", KIND, **LARGE)
    said = ["export", str(run), str(tmp_path / "out"), "--to", "merged"]
    found = CliRunner().invoke(app, [*said, "--mitigate-intruders", "1"])
    assert found.exit_code == 0, found.stderr
    theirs = lab.transformers_answer(lab.task_class(tmp_path / "out", KIND), made.base, KIND)
    torch.testing.assert_close(theirs, lab.answer(made.base, made.expert), rtol=1e-3, atol=1e-3)


def test_ranks_are_cut_before_intruders_are_looked_for(
    tmp_path: Path, run_folder: Callable[..., Any]
) -> None:
    made, run = run_folder("bert", KIND, name="dylora", **LARGE)
    export(run, tmp_path / "out", "peft", rank=2, mitigate_intruders=0.0)
    loaded = load_run_model(run, device="cpu", rank=2)
    own = loaded.model.expert(loaded.name)
    found, _ = load_expert(tmp_path / "out", made.base)
    for module, adapter in own.adapters.items():
        weight = frozen_linear(made.base.trunk, module).weight.detach()
        expected, _ = shrunk(weight, adapter.delta(weight).detach(), 0.0)
        U, S, Vh = torch.linalg.svd(expected - weight.double(), full_matrices=False)
        near = (U[:, :2] * S[:2]) @ Vh[:2]
        theirs = found.adapters[module].delta(weight).detach().double()
        torch.testing.assert_close(theirs, near, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("recipe", "to", "share", "said"),
    [
        ({"name": "dora"}, "peft", 0.5, "more than low-rank factors.*--rank.*merged"),
        ({"name": "full"}, "merged", 0.5, "trained every weight"),
        ({"name": "head"}, "merged", 0.5, "trained a head alone"),
        ({}, "merged", 1.5, "expected 0 to 1"),
        ({}, "peft", -0.1, "expected 0 to 1"),
    ],
)
def test_what_has_no_intruders_to_shrink_is_refused(
    tmp_path: Path,
    run_folder: Callable[..., Any],
    recipe: dict[str, Any],
    to: str,
    share: float,
    said: str,
) -> None:
    _, run = run_folder("bert", KIND, **recipe)
    with pytest.raises(ValueError, match=said):
        export(run, tmp_path / "out", to, mitigate_intruders=share)
    assert not (tmp_path / "out").exists()


def opened_by_peft(made: Any, folder: Path) -> Any:
    """The adapter on transformers' class of the task."""
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(made.folder, num_labels=2)
    return PeftModel.from_pretrained(model, folder)


def layers(opened: nn.Module, made: Any) -> list[tuple[str, Any]]:
    """PEFT's layers, by the names of the trunk's maps."""
    found = [
        (name.partition(".bert.")[2], own)
        for name, own in opened.named_modules()
        if isinstance(own, LoraLayer)
    ]
    assert {name for name, _ in found} == set(made.expert.adapters)
    return found
