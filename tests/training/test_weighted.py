"""Weights, thresholds and details from a run's settings to its folder."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from weft.answering.evaluation import evaluate, read_details, read_predictions
from weft.answering.prediction import predict
from weft.runs import RunFolder
from weft.training.loop import train

Settings = Callable[..., dict[str, Any]]
WEIGHTS = (1, 3, 0, 2)
KINDS = {"topic": "text,label", "endings": "context,prefix,a,b,c,label"}


def tensors(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "expert" / "adapter_model.safetensors")


def assert_same(found: Path, expected: Path, tolerance: float = 1e-8) -> None:
    a, b = tensors(found), tensors(expected)
    assert a.keys() == b.keys()
    for name, value in b.items():
        torch.testing.assert_close(a[name], value, rtol=0, atol=tolerance, msg=name)


def weighted_copy(source: Path, folder: Path, *, repeated: bool) -> dict[str, str]:
    """A tiny task of texts with a column of weights, or with its training rows as often as these say."""
    folder.mkdir(parents=True)
    lines = (source / "train.csv").read_text(encoding="utf-8").splitlines()
    rows = [(line, WEIGHTS[at % len(WEIGHTS)]) for at, line in enumerate(lines[1:9])]
    if repeated:
        written = [lines[0], *(line for line, weight in rows for _ in range(weight))]
        named = ""
    else:
        written = [f"{lines[0]},w", *(f"{line},{weight}" for line, weight in rows)]
        named = "weight: w, "
    (folder / "train.csv").write_text("\n".join(written) + "\n", encoding="utf-8")
    (folder / "validation.csv").write_bytes((source / "validation.csv").read_bytes())
    spec = (source / f"{source.name}.yaml").read_text(encoding="utf-8")
    spec = spec.replace("columns: {", f"columns: {{{named}") if "columns:" in spec else spec
    if named and "columns:" not in spec:
        spec += "columns: {weight: w}\n"
    (folder / f"{source.name}.yaml").write_text(spec, encoding="utf-8")
    return {"name": str(folder / f"{source.name}.yaml")}


@pytest.mark.parametrize("name", KINDS)
def test_a_row_of_weight_two_is_a_row_that_stands_there_twice(
    name: str, run_of: Settings, tasks_folder: Path, tmp_path: Path
) -> None:
    for repeated in (False, True):
        task = weighted_copy(tasks_folder / name, tmp_path / str(repeated), repeated=repeated)
        # Each step sees all rows, whatever their order.
        settings = run_of(name, training={"max_steps": 6, "batch_size": 64, "accumulation": 2})
        train({**settings, "task": task}, out=tmp_path / f"run-{repeated}")
    assert_same(tmp_path / "run-False", tmp_path / "run-True")


def test_only_the_proportions_of_weights_matter(
    run_of: Settings, tasks_folder: Path, tmp_path: Path
) -> None:
    losses = []
    for scale in (1.0, 1e-3):
        folder = tmp_path / str(scale)
        task = weighted_copy(tasks_folder / "topic", folder, repeated=False)
        lines = (folder / "train.csv").read_text(encoding="utf-8").splitlines()
        written = [
            f"{a},{scale * (0.5 + float(b))}" for a, b in (r.rsplit(",", 1) for r in lines[1:])
        ]
        (folder / "train.csv").write_text("\n".join([lines[0], *written]), encoding="utf-8")
        watched = {"early_stopping": 9, "early_stopping_on": "loss", "eval_every": 2}
        run = run_of("topic", training={"max_steps": 6, **watched})
        done = train({**run, "task": task}, out=tmp_path / f"run-{scale}")
        log = [json.loads(line) for line in done.log.read_text("utf-8").splitlines()]
        losses.append([row["held_loss"]["topic"] for row in log if "held_loss" in row])
    assert_same(tmp_path / "run-1.0", tmp_path / "run-0.001")
    assert len(losses[0]) == 3
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_rows_without_weight_are_refused_where_their_loss_is_wanted(
    run_of: Settings, tasks_folder: Path, tmp_path: Path
) -> None:
    task = weighted_copy(tasks_folder / "topic", tmp_path / "data", repeated=False)
    watched = {"early_stopping": 9, "early_stopping_on": "loss", "select_on": "holdout"}
    told = []
    for seed in range(8):
        run = {**run_of("topic", training={"max_steps": 1, **watched}), "task": task, "seed": seed}
        try:
            train(run, out=tmp_path / str(seed))
        except ValueError as error:
            told.append(str(error))
    # Two of the eight rows have weight 0, and one is held.
    assert 0 < len(told) < 8
    assert set(told) == {
        "task topic: all 1 rows that early stopping looks at have weight 0, so they have no loss; take more rows, or "
        "early_stopping_on: score"
    }


@pytest.mark.parametrize("accumulation", [1, 3])
def test_weighted_experts_in_one_run_equal_their_separate_runs(
    run_of: Settings, tasks_folder: Path, tmp_path: Path, accumulation: int
) -> None:
    tasks = [
        {**run_of("tags")["task"], "class_weights": "balanced"},
        {**run_of("topic")["task"], "class_weights": {"animal": 4.0}},
        weighted_copy(tasks_folder / "endings", tmp_path / "own", repeated=False),
        run_of("where")["task"],
    ]
    names = ("tags", "topic", "endings", "where")
    run = run_of(*names, training={"max_steps": 10, "accumulation": accumulation})
    several = train({**run, "tasks": tasks}, out=tmp_path / "several")
    for name, task in zip(names, tasks, strict=True):
        alone = run_of(name, training={"max_steps": 10})
        train({**alone, "task": task}, out=tmp_path / name)
        assert_same(several.path / name, tmp_path / name)
        plain = train(alone, out=tmp_path / f"plain-{name}")
        if name != "where":
            with pytest.raises(AssertionError):
                assert_same(tmp_path / name, plain.path)
    weights = (several.path / "topic" / "training.json").read_text(encoding="utf-8")
    assert json.loads(weights)["class_weights"] == {"animal": 4.0, "thing": 1.0}


def test_class_weights_that_do_not_fit_are_refused_before_any_work(
    run_of: Settings, tmp_path: Path
) -> None:
    run = run_of("where")
    run["task"]["class_weights"] = "balanced"
    with pytest.raises(ValueError, match="span_extraction has no classes here"):
        train(run, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_tells_its_scores_class_by_class(run_of: Settings, tmp_path: Path) -> None:
    done = train(run_of("topic", "tags", "where"), out=tmp_path / "run")
    for name, unit in (("topic", "class"), ("tags", "entity type")):
        part = RunFolder(done.path / name)
        found = read_details(part)
        assert found is not None
        assert (found.unit, found.confusion is None) == (unit, False)
        again = evaluate(part.path, device="cpu")
        assert again.details == found == read_details(part)  # type: ignore[union-attr]
        assert read_details(part, "test") is None
        kept = evaluate(part.path, device="cpu", split="train").details  # type: ignore[union-attr]
        assert (read_details(part), read_details(part, "train")) == (found, kept)
    topic = read_details(RunFolder(done.path / "topic"))
    assert topic is not None
    assert topic.confusion is not None
    accuracy = next(r for r in RunFolder(done.path / "topic").metrics if r["name"] == "accuracy")
    hits = sum(topic.confusion.counts[at][at] for at in range(2))
    assert accuracy["value"] == pytest.approx(hits / accuracy["n"])
    assert sorted(accuracy) == ["high", "low", "n", "name", "seed", "split", "value"]
    assert read_details(RunFolder(done.path / "where")) is None
    assert not (done.path / "where" / "details.json").exists()


@pytest.fixture
def without_answers(tasks_folder: Path, tmp_path: Path) -> dict[str, str]:
    """The tiny spans, in SQuAD's form 2.0, with no answer to every second question."""
    folder = tmp_path / "data"
    folder.mkdir()
    for split in ("train", "validation"):
        document = json.loads((tasks_folder / "where" / f"{split}.json").read_text("utf-8"))
        for at, paragraph in enumerate(document["data"][0]["paragraphs"]):
            (question,) = paragraph["qas"]
            question["is_impossible"] = at % 2 == 1
            if question["is_impossible"]:
                question["plausible_answers"] = question["answers"]
                question["answers"] = []
        document["version"] = "v2.0"
        (folder / f"{split}.json").write_text(json.dumps(document), encoding="utf-8")
    spec = (tasks_folder / "where" / "where.yaml").read_text(encoding="utf-8")
    (folder / "where.yaml").write_text(f"{spec}options: {{no_answer: true}}\n", encoding="utf-8")
    return {"name": str(folder / "where.yaml")}


def test_the_threshold_of_no_answer_is_found_on_held_rows_and_kept(
    run_of: Settings, without_answers: dict[str, str], tmp_path: Path
) -> None:
    on = {"name": "lora", "targets": ["query", "value"]}
    run = run_of("where", training={"max_steps": 6, "eval_every": 3}, recipe=on)
    found = train({**run, "task": without_answers}, out=tmp_path / "found")
    run["training"] = {k: v for k, v in run["training"].items() if k != "eval_every"}
    plain = train({**run, "task": without_answers}, out=tmp_path / "plain")
    options = [
        json.loads((own.expert / "weft.json").read_text("utf-8"))["task"]["options"]
        for own in (found, plain)
    ]
    assert options[1] == {"no_answer": True}
    threshold = options[0]["null_threshold"]
    assert math.isfinite(threshold)
    scores = {row["name"]: row["value"] for row in found.metrics}
    assert set(scores) == {
        *("f1", "exact_match", "HasAns_exact", "HasAns_f1", "NoAns_exact", "NoAns_f1"),
        *("best_exact", "best_exact_thresh", "best_f1", "best_f1_thresh"),
    }
    rows = read_predictions(found.path)
    assert all((row["text"] == "") == (row["null_log_odds"] > threshold) for row in rows.values())
    before = found.metrics
    evaluate(found.path, device="cpu")
    assert found.metrics == before
    card = found.expert / "weft.json"
    kept = card.read_text("utf-8")
    for other, silent in (("-1e9", True), ("1e9", False)):
        card.write_text(kept.replace(json.dumps(threshold), other), encoding="utf-8")
        changed = evaluate(found.path, device="cpu", save=False)
        assert {row["text"] == "" for row in changed.predictions} == {silent}  # type: ignore[union-attr]
    card.write_text(kept, encoding="utf-8")
    again = predict(found.path, [{"question": "which one is red", "context": "red big dog"}])
    assert (again[0]["text"] == "") == (again[0]["null_log_odds"] > threshold)
    assert 0 < again[0]["no_answer"] < 1
