import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import weft
from weft.answering.generation import Generation
from weft.runs import RunFolder

Say = Callable[..., Any]
TEXTS = ["a good film", "a bad book and a good dog"]


def test_command_and_verb_say_the_same(say: Say, trained: RunFolder) -> None:
    said = say("predict", trained.path, *TEXTS, "--json")
    assert [json.loads(line) for line in said.out.splitlines()] == weft.predict(trained.path, TEXTS)


def test_json_lines_get_json_lines_in_order(say: Say, trained: RunFolder) -> None:
    lines = [json.dumps({"text": TEXTS[0], "id": "a"}), "", json.dumps(TEXTS[1])]
    said = say("predict", trained.path, text="\n".join(lines) + "\n")
    first, second = (json.loads(line) for line in said.out.splitlines())
    one, two = weft.predict(trained.path, TEXTS)
    assert first["id"] == "a"
    assert second["id"] == "1"
    for found, expected in ((first, one), (second, two)):
        assert found["label"] == expected["label"]
        assert found["probabilities"] == pytest.approx(expected["probabilities"], rel=1e-5)


def test_people_get_the_answer_in_words(say: Say, trained: RunFolder) -> None:
    said = say("predict", trained.path, TEXTS[0])
    [answer] = weft.predict(trained.path, TEXTS[:1])
    shares = "  ".join(f"{name} {p:.4g}" for name, p in answer["probabilities"].items())
    assert said.out == f"label: {answer['label']}\nprobabilities: {shares}\n"


def test_the_name_of_a_file_is_answered_and_the_way_to_its_lines_said(
    say: Say, trained: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "good").write_text('"bad"')
    run = trained.path.absolute()
    monkeypatch.chdir(tmp_path)
    named, plain = say("predict", run, "good", "film " * 60), say("predict", run, "good film")
    assert (
        "weft: 'good' is answered as a text; the lines of that file come by `< good`" in named.err
    )
    assert plain.out
    assert "come by" not in plain.err


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('{"txt": "good"}', "line 3: text is missing"),
        ("{", "line 3: not JSON"),
        ("good", "at column 1; give an object or a text in quotation marks a line"),
        ("3", "line 3: expected an object or a string"),
        (json.dumps("good " * 40), "lines 1 to 3: row '1'"),
    ],
)
def test_a_wrong_line_is_named_and_its_chunk_is_not_answered(
    line: str, sentence: str, say: Say, trained: RunFolder
) -> None:
    said = say("predict", trained.path, text=f'"good"\n\n{line}\n')
    assert (said.code, said.out) == (2, "")
    assert sentence in said.err


def test_generation_settings_are_for_models_that_write(say: Say, trained: RunFolder) -> None:
    said = say("predict", trained.path, "good", "--sample")
    assert said.code == 2
    assert "generation settings are for causal language models" in said.err


def test_generation_settings_reach_the_writer(
    say: Say, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    (tmp_path / "train.txt").write_text("the good dog\n\nthe bad city\n")
    (tmp_path / "validation.txt").write_text("the old house\n")
    (tmp_path / "text.yaml").write_text("{kind: causal_lm, format: text, max_length: 32}")
    settings = {
        "base": str(tiny_folder("gpt2")),
        "task": str(tmp_path / "text.yaml"),
        "training": {"max_steps": 1},
        "device": "cpu",
    }
    run = weft.train(settings, out=tmp_path / "run").path
    options = ["--max-new-tokens", 5, "--sample", "--temperature", 2.0, "--top-k", 9]
    options += ["--top-p", 0.9, "--seed", 3]
    said = say("predict", run, "the good", *options, "--json")
    drawn = Generation(max_new_tokens=5, sample=True, temperature=2.0, top_k=9, top_p=0.9, seed=3)
    assert said.json == weft.predict(run, ["the good"], generation=drawn)[0]
    assert said.json["tokens"] <= 5
    people = say("predict", run, "the good", *options)
    assert people.out == said.json["continuation"] + "\n"
    refused = say("predict", run, "the good", "--top-p", 2)
    assert refused.code == 2
    assert "top_p" in refused.err
