"""What an expert writes against what its rows would have it write."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer
from typer.testing import CliRunner

import weft
from weft.answering.evaluation import Evaluation
from weft.answering.generation import Generation
from weft.answering.texts.written import reference_of, written_scores
from weft.cli import app
from weft.runs import RunFolder

SAID = ["the cat sat on the mat", "a big red house by the river stood", "", "london, is old"]
RIGHT = [
    "the cat is on the mat",
    "the big red house by the old river",
    "a dog",
    "london is not new",
]
ROWS = {
    "train": [{"prompt": f"the good {word}", "completion": " went to the city"} for word in ("dog", "cat")],
    "validation": [
        {"prompt": "the good man", "completion": " went to the river"},
        {"prompt": "the bad dog", "completion": " came from london"},
    ],
}  # fmt: skip


def theirs(said: list[str], right: list[str]) -> dict[str, float]:
    """By the libraries' own corpus scores, and by means over rows."""
    found = {
        "bleu": sacrebleu.corpus_bleu(said, [right]).score / 100,
        "chrf": sacrebleu.corpus_chrf(said, [right]).score / 100,
    }
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    rows = [scorer.score(one, own) for own, one in zip(said, right, strict=True)]
    return found | {name: np.mean([row[name].fmeasure for row in rows]) for name in rows[0]}


def test_scores_and_resamples_are_the_libraries() -> None:
    found = written_scores(SAID, RIGHT, ["bleu", "chrf", "rouge"], resamples=50, seed=3)
    expected = theirs(SAID, RIGHT)
    assert {name: own.value for name, own in found.items()} == pytest.approx(expected, abs=1e-12)
    drawn: dict[str, list[float]] = {name: [] for name in expected}
    for rows in np.random.default_rng(3).integers(len(SAID), size=(50, len(SAID))):
        one = theirs([SAID[at] for at in rows], [RIGHT[at] for at in rows])
        for name, value in one.items():
            drawn[name].append(value)
    for name, own in found.items():
        low, high = np.quantile(drawn[name], [0.025, 0.975])
        assert (own.low, own.high) == pytest.approx((low, high), abs=1e-12)


def test_a_reference_is_the_completion_or_the_last_answer() -> None:
    user, answer = {"role": "user", "content": "a"}, {"role": "assistant", "content": " b "}
    assert reference_of({"id": "0", "prompt": "a", "completion": " b"}) == "b"
    assert reference_of({"id": "0", "messages": [user, answer]}) == "b"
    for row in ({"text": "a"}, {"messages": [user]}, {"messages": [answer]}):
        with pytest.raises(ValueError, match="row '7' has no reference"):
            reference_of({"id": "7", **row})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Callable[[str], Path]) -> RunFolder:
    settings = {
        "base": str(tiny_folder("llama")),
        "task": {"name": "own", "spec": {"kind": "causal_lm", "max_length": 48}},
        "training": {"max_steps": 60, "batch_size": 2, "learning_rate": 1e-2},
        "device": "cpu",
    }
    return weft.train(settings, out=tmp_path_factory.mktemp("own") / "run", data=ROWS)


def test_an_expert_s_text_is_scored_beside_its_likelihood(run: RunFolder) -> None:
    settings = Generation(max_new_tokens=8)
    found = weft.evaluate(
        run.path, data=ROWS["validation"], scores=["bleu", "rouge"], generation=settings
    )
    plain = weft.evaluate(run.path, data=ROWS["validation"], save=False)
    assert isinstance(found, Evaluation)
    assert isinstance(plain, Evaluation)
    written = weft.load(run.path, device="cpu").predict(
        [{"prompt": row["prompt"]} for row in ROWS["validation"]], generation=settings
    )
    said = [own["continuation"] for own in written]
    assert [own["continuation"] for own in found.predictions] == said
    expected = theirs(
        [text.strip() for text in said], [r["completion"].strip() for r in ROWS["validation"]]
    )
    assert found.scores["rougeL"].value > 0
    for name in ("bleu", "rouge1", "rouge2", "rougeL"):
        assert found.scores.pop(name).value == pytest.approx(expected[name], abs=1e-12)
    assert found.scores == plain.scores
    assert {"bleu", "rougeL", "bits_per_byte"} <= {row["name"] for row in run.metrics}


def test_what_cannot_be_scored_is_refused(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(KeyError, match=r"'blue'. Did you mean 'bleu'"):
        weft.evaluate(run.path, data=ROWS["validation"], scores=["blue"])
    with pytest.raises(ValueError, match="has no reference for what is written"):
        weft.evaluate(run.path, data=[{"text": "the good dog"}], scores=["bleu"])


def test_the_command_asks_by_names(run: RunFolder, tmp_path: Path) -> None:
    for split, rows in ROWS.items():
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    arguments: list[Any] = ["evaluate", str(run.path), "--data", str(tmp_path), "--json"]
    said = CliRunner().invoke(app, [*arguments, "--scores", "chrf, rouge", "--max-new-tokens", "4"])
    assert said.exit_code == 0, said.stderr
    assert {"chrf", "rouge1", "bits_per_byte"} <= set(json.loads(said.stdout)["scores"])
    refused = CliRunner().invoke(app, [*arguments, "--max-new-tokens", "4"])
    assert refused.exit_code == 2


def test_one_text_is_needed_for_each_reference() -> None:
    with pytest.raises(ValueError, match="4 texts for 2 references"):
        written_scores(SAID, RIGHT[:2], ["bleu"])
    with pytest.raises(ValueError, match="0 texts for 0 references"):
        written_scores([], [], ["bleu"])
