"""Model cards: the hub reads them, the lines in them run, and their numbers are the run folder's."""

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from typer.testing import CliRunner

import weft
from tests.reporting.reading import markdown_tables
from weft.cli import app
from weft.reporting.cards import HERE, MARK, write_cards
from weft.reporting.run_report import gather
from weft.storage.loading import load_run_model

WORDS = "the good cat and the red house"
pytestmark = [
    # PEFT itself asks for a property that transformers has renamed.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]


@pytest.fixture
def runs(runs_folder: Path, tmp_path: Path) -> Path:
    """Copies of the runs that have experts, for cards to be written into."""
    for name in ("full", "head", "pair", "rank3"):
        shutil.copytree(runs_folder / name, tmp_path / "runs" / name)
    return tmp_path / "runs"


def card_of(run: Path, *path: str) -> str:
    write_cards(gather([run]))
    return run.joinpath(*path, "expert", "README.md").read_text(encoding="utf-8")


def front_of(text: str) -> dict[str, Any]:
    return yaml.safe_load(text.split("---\n")[1])


def loaded_by(text: str, folder: Path, which: str) -> dict[str, Any]:
    """What the lines of a card leave, run as they stand in it."""
    code = re.search(rf"With {which}:\n\n```python\n(.*?)```", text, flags=re.DOTALL)
    assert code is not None
    found: dict[str, Any] = {}
    exec(code[1].replace(HERE, str(folder)), found)
    return found


def shown_by(loaded: dict[str, Any], task: str, labels: Sequence[str]) -> Any:
    """What the model that a card's lines loaded makes of one sentence."""
    inputs = loaded["tokenizer"](WORDS, return_tensors="pt")
    with torch.no_grad():
        logits = loaded["model"].eval()(**inputs).logits[0]
    if task == "tags":
        # Each word is one token of this tokenizer; the first and the last token are special.
        return [labels[at] for at in logits.argmax(-1)[1:-1].tolist()]
    return pytest.approx(dict(zip(labels, logits.softmax(-1).tolist(), strict=True)), abs=1e-5)


def said_by(run: Path, task: str) -> Any:
    """The same, by weft."""
    (said,) = weft.predict(run, [{"tokens": WORDS.split()} if task == "tags" else WORDS])
    return said["tags"] if task == "tags" else said["probabilities"]


def on_the_hub(run: Path) -> None:
    """Make a run's base, and its task, ones that the hub has."""
    path = run / "expert" / "weft.json"
    card = json.loads(path.read_text())
    card |= {"base": "bert-base", "source": "google-bert/bert-base-uncased", "revision": "abc123"}
    card["task"] |= {"hub": {"path": "someone/topics"}, "licence": "CC BY 4.0"}
    path.write_text(json.dumps(card))


def test_the_hub_reads_what_the_folder_holds(runs: Path) -> None:
    on_the_hub(runs / "rank3")
    metrics = json.loads((runs / "rank3" / "metrics.json").read_text())
    text = card_of(runs / "rank3")
    # Its fields are set as they are read, so no type knows them.
    data: Any = ModelCard(text).data
    assert data.base_model == "google-bert/bert-base-uncased"
    assert (data.license, data.library_name) == ("unknown", "peft")
    assert data.pipeline_tag == "text-classification"
    assert data.tags == ["weft", "lora", "topic"]
    assert data.datasets == ["someone/topics"]
    assert data.eval_results is not None
    found = [(one.metric_type, one.metric_value, one.dataset_split) for one in data.eval_results]
    assert found == [(row["name"], row["value"], row["split"]) for row in metrics]
    for one, row in zip(data.eval_results, metrics, strict=True):
        assert one.metric_name is not None
        assert f"{row['low']:.4g} to {row['high']:.4g}" in one.metric_name
        assert (one.dataset_type, one.dataset_name) == ("someone/topics", "topic")
    assert 'from_pretrained("google-bert/bert-base-uncased", num_labels=2, revision=' in text
    assert "Apache-2.0" in text
    assert "CC BY 4.0" in text


def test_scores_recipe_and_cost_are_the_folders(runs: Path) -> None:
    text = card_of(runs / "rank3")
    scores, facts = markdown_tables(text)
    metrics = json.loads((runs / "rank3" / "metrics.json").read_text())
    assert len(scores) == 1 + len(metrics)
    for said, row in zip(scores[1:], metrics, strict=True):
        shown = [f"{100 * row[key]:.1f}" for key in ("value", "low", "high")]
        assert said == [
            f"{row['name']} (%)",
            "{} ({} to {})".format(*shown),
            str(row["n"]),
            row["split"],
        ]
    values = dict(facts[1:])
    training = json.loads((runs / "rank3" / "training.json").read_text())
    card = json.loads((runs / "rank3" / "expert" / "weft.json").read_text())
    assert values["recipe: rank"] == "3"
    assert values["training: learning_rate"] == "0.005"
    assert values["digest of the base"] == card["digest"]
    assert values["classes, in the head's order"] == "animal, thing"
    assert values["cost: trainable_parameters"] == str(training["trainable_parameters"])
    assert values["version: torch"] == torch.__version__
    assert set(card["recipe"]) == {key[8:] for key in values if key.startswith("recipe: ")}


@pytest.mark.parametrize("task", ["topic", "tags"])
def test_peft_and_weft_load_by_the_lines_in_it(runs: Path, task: str) -> None:
    text = card_of(runs / "pair", task)
    folder = runs / "pair" / task / "expert"
    theirs = loaded_by(text, folder, "PEFT")
    ours = loaded_by(text, folder, "weft")
    run = load_run_model(runs / "pair" / task, device="cpu")
    expected = run.model.expert(run.name).state_dict()
    assert expected.keys() == ours["expert"].state_dict().keys()
    for name, value in ours["expert"].state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0)
    assert shown_by(theirs, task, run.card.labels) == said_by(runs / "pair" / task, task)


def test_transformers_loads_a_whole_model_by_the_lines_in_it(runs: Path) -> None:
    text = card_of(runs / "full")
    assert front_of(text)["library_name"] == "transformers"
    found = loaded_by(text, runs / "full" / "expert", "transformers")
    assert shown_by(found, "topic", ("animal", "thing")) == said_by(runs / "full", "topic")
    ours = loaded_by(text, runs / "full" / "expert", "weft")
    assert ours["card"].labels == ("animal", "thing")


def test_a_head_alone_is_wefts(runs: Path) -> None:
    text = card_of(runs / "head")
    assert front_of(text)["library_name"] == "weft"
    assert "With PEFT" not in text
    assert loaded_by(text, runs / "head" / "expert", "weft")["expert"].head is not None


def test_a_base_of_ones_own_is_not_taken_for_one_on_the_hub(runs: Path) -> None:
    assert "base_model" not in front_of(card_of(runs / "rank3"))


def test_an_expert_with_a_card_still_answers(runs: Path) -> None:
    before = weft.evaluate(runs / "rank3", save=False)
    card_of(runs / "rank3")
    assert not isinstance(before, list)
    after = weft.evaluate(runs / "rank3", save=False)
    assert after == before


def test_command_writes_a_card_for_each_expert(runs: Path, tmp_path: Path) -> None:
    arguments = ["report", str(runs), "--out", str(tmp_path / "out"), "--cards"]
    run = CliRunner().invoke(app, [*arguments, "--licence", "apache-2.0"])
    assert run.exit_code == 0, run.output
    cards = {path.parent.parent for path in runs.rglob("README.md")}
    pair = runs / "pair"
    assert cards == {runs / "full", runs / "head", runs / "rank3", pair / "topic", pair / "tags"}
    for folder in cards:
        card = (folder / "expert" / "README.md").read_text()
        assert front_of(card)["license"] == "apache-2.0"
    refused = CliRunner().invoke(app, [*arguments[:-1], "--licence", "apache-2.0"])
    assert refused.exit_code == 2
    assert "--cards" in refused.stderr


def test_a_readme_of_ones_own_stays(runs: Path) -> None:
    path = runs / "rank3" / "expert" / "README.md"
    card_of(runs / "rank3")
    written = path.read_text()
    assert card_of(runs / "rank3") == written
    path.write_text(written.replace(MARK, "mine"))
    with pytest.raises(ValueError, match="was not written by weft report"):
        card_of(runs / "rank3")
    assert "mine" in path.read_text()


def test_runs_without_experts_have_no_cards(runs_folder: Path) -> None:
    with pytest.raises(ValueError, match="none of these runs holds an expert"):
        write_cards(gather([runs_folder / "begun", runs_folder / "mix"]))
