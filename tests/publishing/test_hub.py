"""A run goes to a hub as it is exported, with a card that the hub can read; what goes wrong is a sentence."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from typer.testing import CliRunner

import weft
from tests.publishing.hub_server import Hub, hub
from weft.cli import app
from weft.publishing.hub import check_card
from weft.reporting.cards import MARK
from weft.runs import RunFolder
from weft.storage.exporting import export

PROGRAM = """
import json, os, sys
import weft

os.environ.pop("HF_TOKEN", None)
run, said = sys.argv[1], {}

def tried(name, *arguments, **settings):
    try:
        said[name] = weft.push(run, *arguments, **settings)
    except ValueError as error:
        said[name] = f"refused: {error}"

tried("nobody", "me/mine")
good = {"token": "hf_good"}
tried("first", "me/mine", private=True, licence="apache-2.0", **good)
tried("again", "me/mine", message="Once more", revision="dev", **good)
tried("merged", "me/whole", to="merged", create_pr=True, **good)
tried("stranger", "me/other", token="hf_unknown")
tried("reader", "me/other", token="hf_reader")
os.environ["HF_TOKEN"] = "hf_good"
tried("environment", "me/third")
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Hub]:
    with hub() as found:
        yield found


@pytest.fixture(scope="module")
def trained(
    tiny_folder: Callable[[str], Path], tasks_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> RunFolder:
    settings = {
        "base": str(tiny_folder("bert")),
        "task": {"name": str(tasks_folder / "topic" / "topic.yaml")},
        "recipe": {"name": "lora", "rank": 2},
        "training": {"max_steps": 3, "batch_size": 4},
        "device": "cpu",
    }
    return weft.train(settings, out=tmp_path_factory.mktemp("pushed") / "topic")


@pytest.fixture(scope="module")
def said(
    server: Hub, trained: RunFolder, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """What a process says whose hub is the server; the library reads where it is when it is imported."""
    hidden = {"HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HUGGING_FACE_HUB_TOKEN"}
    own = {key: value for key, value in os.environ.items() if key not in hidden}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, str(trained.path)],
        env=own
        | {
            "HF_ENDPOINT": server.address,
            "HF_HOME": str(tmp_path_factory.mktemp("home")),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_push_is_the_export_and_a_card(
    said: dict[str, str], server: Hub, trained: RunFolder, tmp_path: Path
) -> None:
    assert said["first"] == f"{server.address}/me/mine"
    assert server.repos["me/mine"]["visibility"] == "private"
    exported = export(trained.path, tmp_path / "peft", "peft")
    expected = {path.name: path.read_bytes() for path in exported.iterdir()}
    files = dict(server.files["me/mine"])
    card = files.pop("README.md").decode()
    assert files == expected
    data = ModelCard(card, ignore_metadata_errors=False).data
    (score,) = [own for own in data.eval_results if own.metric_type == "accuracy"]
    assert score.metric_value == {row["name"]: row["value"] for row in trained.metrics}["accuracy"]
    # The second push left the licence open; the last one to write it decides.
    assert data.library_name == "peft"
    assert [own["branch"] for own in server.commits][:2] == ["main", "dev"]
    assert server.commits[0]["summary"] == "Upload topic with weft"
    assert server.commits[1]["summary"] == "Once more"
    assert not (trained.expert / "README.md").exists()


def test_a_merged_checkpoint_is_proposed(said: dict[str, str], server: Hub) -> None:
    assert said["merged"] == f"{server.address}/me/whole/discussions/1"
    assert {"config.json", "model.safetensors", "README.md"} <= server.files["me/whole"].keys()
    assert "adapter_config.json" not in server.files["me/whole"]


def test_who_may_not_push_is_told_what_to_do(said: dict[str, str], server: Hub) -> None:
    assert said["nobody"].startswith("refused: me/mine: nobody is logged in to the hub; log in (hf")
    assert "the hub does not take this token: log in again" in said["stranger"]
    assert "the hub says 401" in said["stranger"]
    assert "this token may not write there: make one with write access" in said["reader"]
    assert "me/other" not in server.repos
    assert said["environment"] == f"{server.address}/me/third"


UNREACHED = """
import sys, weft
try:
    weft.push(sys.argv[1], "me/mine", token="hf_good")
except ValueError as error:
    print(error)
"""


def _alone(trained: RunFolder, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", UNREACHED, str(trained.path)],
        env={**os.environ, "HF_HUB_DISABLE_XET": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_a_hub_out_of_reach_is_said_to_be(trained: RunFolder) -> None:
    nobody = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}
    assert "http://127.0.0.1:9 cannot be reached (ConnectError" in _alone(trained, **nobody)
    assert "HF_HUB_OFFLINE is set" in _alone(trained, HF_HUB_OFFLINE="1")


@pytest.mark.parametrize(
    ("repo", "message"),
    [
        ("mine", "'mine': expected OWNER/NAME"),
        ("me/mine/more", "is no name of a repository"),
        ("me/--", "is no name of a repository"),
    ],
)
def test_a_name_is_refused_before_anything(trained: RunFolder, repo: str, message: str) -> None:
    said = CliRunner().invoke(app, ["push", str(trained.path), repo])
    assert said.exit_code == 2
    assert message in said.stderr


def test_the_users_own_card_is_kept_and_checked(
    trained: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    path = trained.expert / "README.md"
    try:
        path.write_text("---\nlicense: mit\n---\n# Mine\n")
        with pytest.raises(ValueError, match="is your own card: write the licence into its front"):
            weft.push(trained.path, "me/mine", licence="mit")
        path.write_text("---\nlicense: [\n---\n# Mine\n")
        with pytest.raises(
            ValueError, match="its card has front matter that the hub does not read"
        ):
            weft.push(trained.path, "me/mine")
        path.write_text(f"---\nlicense: mit\n---\n{MARK}\n# Ours\n")
        with pytest.raises(ValueError, match="HF_HUB_OFFLINE is set"):
            weft.push(trained.path, "me/mine")
    finally:
        path.unlink()


@pytest.mark.parametrize(
    ("front", "message"),
    [
        ("license: 3", "license should be a str, it is 3"),
        ("tags: weft", "tags should be a list, it is 'weft'"),
        ("tags: [1, two]", r"every tag is a text, they are \[1, 'two'\]"),
        ("base_model: /home/me/base", "base_model '/home/me/base' is no id of the hub"),
        ("model-index: [{name: x, results: [{task: {}}]}]", "that the hub does not read"),
        ("- a list", "that the hub does not read"),
    ],
)
def test_a_card_that_the_hub_does_not_read_is_refused_offline(front: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_card(f"---\n{front}\n---\n# x\n", "here")
    check_card("---\nlicense: mit\ntags: [weft]\nbase_model: org/base\n---\n# x\n", "here")


def test_several_tasks_are_pushed_one_by_one(
    run_of: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    folder = weft.train(run_of("topic", "tags", training={"max_steps": 1}), out=tmp_path / "both")
    with pytest.raises(
        ValueError, match=r"trained several tasks; push the run folder of one: .*topic"
    ):
        weft.push(folder.path, "me/mine")
