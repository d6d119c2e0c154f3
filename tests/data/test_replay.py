"""Rows of another set beside a task's own, in an exact share."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import weft
from weft.base.loading import load_base
from weft.config import ReplaySettings, load_run
from weft.data.replay import learnt, mixed
from weft.data.rows import encode, load


def record(name: str, size: int) -> dict[str, Any]:
    return {"id": name, "input_ids": [[1] * (size + 1)], "labels": [[-100, *[1] * size]]}


@given(
    own=st.lists(st.integers(1, 40), min_size=1, max_size=30),
    other=st.lists(st.integers(1, 40), min_size=1, max_size=30),
    share=st.floats(0.01, 0.9),
    seed=st.integers(0, 5),
)
def test_no_whole_row_more_or_less_would_be_nearer(
    own: list[int], other: list[int], share: float, seed: int
) -> None:
    records = [record(f"a{at}", size) for at, size in enumerate(own)]
    others = [record(f"b{at}", size) for at, size in enumerate(other)]
    wanted = share / (1 - share) * sum(own)
    if sum(other) < wanted:
        with pytest.raises(ValueError, match=r"task t: replay: a share of .* give more text"):
            mixed(records, others, share, seed=seed, name="t")
        return
    found = mixed(records, others, share, seed=seed, name="t")
    assert found[: len(own)] == records
    added = found[len(own) :]
    names = [row["id"] for row in added]
    assert len(set(names)) == len(names)
    off = sum(map(learnt, added)) - wanted
    left = [size for at, size in enumerate(other) if f"b{at}" not in names]
    assert abs(off) <= min([abs(off + size) for size in left], default=abs(off)) + 1e-9
    assert abs(off) <= max(other) / 2 + 1e-9 or off < 0
    assert found == mixed(records, others, share, seed=seed, name="t")


def test_rows_of_one_length_give_the_published_share_exactly() -> None:
    own, others = (
        [record(f"a{at}", 10) for at in range(83)],
        [record(f"b{at}", 10) for at in range(60)],
    )
    found = mixed(own, others, 0.17, seed=1, name="t")
    replayed = sum(learnt(row) for row in found if row["id"].startswith("b"))
    assert replayed / sum(map(learnt, found)) == 0.17
    drawn = {row["id"] for row in found[83:]}
    assert len(drawn) == 17
    assert drawn != {row["id"] for row in mixed(own, others, 0.17, seed=2, name="t")[83:]}


def test_where_masks_are_drawn_anew_all_tokens_count() -> None:
    own = [{"id": f"a{at}", "input_ids": [[1] * 5], "labels": [[-100] * 5]} for at in range(9)]
    others = [{"id": f"b{at}", "input_ids": [[1] * 5], "labels": [[-100] * 5]} for at in range(9)]
    assert len(mixed(own, others, 0.25, seed=0, name="t")) == 12


@pytest.fixture
def settings(tiny_folder: Callable[[str], Path], tmp_path: Path) -> dict[str, Any]:
    """A run whose own rows and replayed rows lie in files."""
    for name, word, count in (("own", "city", 20), ("old", "river", 30)):
        folder = tmp_path / name
        folder.mkdir()
        lines = [json.dumps({"text": f"the {word} of {word} {at}"}) for at in range(count)]
        (folder / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
        (folder / "validation.jsonl").write_text("\n".join(lines[:3]), encoding="utf-8")
        (folder / f"{name}.yaml").write_text("kind: causal_lm\n", encoding="utf-8")
    replay = {"name": str(tmp_path / "old" / "old.yaml"), "share": 0.25}
    return {
        "base": str(tiny_folder("llama")),
        "task": {"name": str(tmp_path / "own" / "own.yaml"), "replay": replay},
        "recipe": {"name": "lora", "rank": 2},
        "training": {"epochs": 1, "batch_size": 4},
        "device": "cpu",
    }


def test_a_run_learns_its_share_and_is_scored_on_its_own_rows(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    run = load_run(settings, [])
    assert run.task is not None
    base = load_base(run.base)
    rows = encode(run, load(run, run.task), base)
    others = [row for row in rows.train if row["id"].startswith("replay/")]
    assert len(rows.train) - len(others) == 20
    share = sum(map(learnt, others)) / sum(map(learnt, rows.train))
    assert abs(share - 0.25) < max(map(learnt, others)) / 2 / sum(map(learnt, rows.train))
    assert not any(row["id"].startswith("replay/") for row in rows.final[1])
    folder = weft.train(settings, out=tmp_path / "run")
    assert folder.run.task is not None
    assert folder.run.task.replay is not None
    assert folder.run.task.replay.share == 0.25
    assert Path(folder.run.task.replay.name).is_absolute()


@pytest.mark.parametrize("share", [0.0, 1.0, 1.7, -0.1, float("nan")])
def test_a_share_outside_0_and_1_is_refused(settings: dict[str, Any], share: float) -> None:
    settings["task"]["replay"]["share"] = share
    with pytest.raises(ValueError, match=r"task.*replay\.share"):
        load_run(settings, [])
    with pytest.raises(ValidationError):
        ReplaySettings(name="x", share=share)


def test_replay_is_for_language_models(settings: dict[str, Any], tmp_path: Path) -> None:
    settings["task"]["replay"]["name"] = "squad"
    settings["task"]["replay"]["data"] = str(tmp_path)
    with pytest.raises(ValueError):  # noqa: PT011 - no file of the set is there
        weft.train(settings, out=tmp_path / "run")
    other = {"name": "topic", "spec": {"kind": "sequence_classification", "labels": ["a", "b"]}}
    own = settings | {"task": {**other, "replay": {"name": str(tmp_path / "old" / "old.yaml")}}}
    rows = [{"text": "the city", "label": "a"}]
    with pytest.raises(ValueError, match="replay mixes texts of a language model"):
        weft.train(own, data={"train": rows, "validation": rows}, out=tmp_path / "run")
