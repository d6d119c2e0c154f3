"""From a base to an expert of it that was trained on a pruned copy, by commands."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import weft
from tests.voice import without_voice
from weft.runs import RunFolder
from weft.storage.loading import load_run_model

Say = Callable[..., Any]


@pytest.fixture(scope="module")
def folders(
    say: Say, settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Path, RunFolder]:
    """What `weft prune` said, what it wrote, and a run of three steps on that."""
    folder = tmp_path_factory.mktemp("loram")
    options = ["--kind", "structured", "--ratio", "0.5", "--importance", "random", "--seed", "3"]
    said = say("prune", settings["base"], folder / "pruned", *options)
    own = settings | {"base": str(folder / "pruned"), "recipe": {"name": "loram", "rank": 2}}
    return said, folder / "pruned", weft.train(own, out=folder / "run")


def test_prune_says_where_it_wrote_and_what_it_could_not_prune(
    folders: tuple[Any, Path, RunFolder],
) -> None:
    said, pruned, _ = folders
    assert (said.code, said.out) == (0, f"{pruned}\n")
    assert without_voice(said.err).startswith("all attention heads are kept: a bert config")


def test_a_run_on_a_pruned_base_trains_and_reloads(folders: tuple[Any, Path, RunFolder]) -> None:
    _, pruned, run = folders
    assert run.training is not None
    loaded = load_run_model(run.path, device="cpu")
    assert loaded.model.base.source == str(pruned)
    assert loaded.model.base.config.intermediate_size == 32
    trained = loaded.model.expert(loaded.name).adapters
    # All maps of both layers; B starts at 0.
    assert len(trained) == 12
    assert all(torch.any(adapter.B != 0) for adapter in trained.values())


def test_recover_makes_a_run_that_answers_on_the_whole_base(
    say: Say, folders: tuple[Any, Path, RunFolder], settings: dict[str, Any], tmp_path: Path
) -> None:
    _, pruned, run = folders
    said = say("recover", run.path, tmp_path / "out", "--base", settings["base"])
    assert (said.code, said.out) == (0, f"{tmp_path / 'out'}\n"), said.err
    found = load_run_model(tmp_path / "out", device="cpu")
    assert found.model.base.config.intermediate_size == 64
    assert say("evaluate", tmp_path / "out", "--json").json["scores"]
    again = say(
        "recover", run.path, tmp_path / "more", "--base", settings["base"], "--pruned", pruned
    )
    assert again.code == 0
    name = "expert/adapter_model.safetensors"
    assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "more" / name).read_bytes()


def test_layers_of_single_weights_can_be_chosen(
    say: Say, settings: dict[str, Any], tmp_path: Path
) -> None:
    from weft.pruning.record import read_pruning

    options = ["--kind", "semi", "--pattern", "2:4", "--layer", "1"]
    assert say("prune", settings["base"], tmp_path / "p", *options).code == 0
    pruning = read_pruning(tmp_path / "p")
    assert (pruning.pattern, pruning.layers, len(pruning.masked)) == ("2:4", [1], 6)


def test_what_cannot_be_done_is_said_without_a_traceback(
    say: Say, trained: RunFolder, settings: dict[str, Any], tmp_path: Path
) -> None:
    said = say("prune", settings["base"], tmp_path / "p")
    assert said.code == 2
    assert "structured pruning takes a ratio" in said.err
    said = say("recover", trained.path, tmp_path / "out", "--base", settings["base"])
    assert said.code == 2
    assert "has no pruning.json" in said.err
