"""One training of nested ranks, every rank of it evaluated and exported; others say no."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

import weft
from weft.base.loading import load_base
from weft.runs import RunFolder
from weft.storage.experts import load_expert, read_card

Say = Callable[..., Any]
RANK = 4


@pytest.fixture(scope="module")
def nested(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run whose ranks have all moved."""
    recipe = {"name": "dylora", "rank": RANK, "alpha": 6.0}
    training = settings["training"] | {"max_steps": 12, "learning_rate": 0.05, "precision": "fp64"}
    own = settings | {"recipe": recipe, "training": training}
    return weft.train(own, out=tmp_path_factory.mktemp("runs") / "nested")


@pytest.mark.parametrize("rank", range(1, RANK + 1))
def test_an_export_is_the_lora_of_the_first_ranks(
    rank: int, say: Say, nested: RunFolder, settings: dict[str, Any], tmp_path: Path
) -> None:
    said = say("export", nested.path, tmp_path / "e", "--rank", rank)
    assert (said.code, said.err) == (0, "")
    base = load_base(settings["base"], dtype=torch.float64)
    whole, _ = load_expert(nested.expert, base)
    cut, card = load_expert(tmp_path / "e", base)
    assert (card.recipe["name"], card.recipe["rank"], card.recipe["alpha"]) == ("lora", rank, 6.0)
    for name, adapter in cut.adapters.items():
        A, B = whole.adapters[name].get_parameter("A"), whole.adapters[name].get_parameter("B")
        assert torch.equal(adapter.get_parameter("A"), A[:rank])
        assert torch.equal(adapter.get_parameter("B"), B[:, :rank])
        weight = base.trunk.get_submodule(name).get_parameter("weight")
        wanted = 6.0 / rank * B[:, :rank] @ A[:rank]
        torch.testing.assert_close(adapter.delta(weight), wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_evaluated_at_a_rank_it_answers_as_that_export_does_in_peft(
    nested: RunFolder, settings: dict[str, Any], tmp_path: Path
) -> None:
    answers = {}
    for rank in (1, 2, 4):
        found = weft.evaluate(nested.path, rank=rank, device="cpu")
        assert not isinstance(found, list)
        answers[rank] = [row["probabilities"]["good"] for row in found.predictions]
        weft.export(nested.path, tmp_path / str(rank), "peft", rank=rank)
        plain = AutoModelForSequenceClassification.from_pretrained(
            settings["base"], num_labels=2, dtype=torch.float64
        )
        opened = PeftModel.from_pretrained(
            plain, tmp_path / str(rank), autocast_adapter_dtype=False
        ).eval()
        tokenizer = load_base(settings["base"]).tokenizer
        theirs = []
        for text in ("the good dog", "the bad dog", "good city", "bad city"):
            said = tokenizer(text, return_tensors="pt")
            with torch.no_grad():
                theirs.append(opened(**said).logits.softmax(-1)[0, 1].item())
        # Outputs are handed on in single precision.
        assert answers[rank] == pytest.approx(theirs, abs=1e-7)
    assert answers[1] != pytest.approx(answers[4], abs=1e-4)


def test_the_command_says_the_verb_s_scores_and_writes_none(
    say: Say, nested: RunFolder, tmp_path: Path
) -> None:
    run = RunFolder(shutil.copytree(nested.path, tmp_path / "run"))
    before = {path.name: path.read_bytes() for path in run.path.iterdir() if path.is_file()}
    said = say("evaluate", run.path, "--rank", 1, "--json")
    found = weft.evaluate(nested.path, rank=1)
    assert not isinstance(found, list)
    assert said.json == found.as_json()
    assert {path.name: path.read_bytes() for path in run.path.iterdir() if path.is_file()} == before
    assert weft.evaluate(nested.path, rank=RANK) == weft.evaluate(nested.path, save=False)


def test_the_card_of_an_export_has_no_scores_of_another_rank(
    nested: RunFolder, tmp_path: Path
) -> None:
    weft.export(nested.path, tmp_path / "e", "peft", rank=2)
    assert read_card(nested.expert).metrics
    assert read_card(tmp_path / "e").metrics == {}


def test_other_forms_and_ranks_that_there_are_not_are_refused(
    say: Say, nested: RunFolder, trained: RunFolder, tmp_path: Path
) -> None:
    said = say("evaluate", trained.path, "--rank", 1)
    assert said.code == 2
    assert "its LoRA adapters were not trained to answer with fewer ranks" in said.err
    for arguments in (
        ("evaluate", nested.path, "--rank", RANK + 1),
        ("export", nested.path, tmp_path / "e", "--rank", RANK + 1),
    ):
        said = say(*arguments)
        assert said.code == 2
        assert f"rank {RANK + 1}: expected 1 to {RANK}" in said.err
    assert not (tmp_path / "e").exists()
    # Of other forms an export is the nearest, as before.
    assert say("export", trained.path, tmp_path / "near", "--rank", 1).code == 0
