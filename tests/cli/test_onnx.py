"""An expert exported to ONNX by command answers as its run does, and starts without what trains."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import weft
from tests.cli.conftest import ROWS
from weft.answering.exported import Exported, is_exported
from weft.runs import RunFolder

Say = Callable[..., Any]


@pytest.fixture(scope="module")
def graph(trained: RunFolder, say: Say, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's expert as a graph, and what the command said of it beside it."""
    folder = tmp_path_factory.mktemp("exports") / "onnx"
    said = say("export", trained.path, folder, "--to", "onnx")
    assert said.code == 0, said.err
    (folder.parent / "said.txt").write_text(said.out)
    return folder


def test_the_export_says_what_it_loses_on_the_runs_rows(graph: Path) -> None:
    said = (graph.parent / "said.txt").read_text()
    assert said.startswith(f"{graph}\n")
    assert "export - expert" in said
    assert "0.0 (0.0 to 0.0)" in said
    assert f"answers that changed: 0 of {len(ROWS['validation'])}" in said


def test_a_graph_is_predicted_with_as_its_run_is(say: Say, graph: Path, trained: RunFolder) -> None:
    texts = ROWS["validation"]
    lines = "\n".join(json.dumps({"text": text}) for text in texts)
    ours, theirs = (say("predict", where, text=lines) for where in (trained.path, graph))
    assert (ours.code, theirs.code) == (0, 0), theirs.err
    for one, other in zip(ours.out.splitlines(), theirs.out.splitlines(), strict=True):
        wanted, found = json.loads(one), json.loads(other)
        assert found.pop("probabilities") == pytest.approx(wanted.pop("probabilities"), abs=1e-4)
        assert found == wanted
    assert Exported(graph).predict(texts) == Exported(graph).predict(texts, tokens_per_batch=1)
    # And by Python's verb.
    assert [row["label"] for row in weft.predict(graph, texts)] == [
        row["label"] for row in weft.predict(trained.path, texts)
    ]


def test_wrong_inputs_and_settings_of_a_graph_are_refused(say: Say, graph: Path) -> None:
    said = say("predict", graph, text='{"words": "a"}\n')
    assert (said.code, "line 1: text is missing" in said.err) == (2, True)
    said = say("predict", graph, "a film", "--sample")
    assert (said.code, "generation settings are for causal" in said.err) == (2, True)


@pytest.mark.slow
def test_rows_that_are_not_at_hand_are_said(
    say: Say, trained: RunFolder, tmp_path: Path, own_task: Path
) -> None:
    assert not is_exported(trained.path)
    text = (trained.path / "run.yaml").read_text()
    moved = tmp_path / "moved"
    moved.mkdir()
    (moved / "run.yaml").write_text(text.replace(str(own_task), str(tmp_path / "gone.yaml")))
    (moved / "expert").symlink_to(trained.path / "expert")
    said = say("export", moved, tmp_path / "out", "--to", "onnx")
    assert said.code == 0, said.err
    assert "not scored: " in said.err


MODULES = """
import sys
from weft.cli import app
sys.argv = ["weft", "predict", sys.argv[1], "the good dog"]
try:
    app()
except SystemExit as stop:
    assert not stop.code
print(" ".join({name.partition(".")[0] for name in sys.modules}))
print(" ".join(name for name in sys.modules if name.startswith("weft.")))
"""


def loaded(folder: Path) -> tuple[set[str], set[str]]:
    """Packages, and modules of weft, that a process has imported when it has answered one text."""
    done = subprocess.run(
        [sys.executable, "-c", MODULES, str(folder)], capture_output=True, text=True, check=True
    )
    *_, packages, own = done.stdout.splitlines()
    return set(packages.split()), set(own.split())


def test_a_graph_answers_without_torch(graph: Path) -> None:
    packages, own = loaded(graph)
    heavy = {"torch", "transformers", "datasets", "accelerate", "pandas", "peft", "sklearn", "onnx"}
    assert packages & heavy == set()
    assert not [name for name in own if name.startswith(("weft.training", "weft.methods"))]


def test_a_run_answers_without_what_trains(trained: RunFolder) -> None:
    packages, own = loaded(trained.path)
    heavy = {"datasets", "pandas", "pyarrow", "peft", "sklearn", "sentence_transformers", "ray"}
    heavy |= {"matplotlib", "tensorboard", "onnx", "onnxruntime"}
    assert packages & heavy == set()
    above = ("training", "merging", "comparison", "reproduction", "demo", "publishing", "pruning")
    assert not [name for name in own if name.startswith(tuple(f"weft.{room}" for room in above))]
