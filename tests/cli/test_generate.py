"""From runs to a generator to a new expert, by commands."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.generating.runs import SETTINGS, WORDS, runs_of, write_tasks
from tests.merging.runs import Made
from tests.voice import without_voice

Say = Callable[..., Any]


def test_a_generator_is_learned_asked_and_its_expert_scored(
    say: Say, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    tasks = write_tasks(tmp_path / "words")
    made = Made(tmp_path, tiny_folder("bert"), tasks)
    runs = runs_of(made, WORDS[:2])
    options = [part for key, value in SETTINGS.items() for part in ("--set", f"{key}={value}")]
    said = say("learn", *runs, "--out", tmp_path / "g", *options)
    assert (said.code, said.out) == (0, f"{tmp_path / 'g'}\n"), said.err
    assert "learn epoch 6/6  error " in said.err
    assert "0:00 left" in said.err
    big = tasks / "big"
    asked = ("--generator", tmp_path / "g", "--examples", big / "train.csv")
    more = ("--task", big / "big.yaml", "--data", big)
    said = say("generate", *asked, *more, "--out", tmp_path / "new")
    assert (said.code, said.out) == (0, f"{tmp_path / 'new'}\n"), said.err
    assert without_voice(said.err).startswith("from 12 rows; nearest tasks: ")
    assert 0 <= say("evaluate", tmp_path / "new", "--json").json["scores"]["accuracy"]["value"] <= 1
    told = say("generate", *asked, *more, "--out", tmp_path / "again", "--json").json
    assert (told["run"], told["seed"]) == (str(tmp_path / "again"), 0)
    said = say("generate", *asked, "--task", "squad", "--out", tmp_path / "other")
    assert said.code == 2
    assert "weft: " in said.err
    assert say("learn", *runs, "--out", tmp_path / "g").code == 2
