"""An embedding trains as its losses say, alone and beside others, and its folder opens in sentence-transformers."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses
from torch import Tensor

import weft
from weft.answering.evaluation import evaluate, read_predictions
from weft.answering.raw import logits
from weft.base.loading import load_base
from weft.comparison.comparing import compare
from weft.config import load_run
from weft.storage.loading import load_run_model
from weft.training.assembly import Session, assemble
from weft.training.loop import train
from weft.training.settings import completed
from weft.training.stepping import Stepper

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "embeddings.md"
Settings = Callable[..., dict[str, Any]]
TEXTS = ["good film", "the old cat went to the red house by the river", "paris", "bad book"]


def tensors(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "expert" / "adapter_model.safetensors")


def vectors(folder: Path, texts: list[str] = TEXTS) -> np.ndarray:
    said = weft.predict(folder, texts, device="cpu", precision="fp32")
    return np.array([row["vector"] for row in said], dtype=np.float32)


@pytest.mark.parametrize("accumulation", [1, 3])
def test_it_learns_the_same_alone_and_beside_other_kinds(
    run_of: Settings, tmp_path: Path, accumulation: int
) -> None:
    names = ("alike", "topic", "beside", "tags")
    training = {"max_steps": 3, "accumulation": accumulation}
    train(run_of(*names, training=training), out=tmp_path / "several")
    for name in names:
        train(run_of(name, training={"max_steps": 3}), out=tmp_path / name)
        alone, together = tensors(tmp_path / name), tensors(tmp_path / "several" / name)
        for key, value in alone.items():
            torch.testing.assert_close(together[key], value, rtol=0, atol=1e-9, msg=key)
        own, beside = (
            {row["name"]: row["value"] for row in json.loads((place / "metrics.json").read_text())}
            for place in (tmp_path / name, tmp_path / "several" / name)
        )
        assert own == pytest.approx(beside)
    said = json.loads((tmp_path / "several" / "beside" / "metrics.json").read_text())
    assert {row["name"] for row in said} == {"retrieval_accuracy", "triplet_accuracy"}


def stepped(
    run: dict[str, Any], rows: list[dict[str, Any]]
) -> tuple[Session, Tensor, dict[str, Tensor]]:
    """The loss that one step reports, and its gradients."""
    data = {"train": rows, "validation": rows}
    session = assemble(completed(load_run(run)), torch.device("cpu"), data)
    (learner,) = session.learners
    learner.step = lambda *_: None  # type: ignore[method-assign] - gradients are to stay
    (loss,) = Stepper(session, Accelerator(cpu=True)).step([learner], 0).values()
    return session, loss, {n: p.grad for n, p in learner.parameters.items() if p.grad is not None}


DIFFERENT = ["the cat", "a big dog", "one man and his house", "the red river", "paris", "so small"]
"""No text twice, so that nothing is left out of the library's own negatives."""


@pytest.mark.parametrize(
    ("columns_of", "loss"),
    [
        (("text_a", "text_b", "score"), losses.CoSENTLoss),
        (("anchor", "positive", "negative"), losses.MultipleNegativesRankingLoss),
    ],
)
def test_a_step_is_a_step_of_the_librarys_loss_on_its_own_model(
    run_of: Settings, columns_of: tuple[str, ...], loss: Any
) -> None:
    run = run_of("alike", training={"batch_size": 6, "bucketing": False}, recipe={"name": "full"})
    run["task"] = {"name": "mine", "spec": {"kind": "embedding"}}
    rows = [
        dict(
            zip(
                columns_of,
                (text, f"{text} went", at / 5 if "score" in columns_of else f"no {text}"),
                strict=True,
            )
        )
        for at, text in enumerate(DIFFERENT)
    ]
    session, value, gradients = stepped(run, rows)
    records = [item.record for item in session.streams[0].items(0)]
    # sentence-transformers on the same checkpoint, given the same tokens.
    theirs = SentenceTransformer(run["base"], device="cpu").double()
    columns = []
    for place in range(len(records[0]["input_ids"])):
        ids = [torch.tensor(record["input_ids"][place]) for record in records]
        padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(i) for i in ids], batch_first=True)
        columns.append({"input_ids": padded, "attention_mask": mask})
    scores = torch.tensor([record["labels"][0][2] for record in records], dtype=torch.float64)
    theirs.eval()
    found = loss(theirs)(columns, scores)
    torch.testing.assert_close(value, found.detach(), rtol=1e-9, atol=0)
    found.backward()
    own = {
        name.removeprefix("trunk/"): gradient
        for name, gradient in gradients.items()
        if name.startswith("trunk/")
    }
    checked = 0
    for name, parameter in theirs[0].auto_model.named_parameters():
        if parameter.grad is not None and name in own:
            torch.testing.assert_close(own[name], parameter.grad, rtol=1e-7, atol=1e-9, msg=name)
            checked += 1
    assert checked == len(own) > 30


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"batch_size": 1}, "takes 2 rows at least"),
        ({"label_smoothing": 0.1}, "no classes to smooth"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_any_work(
    run_of: Settings, tmp_path: Path, training: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train(run_of("alike", training=training), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_without_the_library_there_is_no_training_but_everything_else(
    run_of: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of("alike", training={"max_steps": 1})
    folder = train(run, out=tmp_path / "run").path
    monkeypatch.setitem(sys.modules, "sentence_transformers.sentence_transformer", None)
    assert vectors(folder).shape == (4, 32)
    weft.export(folder, tmp_path / "theirs", "sentence-transformers")
    with pytest.raises(ValueError, match=r"pip install 'weft\[embeddings\]'"):
        train(run, out=tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_head_alone_has_nothing_to_learn(run_of: Settings, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has nothing to train"):
        train(run_of("alike", recipe={"name": "head"}), out=tmp_path / "run")


@pytest.mark.parametrize("base", ["bert", "gpt2"])
@pytest.mark.parametrize("recipe", ["lora", "full"])
def test_an_export_opens_in_sentence_transformers_with_the_same_vectors(
    run_of: Settings, tmp_path: Path, base: str, recipe: str
) -> None:
    settings = {"name": recipe} | ({"targets": ["all-linear"]} if recipe == "lora" else {})
    run = run_of("alike", base=base, recipe=settings, training={"precision": "fp32"})
    folder = train(run, out=tmp_path / "run").path
    weft.export(folder, tmp_path / "theirs", "sentence-transformers")
    ours = vectors(folder)
    opened = SentenceTransformer(str(tmp_path / "theirs"), device="cpu")
    theirs = opened.encode(TEXTS, batch_size=2)
    assert opened.max_seq_length == 48
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    plain = SentenceTransformer(run["base"], device="cpu")
    plain.tokenizer.pad_token = opened.tokenizer.pad_token
    untrained = plain.encode(TEXTS, normalize_embeddings=True)
    assert np.abs(ours - untrained).max() > 1e-3
    # And it is a base again, whose plain vectors are the trained ones.
    assert load_base(str(tmp_path / "theirs")).config.model_type == base


def test_vectors_that_are_not_normalised_are_not_in_the_export_either(
    run_of: Settings, tmp_path: Path
) -> None:
    run = run_of("alike", training={"precision": "fp32", "max_steps": 1})
    spec = {"kind": "embedding", "format": "csv", "options": {"normalize": False}}
    run["task"] = {"name": "plain", "spec": spec, "data": str(Path(run["task"]["name"]).parent)}
    folder = train(run, out=tmp_path / "run").path
    weft.export(folder, tmp_path / "theirs", "sentence-transformers")
    theirs = SentenceTransformer(str(tmp_path / "theirs"), device="cpu").encode(TEXTS)
    assert np.abs(np.linalg.norm(theirs, axis=1) - 1).min() > 0.1
    np.testing.assert_allclose(vectors(folder), theirs, rtol=1e-5, atol=1e-5)
    raw = logits(load_run_model(folder, device="cpu"), TEXTS)
    assert raw.axes == ("sequence", "dimension")
    np.testing.assert_allclose(raw.values.numpy(), theirs, rtol=1e-5, atol=1e-5)


def test_another_kind_is_no_sentence_encoder(run_of: Settings, tmp_path: Path) -> None:
    folder = train(run_of("topic", training={"max_steps": 1}), out=tmp_path / "run").path
    with pytest.raises(ValueError, match="opens embeddings, and this expert's kind is sequence"):
        weft.export(folder, tmp_path / "theirs", "sentence-transformers")
    with pytest.raises(ValueError, match="no form named 'gguf'"):
        weft.export(folder, tmp_path / "theirs", "gguf")  # type: ignore[arg-type]


def test_evaluation_repeats_the_scores_of_training_and_takes_other_forms(
    run_of: Settings, tmp_path: Path
) -> None:
    run = train(run_of("beside", training={"max_steps": 2}), out=tmp_path / "run")
    again = evaluate(run.path, device="cpu", save=False)
    assert not isinstance(again, list)
    said = {row["name"]: row["value"] for row in run.metrics}
    assert {name: value.value for name, value in again.scores.items()} == pytest.approx(said)
    saved = read_predictions(run.path)
    assert all(len(row["vectors"]) == 3 for row in saved.values())
    rows = [
        {"text_a": a, "text_b": b, "score": at / 3}
        for at, (a, b) in enumerate(zip(TEXTS, TEXTS[1:] + TEXTS[:1], strict=True))
    ]
    scored = evaluate(run.path, data=rows, device="cpu", save=False)
    assert not isinstance(scored, list)
    assert set(scored.scores) == {"spearman", "pearson"}


def test_pairs_are_compared_by_what_they_are_selected_on(run_of: Settings, tmp_path: Path) -> None:
    run = run_of("beside")
    grid = {
        "base": run["base"],
        "tasks": {"beside": {"task": run["task"], "training": {"max_steps": 1}}},
        "recipes": {"lora": {"recipe": {"name": "lora"}, "learning_rates": [1e-4, 1e-3]}},
        "seeds": [0],
        "training": {"batch_size": 4, "precision": "fp32"},
    }
    (row,) = compare(grid, tmp_path / "grid")
    assert row.metric == "retrieval_accuracy"
    assert set(row.searched) == {"0.0001", "0.001"}


def test_the_page_does_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(block, names)
    assert len(names["text"]["vector"]) == 384
    assert -1 <= names["pair"]["similarity"] <= 1
    np.testing.assert_allclose(names["vectors"][0], names["text"]["vector"], rtol=1e-4, atol=1e-6)
