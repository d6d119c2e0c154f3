"""Lines are answered chunk by chunk: as they come, in order, numbered through."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import weft
from weft.answering.streaming import answers_to_lines, generation_of
from weft.storage.loading import LoadedRun, load_run_model

TEXTS = ["the good dog", "a bad film", "the old city", "john said no", "a red book"]


@pytest.fixture(scope="module")
def run(tiny_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> LoadedRun:
    folder = tmp_path_factory.mktemp("stream")
    rows = "text,label\nthe good dog,good\nthe bad dog,bad\n"
    for split in ("train", "validation"):
        (folder / f"{split}.csv").write_text(rows)
    (folder / "moods.yaml").write_text("{kind: sequence_classification, format: csv}")
    settings = {
        "base": str(tiny_folder("bert")),
        "task": str(folder / "moods.yaml"),
        "training": {"max_steps": 1},
    }
    return load_run_model(weft.train(settings, out=folder / "run").path, device="cpu")


def test_chunks_change_nothing_but_when_answers_come(run: LoadedRun) -> None:
    lines = [f'"{text}"\n' for text in TEXTS]
    found = list(answers_to_lines(run, lines, chunk=2))
    expected = weft.predict(run, TEXTS)
    assert [row["id"] for row in found] == ["0", "1", "2", "3", "4"]
    assert [row["label"] for row in found] == [row["label"] for row in expected]
    for a, b in zip(found, expected, strict=True):
        # Rows beside it and padding change the order of sums in single precision.
        assert a["probabilities"] == pytest.approx(b["probabilities"], rel=1e-5)


def test_a_chunk_is_answered_before_the_next_is_read(run: LoadedRun) -> None:
    read: list[int] = []

    def lines() -> Iterator[str]:
        for number, text in enumerate(TEXTS):
            read.append(number)
            yield f'"{text}"\n'

    answers = answers_to_lines(run, lines(), chunk=2)
    next(answers)
    assert read == [0, 1]


def test_a_wrong_line_stops_its_own_chunk_alone(run: LoadedRun) -> None:
    lines = ['"good"\n', "\n", '"bad"\n', '"good"\n', '{"label": "good"}\n']
    answers = answers_to_lines(run, lines, chunk=2)
    assert [next(answers)["id"], next(answers)["id"]] == ["0", "1"]
    with pytest.raises(ValueError, match=r"^line 5: text is missing"):
        next(answers)


def test_settings_left_out_ask_for_no_generation() -> None:
    assert generation_of({"sample": None, "top_k": None}) is None
    drawn = generation_of({"sample": True, "top_k": None})
    assert drawn is not None
    assert drawn.sample
    with pytest.raises(ValueError, match="top_k"):
        generation_of({"top_k": -1})
