"""A small expert for each user beside the population's: trained apart, kept in one file, read by name."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import weft
from weft.runs import RunFolder
from weft.storage.personal.users import Users
from weft.training.loop import Diverged, Event, Interrupted, train

WORDS = ("good", "bad", "film", "book", "cat", "dog", "house", "city")
READERS = ("ann", "bob", "eve")


def rows_of(*readers: str, start: int = 0, count: int = 8) -> list[dict[str, Any]]:
    """Words that each reader knows or not: ann all of them, bob none, eve every second."""
    knows = {"ann": lambda at: 1, "bob": lambda at: 0}
    return [
        {
            "id": f"{reader}-{start + at}",
            "text": f"the {WORDS[(start + at) % 8]} of {WORDS[(3 * at + start) % 8]}",
            "label": knows.get(reader, lambda at: at % 2)(at),
            "reader": reader,
        }
        for at in range(count)
        for reader in readers
    ]


@pytest.fixture
def run_of_readers(tiny_folder: Callable[[str], Path]) -> Callable[..., dict[str, Any]]:
    """Settings of a personal run, with its columns; keywords change settings."""

    def settings(columns: dict[str, str] | None = None, **values: Any) -> dict[str, Any]:
        spec = {
            "kind": "sequence_classification",
            "labels": ["0", "1"],
            "max_length": 32,
            "columns": {"user": "reader"} if columns is None else columns,
        }
        return {
            "base": str(tiny_folder("bert")),
            "task": {"name": "words", "spec": spec},
            "experts": "shared+personal",
            "recipe": {"name": "lora", "rank": 2},
            "training": {"epochs": 1, "batch_size": 8, "learning_rate": 1e-2},
            "personal": {"epochs": 2, "batch_size": 4, "learning_rate": 2e-2},
            "device": "cpu",
            **values,
        }

    return settings


def data_of(*readers: str) -> dict[str, Any]:
    return {"train": rows_of(*readers), "validation": rows_of(*readers, start=20, count=4)}


Settings = Callable[..., dict[str, Any]]


def test_users_lie_in_one_file_with_an_index_and_are_scored_by_their_own(
    run_of_readers: Settings, tmp_path: Path
) -> None:
    folder = train(run_of_readers(), out=tmp_path / "run", data=data_of(*READERS))
    assert folder.is_complete
    users = Users(folder.path)
    assert users.names == sorted(READERS)
    assert sorted(path.name for path in (folder.path / "personal").iterdir()) == [
        "index.json",
        "users.safetensors",
    ]
    assert not folder.checkpoints.exists()
    said = folder.training["users"]  # type: ignore[index]
    assert (said["count"], said["rows"]) == (3, 24)
    assert said["load_ms"] < 50
    names = {row["name"] for row in folder.metrics}
    assert {
        "f1_macro",
        "users_f1_macro",
        "population_f1_macro",
        "population_users_f1_macro",
    } <= names
    again = weft.evaluate(folder.path, data=data_of(*READERS), device="cpu", save=False)
    assert not isinstance(again, list)
    written = {row["name"]: row["value"] for row in folder.metrics}
    assert {name: value.value for name, value in again.scores.items()} == {
        name: written[name] for name in again.scores
    }
    # The mean over users is not the score of all rows together.
    assert again.scores["f1_macro"] != again.scores["users_f1_macro"]


def bits(folder: Path) -> dict[str, bytes]:
    users = Users(folder)
    return {user: users.row(user).numpy().tobytes() for user in users}


def again(folder: RunFolder, data: Any) -> RunFolder:
    """The run with its users trained anew, on the population that is there."""
    shutil.rmtree(folder.path / "personal")
    kept = {name: value for name, value in (folder.training or {}).items() if name != "users"}
    folder.write_training(kept)
    return train(resume=folder.path, data=data)


def test_training_a_user_leaves_all_others_as_they_are_to_the_bit(
    run_of_readers: Settings, tmp_path: Path
) -> None:
    rows = tmp_path / "rows"
    rows.mkdir()
    for split, own in data_of(*READERS).items():
        (rows / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in own))
    folder = train(run_of_readers(data=str(rows)), out=tmp_path / "run")
    before, said = (
        bits(folder.path),
        {r: weft.predict(folder.path, ["the cat"], user=r) for r in READERS},
    )
    changed = [
        {**row, "label": 1 - row["label"]} if row["reader"] == "eve" else row
        for row in rows_of(*READERS)
    ]
    (rows / "train.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in changed))
    again(folder, None)
    after = bits(folder.path)
    assert after["eve"] != before["eve"]
    assert {user: after[user] for user in ("ann", "bob")} == {
        user: before[user] for user in ("ann", "bob")
    }
    for reader in ("ann", "bob"):
        assert weft.predict(folder.path, ["the cat"], user=reader) == said[reader]
    assert weft.predict(folder.path, ["the cat"], user="eve") != said["eve"]


def test_who_else_there_is_and_their_order_change_no_bit(
    run_of_readers: Settings, tmp_path: Path
) -> None:
    values = run_of_readers(experts="personal")
    many = train(values, out=tmp_path / "many", data=data_of(*READERS))
    few = train(values, out=tmp_path / "few", data=data_of("eve", "bob"))
    assert {user: bits(many.path)[user] for user in ("bob", "eve")} == bits(few.path)
    assert bits(many.path)["bob"] != bits(many.path)["eve"]


def test_an_interrupted_training_goes_on_at_the_user_where_it_stopped(
    run_of_readers: Settings, tmp_path: Path
) -> None:
    data = data_of(*READERS)
    whole = train(run_of_readers(), out=tmp_path / "whole", data=data)
    seen: list[Event] = []

    def stop(event: Event) -> None:
        seen.append(event)
        if "users" in event.loss and event.step == 1:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match=r"stopped after user 1 of 3; go on with --resume"):
        train(run_of_readers(), out=tmp_path / "run", data=data, report=stop)
    folder = RunFolder(tmp_path / "run")
    assert not folder.is_complete
    assert not (folder.path / "personal").exists()
    drafts = list((folder.checkpoints / "personal").iterdir())
    assert len(drafts) == 1
    steps: list[int] = []
    train(resume=folder.path, data=data, report=lambda event: steps.append(event.step))
    # The first user is not trained anew.
    assert steps == [2, 3]
    assert folder.is_complete
    assert bits(folder.path) == bits(whole.path)
    assert train(resume=folder.path, data=data).path == folder.path


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"columns": {}},
            r"names no column that says whose row each is: say it in the task's file, `columns: \{user",
        ),
        ({"columns": {"user": "writer"}}, r"no column named 'writer'"),
        ({"recipe": {"name": "dora"}}, r"recipe dora has none; choose a recipe with exact factors"),
        ({"training": {"evaluate_on": "holdout"}}, "users on all their training rows"),
        ({"personal": {"apart": ["user"]}}, r"user 'ann' is in two splits, train \(row ann-0\)"),
        ({"personal": {"apart": ["page"]}}, r"personal.apart: no column named 'page'"),
        ({"personal": {"rank": 99}}, r"personal.rank 99 is larger than"),
        ({"personal": {"least_rows": 99}}, r"have 8 rows at most, so nobody would get an expert"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_do(
    run_of_readers: Settings, tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        train(run_of_readers(**changed), out=tmp_path / "run", data=data_of(*READERS))


@pytest.mark.parametrize(
    ("user", "said"), [("", "names nobody; say whose row"), (None, "whose row")]
)
def test_a_row_of_nobody_is_refused(
    run_of_readers: Settings, tmp_path: Path, user: str | None, said: str
) -> None:
    data = data_of(*READERS)
    data["train"][4]["reader"] = user
    with pytest.raises(ValueError, match=said):
        train(run_of_readers(), out=tmp_path / "run", data=data)
    assert not (tmp_path / "run").exists()


def test_users_who_came_later_stand_on_a_population_that_is_there(
    run_of_readers: Settings, tmp_path: Path
) -> None:
    first = train(run_of_readers(experts="shared"), out=tmp_path / "first", data=data_of(*READERS))
    kept = (first.expert / "adapter_model.safetensors").read_bytes()
    later = data_of("zoe")
    settings = run_of_readers(personal={"epochs": 2, "population": str(first.path)})
    folder = train(settings, out=tmp_path / "later", data=later)
    assert (folder.expert / "adapter_model.safetensors").read_bytes() == kept
    assert Users(folder.path).names == ["zoe"]
    names = {row["name"] for row in folder.metrics}
    assert {
        "f1_macro",
        "users_f1_macro",
        "population_f1_macro",
        "population_users_f1_macro",
    } <= names
    other = run_of_readers(
        personal={"population": str(first.path)}, recipe={"name": "lora", "rank": 2}
    )
    other["task"]["spec"]["labels"] = ["0", "1", "2"]
    with pytest.raises(ValueError, match=r"has another classes, \('0', '1'\)"):
        train(other, out=tmp_path / "other", data=later)


def test_a_user_whose_training_diverges_is_named(run_of_readers: Settings, tmp_path: Path) -> None:
    personal = {"epochs": 4, "batch_size": 2, "learning_rate": 1e30}
    with pytest.raises(Diverged, match=r"user \w+ has .* lower personal.learning_rate than 1e\+30"):
        train(run_of_readers(personal=personal), out=tmp_path / "words", data=data_of(*READERS))
