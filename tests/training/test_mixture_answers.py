"""What a mixture's run folder tells: gate maps, the task of a row, and what stands beside its scores."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from tests.training.mixed_runs import Runs, runs_of
from weft.answering.automatic import predict_auto
from weft.answering.evaluation import evaluate
from weft.answering.gate_maps import save_trace
from weft.answering.inference import padding_id
from weft.answering.prediction import predict
from weft.data.reading import load_task
from weft.lowrank.route import Route
from weft.methods.gates.trace import GateTrace, traced
from weft.model.batching import Item, collate
from weft.runs import STANDINGS, RunFolder
from weft.storage.loading import load_mixture_model
from weft.training.loop import train
from weft.training.settings import mix_config
from weft.training.standings import MIXTURE, OWN, SUM, UNIFORM


@pytest.fixture(scope="session")
def runs(
    tiny_folder: Callable[[str], Path], tasks_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Runs:
    return runs_of(tiny_folder, tasks_folder, tmp_path_factory)


@pytest.fixture(scope="session")
def folder(runs: Runs) -> RunFolder:
    return runs.mixture("bert", "xlora", "mixture.layerwise=true")


def beside(folder: RunFolder) -> dict[str, Any]:
    return json.loads((folder.path / STANDINGS).read_text())


def test_gate_maps_are_the_means_of_single_rows(folder: RunFolder) -> None:
    found = evaluate(folder.path, gates=True, save=False)
    assert isinstance(found, list)
    part = next(part for part in folder.parts() if part.path.name == "where")
    said = json.loads((part.path / "gates-validation.json").read_text())
    loaded = load_mixture_model(folder.path).runs["where"]
    sums: dict[str, torch.Tensor] = {}
    tokens = 0
    settings = loaded.run.task
    assert settings is not None
    examples = load_task(settings, splits=["validation"], seed=0).splits["validation"]
    for example in examples:
        record = loaded.task.encode(example, loaded.model.base.tokenizer)
        for ids in record["input_ids"]:
            inputs = {
                "input_ids": torch.tensor([ids]),
                "attention_mask": torch.ones(1, len(ids), dtype=torch.long),
            }
            at = record["input_ids"].index(ids)
            if "token_type_ids" in record:
                inputs["token_type_ids"] = torch.tensor([record["token_type_ids"][at]])
            trace = GateTrace()
            with traced(trace), torch.inference_mode():
                loaded.model.states(inputs, Route.everywhere(*loaded.members))
            tokens += len(ids)
            for module, gate in trace.gates.items():
                own = gate.gates.double().sum((0, 1))
                sums[module] = sums.get(module, torch.zeros_like(own)) + own
    assert said["tokens"] == tokens
    assert said["experts"] == list(runs_names(folder))
    for module, value in sums.items():
        assert_close(
            torch.tensor(said["gates"][module]).double(), value / tokens, rtol=1e-5, atol=1e-6
        )
        assert said["selected"][module] == [1.0] * len(value)


def runs_names(folder: RunFolder) -> list[str]:
    return [part.path.name for part in folder.parts()]


def test_an_expert_has_no_gate_maps(runs: Runs) -> None:
    with pytest.raises(ValueError, match="has no gates"):
        evaluate(runs.experts("bert").parts()[0].path, gates=True, save=False)


def test_a_trace_is_saved_whole(folder: RunFolder, tmp_path: Path) -> None:
    loaded = load_mixture_model(folder.path).runs["tags"]
    record = loaded.task.encode(
        {"id": "0", "tokens": ["red", "cat"], "offsets": [[0, 3], [4, 7]], "text": "red cat"},
        loaded.model.base.tokenizer,
    )
    item = Item("tags", "token_classification", loaded.members, record)
    batch = collate([item], padding_id(loaded.model.base), labels=False)
    trace = GateTrace()
    with traced(trace), torch.inference_mode():
        loaded.model(batch)
    save_trace(trace, tmp_path / "trace.safetensors")
    tensors = load_file(tmp_path / "trace.safetensors")
    for module, gate in trace.gates.items():
        assert torch.equal(tensors[f"{module}/gates"], gate.gates)
        assert torch.equal(tensors[f"{module}/logits"], trace.logits[module])
    assert tensors["labels"].tolist() == [runs_names(folder).index("tags")]
    assert torch.equal(tensors["mask"], batch.inputs["attention_mask"])


def test_recognition_stands_in_the_scores_of_training_and_evaluation(folder: RunFolder) -> None:
    for part, found in zip(folder.parts(), evaluate(folder.path, save=False), strict=True):  # type: ignore[arg-type]
        row = next(row for row in part.metrics if row["name"] == "recognition")
        assert found.scores["recognition"].value == row["value"]
        assert 0 <= row["low"] <= row["value"] <= row["high"] <= 1


def test_an_input_is_answered_by_the_likeliest_task_that_it_fits(folder: RunFolder) -> None:
    mixture = load_mixture_model(folder.path)
    inputs: list[Any] = [
        "good film cat",
        {"question": "which one is red", "context": "red blue cat dog"},
    ]
    texts, spans = predict_auto(mixture, inputs)
    assert spans["task"] == "where"
    assert 0 <= texts["confidence"] <= 1
    known = predict(folder.path, inputs[:1], task=texts["task"])[0]
    assert {key: texts[key] for key in known} == known
    with pytest.raises(ValueError, match="input 0: fits none of the tasks"):
        predict_auto(mixture, [{"premise": "x"}])
    with pytest.raises(ValueError, match="no task named 'tagz'"):
        predict(folder.path, ["cat"], task="tagz")
    with pytest.raises(ValueError, match="name one"):
        predict(folder.path, ["cat"])


def test_beside_a_mixture_stand_its_experts_uniform_gates_and_their_sum(folder: RunFolder) -> None:
    found = beside(folder)
    for part in folder.parts():
        rows = {row["what"]: row for row in found["rows"] if row["task"] == part.path.name}
        assert set(rows) == {MIXTURE, OWN, UNIFORM, SUM}
        metric = rows[MIXTURE]["metric"]
        own = next(row for row in part.metrics if row["name"] == metric)
        assert rows[MIXTURE]["score"]["value"] == own["value"]
        for row in rows.values():
            if row["difference"] is not None:
                apart = rows[MIXTURE]["score"]["value"] - row["score"]["value"]
                assert row["difference"]["value"] == pytest.approx(apart)
    assert sum("own expert" in line for line in found["remarks"]) == len(folder.parts())
    assert found["cost"]["gate_parameters"] > 0
    assert found["cost"]["forward_over_base"] > 0


def test_uniform_gates_beside_are_the_uniform_mixture(runs: Runs) -> None:
    mixture = runs.mixture("bert", "uniform")
    for row in beside(mixture)["rows"]:
        if row["what"] == UNIFORM:
            assert row["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_what_stands_beside_answers_with_the_experts_own_heads(runs: Runs) -> None:
    more = ("mixture.train_heads=true", "training.learning_rate=0.5")
    mixture = runs.mixture("bert", "meteora", *more)
    uniform = {row["task"]: row for row in beside(runs.mixture("bert", "uniform"))["rows"][::-1]}
    rows = [row for row in beside(mixture)["rows"] if row["what"] == UNIFORM]
    assert {row["task"] for row in rows} == uniform.keys()
    for row in rows:
        assert row["score"] == uniform[row["task"]]["score"]


def test_other_runs_can_stand_beside(runs: Runs, tmp_path: Path) -> None:
    parts = [part.path for part in runs.experts("bert").parts()][:2]
    names = [path.name for path in parts]
    shared = train(
        runs.settings("bert", *names, experts="shared", training={"max_steps": 2}),
        out=tmp_path / "together",
    )
    config = mix_config(parts, "uniform", [f"mixture.beside=[{shared.path}]"])
    found = beside(train(config, out=tmp_path / "mix"))
    for name in names:
        whats = [row["what"] for row in found["rows"] if row["task"] == name]
        assert "lora (together)" in whats


def test_a_mixture_of_new_experts_needs_tasks_and_no_runs(runs: Runs, tmp_path: Path) -> None:
    run = runs.settings("bert", "tags", "where") | {
        "mixture": {"name": "hydralora", "num_experts": 2, "rank": 2}
    }
    del run["recipe"]
    made = train(run, out=tmp_path / "new")
    assert {row["what"] for row in beside(made)["rows"]} == {MIXTURE}
    found = evaluate(made.path, save=False)
    for part, one in zip(made.parts(), found, strict=True):  # type: ignore[arg-type]
        for row in part.metrics:
            assert one.scores[row["name"]].value == row["value"]
    with pytest.raises(ValueError, match="no expert to mix"):
        train(run | {"mixture": "uniform"}, out=tmp_path / "none")
