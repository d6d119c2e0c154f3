"""Run folders that version 0.1.0 wrote, before files moved into rooms, load, answer, go on and can be mixed.

tests/last_version holds them as that version left them, on a random BERT of two layers; @HERE@ stands for the folder:
base, tasks, a LoRA tagger, a VeRA classifier, an early-pass mixture of both, the tagger's training stopped after step 4
of 6, and in answers.json what that version predicted.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import weft
from weft.base.loading import load_base
from weft.model.model import Model
from weft.runs import RunFolder
from weft.storage.experts import load_expert, load_full
from weft.training.settings import completed, mix_config

STORED = Path(__file__).parents[1] / "last_version"


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """The folders as a user has them, with their paths."""
    folder = tmp_path / "there"
    shutil.copytree(STORED, folder)
    for path in folder.rglob("*"):
        if path.suffix in (".json", ".yaml"):
            text = path.read_text(encoding="utf-8")
            path.write_text(text.replace("@HERE@", str(folder)), encoding="utf-8")
    return folder


def assert_alike(found: Any, expected: Any) -> None:
    """Equal, numbers to what rounding in another batch leaves of double precision written to six places."""
    if isinstance(expected, dict):
        assert found.keys() >= expected.keys()
        for key, value in expected.items():
            assert_alike(found[key], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_alike(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-5)
    else:
        assert found == expected


def test_they_answer_as_they_did(there: Path) -> None:
    said = json.loads((there / "answers.json").read_text(encoding="utf-8"))
    for name, expected in said["answers"].items():
        run, _, task = name.partition("/")
        found = weft.predict(there / run, said["texts"], task=task or None)
        assert_alike(json.loads(json.dumps(found)), expected)


@pytest.mark.parametrize("name", ["tags", "topic", "mixture"])
def test_they_score_as_they_did(there: Path, name: str) -> None:
    found = weft.evaluate(there / name)
    results = found if isinstance(found, list) else [found]
    for part, result in zip(RunFolder.open(there / name).parts(), results, strict=True):
        written = {row["name"]: row["value"] for row in part.metrics}
        assert {name: value.value for name, value in result.scores.items()} == {
            name: pytest.approx(written[name], rel=1e-6) for name in result.scores
        }


def test_a_stopped_training_goes_on_to_the_end_of_the_whole_one(there: Path) -> None:
    """To rounding, not to the bit: another processor sums in another order, and these were written on one of then.

    That one machine resumes to the same bits is shown where both sides are trained, in tests/training.
    """
    resumed = weft.train(resume=there / "interrupted")
    expected = load_file(there / "tags" / "expert" / "adapter_model.safetensors")
    found = load_file(resumed.expert / "adapter_model.safetensors")
    assert found.keys() == expected.keys()
    assert {value.dtype for value in found.values()} == {torch.float64}
    for key, value in found.items():
        torch.testing.assert_close(value, expected[key], rtol=1e-12, atol=1e-14)
    assert_alike(resumed.metrics, RunFolder.open(there / "tags").metrics)


def test_they_are_mixed_exported_and_imported(there: Path) -> None:
    run = mix_config([there / "tags", there / "topic"], "uniform", ["training.max_steps=1"])
    assert [task.label for task in completed(run).tasks] == ["tags", "topic"]
    assert weft.train(run, out=there / "again").mixture.is_dir()
    weft.export(there / "tags", there / "out", to="merged")
    assert (there / "out" / "model.safetensors").is_file()


def test_what_its_cards_say_to_import_is_there() -> None:
    found: dict[str, Any] = {}
    exec(
        "from weft.base import load_base\nfrom weft.model import Model\n"
        "from weft.storage import load_expert, load_full\n",
        found,
    )
    assert found["load_base"] is load_base
    assert found["Model"] is Model
    assert (found["load_expert"], found["load_full"]) == (load_expert, load_full)
    with pytest.raises(ImportError):
        exec("from weft.storage import nothing")
