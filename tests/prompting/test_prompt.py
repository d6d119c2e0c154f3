"""A task's rows put to a decoder: from rows to scores, answers on disk, refusals."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import weft
from tests.prompting.test_decoder import theirs
from weft.cli import app
from weft.config import TaskSettings
from weft.data.reading import load_task
from weft.prompting.decoder import context_ids, load_decoder
from weft.prompting.prompt import Prompted
from weft.prompting.settings import Prompting, Said
from weft.prompting.templates import template_for

SHOWN = {
    "context": "The sun set.",
    "prefix": "Then it",
    "a": "sang a song",
    "b": "grew dark",
    "c": "ran",
}
ASKED = [
    {"context": "The dog barked.", "prefix": "It", "a": "saw a cat", "b": "was made of glass, I think", "c": "ate"},
    {"context": "Rain fell.", "prefix": "We", "a": "went in", "b": "drank the whole river", "c": "flew"},
]  # fmt: skip
ENDINGS = {
    "train": [{**SHOWN, "label": 1}],
    "validation": [{**row, "label": at} for at, row in enumerate(ASKED)],
}


@pytest.fixture(scope="module")
def ask(real_words: Path, tasks_folder: Path) -> Callable[..., Prompted]:
    """Ask the tiny decoder about a tiny task."""

    def asked(name: str, **settings: Any) -> Prompted:
        usual = {"base": str(real_words), "device": "cpu", "max_examples": 6}
        task = tasks_folder / name / f"{name}.yaml"
        return weft.prompt(str(task), **{**usual, **settings})

    return asked


def test_choices_are_taken_as_the_harness_takes_them(
    ask: Callable[..., Prompted], real_words: Path
) -> None:
    """By log-likelihood by characters (`acc_norm`), or as it is (`acc`), behind the same prompt."""
    found = ask("endings", data=ENDINGS, shots=1)
    plain = ask("endings", data=ENDINGS, shots=1, normalise="none", cache=False)
    for row, answer, bare in zip(ASKED, found.answers, plain.answers, strict=True):
        context = f"The sun set. Then it grew dark\n\n{row['context']} {row['prefix']}"
        choices = [row[name] for name in "abc"]
        values = np.array(theirs(real_words, [(context, f" {choice}") for choice in choices]))
        for own, right in ((answer, values / [len(one) for one in choices]), (bare, values)):
            expected = np.exp(right) / np.exp(right).sum()
            np.testing.assert_allclose(own.prediction["probabilities"], expected, atol=2e-4)
            assert own.prediction["label"] == int(right.argmax())
            assert own.text == choices[int(right.argmax())]
    assert [own.prediction["label"] for own in found.answers] != [
        own.prediction["label"] for own in plain.answers
    ]
    right = [own.prediction["label"] == at for at, own in enumerate(found.answers)]
    assert found.scores["accuracy"].value == np.mean(right)


@pytest.mark.parametrize("name", ["topic", "tags", "endings", "where"])
@pytest.mark.parametrize("chat", [False, True])
def test_every_kind_is_asked_and_scored_as_its_experts_are(
    name: str, chat: bool, ask: Callable[..., Prompted]
) -> None:
    found = ask(name, shots=2, chat=chat, max_new_tokens=6)
    assert found.n == len(found.answers) == len(found.predictions) == 6
    assert set(found.scores) >= {"f1"} or "accuracy" in found.scores
    assert found.mistakes is not None
    said = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert said["prompting"]["shots"] == 2
    cost = said["cost"]
    assert cost["tokens_read"] == sum(own.tokens_read for own in found.answers) > 0
    assert (cost["tokens_written"] > 0) == (name in ("tags", "where"))
    assert cost["seconds"] > 0
    assert said["cost_per_answer"]["tokens_read"] == pytest.approx(cost["tokens_read"] / 6)


def test_keeping_beginnings_changes_no_answer(ask: Callable[..., Prompted]) -> None:
    for name in ("topic", "where"):
        for style in ("direct", "chain"):
            settings = {"shots": 2, "style": style, "max_new_tokens": 5, "thought_tokens": 5}
            kept, whole = (ask(name, cache=cache, **settings) for cache in (True, False))
            for one, other in zip(kept.answers, whole.answers, strict=True):
                assert (one.text, one.thought) == (other.text, other.thought)
                assert (one.tokens_read, one.tokens_written) == (
                    other.tokens_read,
                    other.tokens_written,
                )


def test_a_chain_reads_on_from_what_was_thought(
    ask: Callable[..., Prompted], real_words: Path, tasks_folder: Path
) -> None:
    found = ask("where", style="chain", max_new_tokens=4, thought_tokens=7, max_examples=2)
    settings = TaskSettings(name=str(tasks_folder / "where" / "where.yaml"), max_examples=2)
    loaded = load_task(settings, splits=["validation"], seed=0)
    template = template_for(loaded.task.spec)(loaded.task)
    decoder = load_decoder(str(real_words), device="cpu", cache=False)
    for own, row in zip(found.answers, loaded.splits["validation"], strict=True):
        asked = f"{template.instruction}\n\n{template.question(row)} Let's think step by step."
        first, second = (
            context_ids(decoder.base.tokenizer, text, "row")
            for text in (asked, f"{asked}{own.thought.rstrip()}\nTherefore, the answer is:")
        )
        thought = decoder.written([first], 7, ["\n\n"])[0]
        answer = decoder.written([second], 4, ["\n"])[0]
        assert (own.thought, own.text) == (thought.text, answer.text.strip())
        assert own.tokens_read == len(first) + len(second)
        assert own.tokens_written == len(thought.tokens) + len(answer.tokens)


def test_the_same_seed_shows_the_same_rows_and_another_others(ask: Callable[..., Prompted]) -> None:
    one, again, other = (ask("topic", shots=3, seed=seed) for seed in (1, 1, 2))
    assert [own.prediction for own in one.answers] == [own.prediction for own in again.answers]
    assert one.cost.tokens_read == again.cost.tokens_read
    said = [[own.prediction["probabilities"] for own in found.answers] for found in (one, other)]
    assert said[0] != said[1]


def test_answers_are_kept_and_not_asked_again(ask: Callable[..., Prompted], tmp_path: Path) -> None:
    out = tmp_path / "answers" / "topic.jsonl"
    settings: dict[str, Any] = {"shots": 1, "out": out}
    whole = ask("topic", **settings)
    lines = out.read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == [own["id"] for own in whole.predictions]
    # As if it had been stopped after two rows, of which the first one's answer is marked.
    first = {**json.loads(lines[0]), "text": "marked"}
    out.write_text("\n".join([json.dumps(first), lines[1]]) + "\n")
    again = ask("topic", **settings)
    assert again.answers[0].text == "marked"
    assert again.predictions == whole.predictions
    assert [own.tokens_read for own in again.answers] == [own.tokens_read for own in whole.answers]
    assert len(out.read_text().splitlines()) == 6
    with pytest.raises(ValueError, match="was asked otherwise"):
        ask("topic", shots=2, out=out)
    with pytest.raises(ValueError, match="was asked otherwise"):
        ask("topic", shots=1, out=out, normalise="none")
    out.write_text('{"id": "3"}\n')
    with pytest.raises(ValueError, match=r"topic.jsonl:1: no answer as `weft prompt` writes"):
        ask("topic", **settings)


def test_an_expert_that_writes_is_asked_like_a_base(
    ask: Callable[..., Prompted],
    run_of: Callable[..., dict[str, Any]],
    tmp_path: Path,
) -> None:
    run = run_of("go_on", base="llama", training={"max_steps": 30, "precision": "fp32"})
    folder = weft.train(run, out=tmp_path / "run").path
    bare = ask("topic", base=run["base"])
    trained = ask("topic", base=str(folder))
    probabilities = [
        np.array([list(own.prediction["probabilities"].values()) for own in found.answers])
        for found in (bare, trained)
    ]
    assert np.abs(probabilities[0] - probabilities[1]).max() > 1e-3
    decoder = load_decoder(str(folder), device="cpu")
    assert decoder.identity != load_decoder(run["base"], device="cpu").identity


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("topic", {"base": "minilm"}, "base minilm: a bert base cannot serve causal_lm.*smollm2"),
        ("topic", {"style": "chian"}, "no style named 'chian'. Did you mean 'chain'"),
        ("go_on", {}, "task go_on: a prompt cannot ask about rows of every kind; no template named"),
        ("topic", {"shots": 23}, "shots 23: there are 22 training rows to show; ask for fewer"),
        ("where", {"shots": 12}, "row 'validation-.*its prompt has .* more than the 512 positions"),
        ("topic", {"corpus": "x.txt"}, "corpus x.txt: nothing is taken from it"),
        ("topic", {"retrieve": 1, "corpus": "x.txt"}, "corpus x.txt: no such file"),
        ("topic", {"shots": -1}, "shots: .*greater than or equal to 0"),
        ("topic", {"shot": 1}, "shot.*shots"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_refused(
    name: str, settings: dict[str, Any], said: str, ask: Callable[..., Prompted]
) -> None:
    with pytest.raises((ValueError, KeyError), match=f"(?s){said}"):
        ask(name, **settings)


def test_keywords_are_the_settings() -> None:
    assert list(Said.__annotations__) == list(Prompting.model_fields)


def test_no_rows_to_show_are_refused(ask: Callable[..., Prompted]) -> None:
    rows = {"validation": ENDINGS["validation"]}
    assert ask("endings", data=rows).n == 2
    with pytest.raises(ValueError, match="shots 1: endings has no training rows to take from"):
        ask("endings", data=rows, shots=1)


def test_a_chat_without_a_template_is_refused(
    ask: Callable[..., Prompted], tiny_folder: Callable[[str], Path]
) -> None:
    with pytest.raises(ValueError, match=r"chat: the tokenizer of .* has no chat template"):
        ask("topic", base=str(tiny_folder("llama")), chat=True)


def test_a_run_of_another_kind_is_refused(
    ask: Callable[..., Prompted], run_of: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    folder = weft.train(run_of("topic", training={"max_steps": 1}), out=tmp_path / "run").path
    with pytest.raises(
        ValueError, match="an expert of kind sequence_classification, which writes no text"
    ):
        ask("topic", base=str(folder))


def test_the_command_says_what_python_says(
    ask: Callable[..., Prompted], real_words: Path, tasks_folder: Path, tmp_path: Path
) -> None:
    task, out = tasks_folder / "topic" / "topic.yaml", tmp_path / "topic.jsonl"
    arguments = ["prompt", str(task), "--base", str(real_words), "--shots", "2"]
    arguments += ["--max-examples", "6", "--device", "cpu", "--out", str(out)]
    said = CliRunner().invoke(app, [*arguments, "--json"])
    assert said.exit_code == 0, said.stderr
    found = json.loads(said.stdout)
    expected = ask("topic", shots=2).as_json()
    assert found["scores"] == expected["scores"]
    assert found["prompting"] == expected["prompting"]
    assert found["cost"]["tokens_read"] == expected["cost"]["tokens_read"]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0
    assert "tokens read" in shown.stdout
    assert "accuracy" in shown.stdout
    assert len(out.read_text().splitlines()) == 6
    refused = CliRunner().invoke(app, ["prompt", str(task), "--base", "minilm"])
    assert refused.exit_code == 2
    assert "a bert base cannot serve causal_lm" in refused.stderr
