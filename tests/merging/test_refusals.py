"""What is refused before any work, each with its sentence; nothing is written then."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import weft
from tests.merging.runs import Made, made_on

Call = Callable[..., Any]


@pytest.fixture
def refused(made: Made) -> Call:
    """Merge, and compare what is said of it."""

    def call(sentence: str, runs: list[Path], method: str = "cat", **values: Any) -> None:
        out = made.folder / "out"
        with pytest.raises((ValueError, KeyError)) as caught:
            weft.merge(runs, method, **{"out": out, "scores": False, **values})
        assert sentence in str(caught.value)
        assert not (made.folder / "out").exists()
        assert not [path for path in made.folder.iterdir() if path.name.startswith(".")]

    return call


def test_weights_that_are_not_one_an_expert_or_no_numbers(made: Made, refused: Call) -> None:
    runs = [made("topic"), made("tags")]
    refused("1 weights (0.5) for 2 experts", runs, weights=[0.5])
    refused("3 weights (1, 1, 1) for 2 experts", runs, weights=[1, 1, 1])
    refused("every weight is a finite number", runs, weights=[1, float("nan")])
    refused("nothing would be left", runs, weights=[0, 0])
    refused("Input should be greater than or equal to 1", runs, rank=0)
    refused("weights are given, but --search finds them", runs, weights=[1, 1], search=True)


def test_runs_that_are_none_or_twice_or_hold_nothing_to_merge(made: Made, refused: Call) -> None:
    run = made("topic")
    refused("no expert to merge", [])
    refused("is no run folder", [run, made.folder / "nowhere"])
    refused("is given twice", [run, run])
    refused("is given twice", [run, run / ".." / run.name])
    (made.folder / "empty").mkdir()
    (made.folder / "empty" / "run.yaml").write_text((run / "run.yaml").read_text())
    refused("holds no expert yet", [run, made.folder / "empty"])
    refused("trained no adapters", [run, made("tags", name="head")])


def test_a_method_or_a_setting_that_is_not_there(made: Made, refused: Call) -> None:
    run = made("topic")
    refused("Did you mean 'cat'?", [run], "caat")
    refused("no setting named 'densty'", [run], "cat", settings={"densty": 0.5})
    refused("no run of this merge named", [run], head=made.folder / "other")


def test_experts_of_different_bases(
    made: Made, refused: Call, tiny_folder: Callable[[str], Path], tasks_folder: Path
) -> None:
    (made.folder / "others").mkdir()
    other = made_on(tiny_folder, tasks_folder, made.folder / "others", "distilbert")
    with pytest.raises(ValueError, match="vocabularies, differ; merge those of one base"):
        weft.merge([made("topic"), other("tags")], out=made.folder / "out")
    assert not (made.folder / "out").exists()


def test_heads_of_different_labels(made: Made, refused: Call) -> None:
    runs = [made.labelled("one", ["a", "b"]), made.labelled("two", ["a", "c"])]
    refused("two experts are of a task named topic, but their heads differ", runs)
    others = [made("topic"), made.labelled("three", ["a", "b", "c"])]
    refused("one head cannot answer for", others, head=others[0])


def test_dora_without_a_rank_and_with_one_that_is_too_large(made: Made, refused: Call) -> None:
    runs = [made("topic"), made("tags", name="dora")]
    refused("--dense RANK", runs)
    refused("rank 33 is larger than the layer", runs, dense=33)


def test_copies_of_base_modules(made: Made, refused: Call) -> None:
    refused("owns copies of", [made("topic", train_also=["norms"])])


def test_a_folder_that_is_there(made: Made) -> None:
    run = made("topic")
    (made.folder / "out").mkdir()
    (made.folder / "out" / "mine").write_text("kept")
    with pytest.raises(ValueError, match="exists; choose another --out"):
        weft.merge([run], out=made.folder / "out")
    assert (made.folder / "out" / "mine").read_text() == "kept"


def test_a_search_without_training_rows(made: Made, refused: Call) -> None:
    runs = [made.labelled("one", ["a", "b"])]
    refused("weights are found on rows of its training split", runs, search=True)


def test_a_merged_config_is_not_trained(made: Made) -> None:
    out = weft.merge([made("topic")], out=made.folder / "out", scores=False)
    with pytest.raises(ValueError, match="was made by `weft merge`"):
        weft.train(out.path / "run.yaml", out=made.folder / "trained")
