"""What `weft import` finds out by itself: the base, the task, and a folder on the hub."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from weft.data.reading import find_spec
from weft.storage.card import CARD, read_card
from weft.storage.experts import save_expert
from weft.storage.exporting import export
from weft.storage.importing import import_expert
from weft.storage.loading import load_run_model
from weft.tasks.contract import TaskSpec

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


def answer(lab: Any, run: Path) -> torch.Tensor:
    loaded = load_run_model(run, device="cpu")
    return lab.answer(loaded.model.base, loaded.model.expert(loaded.name), loaded.model)


@pytest.fixture
def own(lab: Any, tmp_path: Path) -> Callable[..., tuple[Any, Path]]:
    """A function that writes an expert of weft, and returns it and where."""

    def write(kind: str = "token_classification", **recipe: Any) -> tuple[Any, Path]:
        made = lab.make("bert", kind, **recipe)
        save_expert(made.expert, made.card, made.base, tmp_path / "mine")
        return made, tmp_path / "mine"

    return write


@pytest.mark.parametrize(
    "recipe",
    [
        {},
        {"name": "dora"},
        {"name": "vera", "rank": 5, "alpha": None},
        {"train_also": ["norms"]},
        {"name": "head"},
    ],
)
def test_weft_s_own_folder_needs_neither_base_nor_task(
    lab: Any, own: Callable[..., tuple[Any, Path]], tmp_path: Path, recipe: dict[str, Any]
) -> None:
    made, folder = own(**recipe)
    out = import_expert(folder, tmp_path / "run")
    assert torch.equal(answer(lab, out), lab.answer(made.base, made.expert))
    loaded = load_run_model(out, device="cpu")
    assert loaded.run.recipe.name == made.recipe.name
    assert loaded.run.base == str(lab.tiny_folder("bert"))
    assert loaded.card.labels == made.card.labels
    assert loaded.card.metrics == made.card.metrics
    assert loaded.run.task is not None
    assert loaded.run.task.name == str(tmp_path / "run" / "mine.yaml")
    # The run folder is whole: it goes out and comes in again.
    if recipe.get("name") != "head":
        export(out, tmp_path / "out", "peft")
        again = import_expert(tmp_path / "out", tmp_path / "again")
        assert torch.equal(answer(lab, again), answer(lab, out))


def test_a_registered_task_is_named_and_not_written(
    lab: Any, own: Callable[..., tuple[Any, Path]], tmp_path: Path
) -> None:
    made, _ = own(labels=tuple(f"l{n}" for n in range(13)))
    spec = find_spec("wnut17").model_copy(update={"labels": list(made.card.labels)})
    card = replace(made.card, task=spec.model_dump(mode="json"))
    save_expert(made.expert, card, made.base, tmp_path / "named")
    out = import_expert(tmp_path / "named", tmp_path / "run")
    assert sorted(path.name for path in out.iterdir()) == ["expert", "run.yaml"]
    loaded = load_run_model(out, device="cpu")
    assert loaded.run.task is not None
    assert loaded.run.task.name == "wnut17"
    assert TaskSpec(**loaded.card.task) == spec


@pytest.fixture
def theirs(lab: Any, tmp_path: Path) -> Path:
    """A folder of PEFT."""
    model = lab.task_class(lab.tiny_folder("bert"), "sequence_classification", 2)
    opened = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", target_modules=["query"]))
    lab.shake(value for value in opened.parameters() if value.requires_grad)
    opened.save_pretrained(tmp_path / "theirs")
    (tmp_path / "t.yaml").write_text("kind: sequence_classification\nlabels: ['no', 'yes']\n")
    return tmp_path / "theirs"


def test_the_base_of_a_peft_folder_is_the_one_it_names(
    lab: Any, theirs: Path, tmp_path: Path
) -> None:
    task, base = str(tmp_path / "t.yaml"), str(lab.tiny_folder("bert"))
    one = import_expert(theirs, tmp_path / "one", task=task)
    two = import_expert(theirs, tmp_path / "two", task=task, base=base)
    assert torch.equal(answer(lab, one), answer(lab, two))
    assert load_run_model(one, device="cpu").run.base == base


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (None, "does not say which base it is for; name it .--base."),
        (7, "base_model_name_or_path: .*valid string|does not say which base"),
        (
            "/nowhere/base",
            "says its base is /nowhere/base: .*no such folder; name another .--base.",
        ),
    ],
)
def test_a_base_that_is_not_said_or_not_there_is_asked_for(
    theirs: Path, tmp_path: Path, said: Any, message: str
) -> None:
    path = theirs / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": said}))
    with pytest.raises(ValueError, match=message):
        import_expert(theirs, tmp_path / "run", task=str(tmp_path / "t.yaml"))
    assert not (tmp_path / "run").exists()


def test_a_task_that_is_said_nowhere_is_asked_for(theirs: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no weft.json that says its task; name one"):
        import_expert(theirs, tmp_path / "run")


@pytest.mark.parametrize("name", ["../out", "a/b", "", "x\n", "." * 3])
def test_a_card_names_no_file_elsewhere(
    own: Callable[..., tuple[Any, Path]], tmp_path: Path, name: str
) -> None:
    _, folder = own()
    card = json.loads((folder / CARD).read_text())
    card["task"]["name"] = name
    (folder / CARD).write_text(json.dumps(card))
    with pytest.raises(ValueError, match=r"weft.json: a task cannot be called"):
        import_expert(folder, tmp_path / "run")


def cached(cache: Path, folder: Path, name: str) -> None:
    """Put a folder into a cache of the hub as its library lays it out, with links to blobs."""
    place = cache / "hub" / f"models--{name.replace('/', '--')}"
    snapshot = place / "snapshots" / ("a" * 40)
    for made in (snapshot, place / "blobs", place / "refs"):
        made.mkdir(parents=True)
    (place / "refs" / "main").write_text("a" * 40)
    for number, path in enumerate(sorted(folder.iterdir())):
        shutil.copy(path, place / "blobs" / str(number))
        (snapshot / path.name).symlink_to(Path("../../blobs") / str(number))


IMPORTING = """
import sys
from weft.storage.importing import import_expert
import_expert("someone/tagger", "one")
import_expert("someone/classifier", "two", task="t.yaml")
try:
    import_expert("someone/nothing", "three")
except ValueError as error:
    print(error)
"""


def test_a_hub_id_is_imported_from_the_cache(
    lab: Any, own: Callable[..., tuple[Any, Path]], theirs: Path, tmp_path: Path
) -> None:
    made, folder = own()
    cached(tmp_path / "hf", folder, "someone/tagger")
    cached(tmp_path / "hf", theirs, "someone/classifier")
    # A process of its own: the library reads where its cache is when it is imported.
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IMPORTING],
        cwd=tmp_path,
        env=os.environ | {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "someone/nothing is no folder here and cannot be had from the hub" in done.stdout
    assert torch.equal(answer(lab, tmp_path / "one"), lab.answer(made.base, made.expert))
    three = import_expert(theirs, tmp_path / "three", task=str(tmp_path / "t.yaml"))
    assert torch.equal(answer(lab, tmp_path / "two"), answer(lab, three))


def test_what_is_neither_a_folder_nor_an_id_is_refused(tmp_path: Path) -> None:
    for name in ("no such place", "/nowhere", "./nowhere"):
        with pytest.raises(ValueError, match="no such folder, and no id of the hub"):
            import_expert(name, tmp_path / "four")


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "README.md", "tokenizer.json"])
def test_links_that_leave_the_folder_are_neither_imported_nor_exported(
    own: Callable[..., tuple[Any, Path]], tmp_path: Path, name: str
) -> None:
    _, folder = own()
    run = import_expert(folder, tmp_path / "run")
    secret = tmp_path / "secret"
    for place in (folder, run / "expert"):
        path = place / name
        if path.exists():
            shutil.copy(path, secret)
            path.unlink()
        else:
            secret.write_text("mine")
        path.symlink_to(secret)
    with pytest.raises(ValueError, match=f"{name}: a link to a file outside"):
        import_expert(folder, tmp_path / "again")
    with pytest.raises(ValueError, match=f"{name}: a link to a file outside"):
        export(run, tmp_path / "out", "peft")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(ValueError, match=f"{name}: is a device, pipe or socket"):
        import_expert(folder, tmp_path / "again")
    assert not (tmp_path / "again").exists()
    assert not (tmp_path / "out").exists()


def test_the_card_of_what_was_imported_is_the_folders_own(
    own: Callable[..., tuple[Any, Path]], tmp_path: Path
) -> None:
    _, folder = own()
    out = import_expert(folder, tmp_path / "run")
    assert read_card(out / "expert") == read_card(folder)
