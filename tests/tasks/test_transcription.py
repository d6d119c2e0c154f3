"""Rows of recordings and pictures as records, at every rate."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from transformers import PreTrainedTokenizerFast

from tests.tiny_sounds import RATES, spec_of, write_sounds
from website.blocks import blocks_of
from weft.config import Run, TaskSettings
from weft.data.reading import load_task
from weft.methods.recipes import resolve
from weft.tasks.contract import TaskSpec
from weft.tasks.kinds.transcription import Transcription

FOUR = "llama", "gpt2", "roberta", "bert"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sounds(tmp_path_factory.mktemp("sounds"))


def task_of(name: str, **options: Any) -> Transcription:
    return Transcription(TaskSpec.model_validate({"name": name, **spec_of(name, **options)}))


def row(folder: Path, **values: Any) -> dict[str, Any]:
    files = {"audio": str(folder / "train2.wav"), "image": str(folder / "train2.npy")}
    return {"id": "a", **files, "text": "good film", **values}


@pytest.mark.parametrize("name", FOUR)
def test_a_record_is_frame_prefix_and_prompt(
    name: str, folder: Path, tokenizer_of: Callable[[str], PreTrainedTokenizerFast]
) -> None:
    tokenizer = tokenizer_of(name)
    inputs = ["image", "text", "audio"]
    task = task_of("both", inputs=inputs)
    example = task.check(row(folder, prompt="say it"), "row")
    record = task.encode(example, tokenizer)
    steps = {one["name"]: one["steps"] for one in example["given"]}
    prompt = tokenizer.encode("say it", add_special_tokens=False)
    framed = tokenizer.encode("x")
    before = framed[: framed.index(tokenizer.encode("x", add_special_tokens=False)[0])]
    image, audio = -(-steps["image"] // 1), -(-steps["audio"] // 2)
    assert record["input_ids"] == [[*before, *[0] * image, *prompt, *[0] * audio]]
    starts = {one["name"]: one["start"] for one in record["given"]}
    assert starts == {"image": len(before), "audio": len(before) + image + len(prompt)}
    text = tokenizer.encode("good film", add_special_tokens=False)
    end = framed[len(before) + 1 :] or [tokenizer.eos_token_id]
    assert record["labels"] == [[*text, *end]]
    whole = task.sample(record, np.random.default_rng(0))
    assert whole["input_ids"][0] == record["input_ids"][0] + record["labels"][0]
    assert whole["labels"][0] == [-100] * len(record["input_ids"][0]) + record["labels"][0]


def test_a_step_s_record_is_the_one_of_its_rates(
    folder: Path, tokenizer_of: Callable[[str], PreTrainedTokenizerFast]
) -> None:
    tokenizer, task = tokenizer_of("llama"), task_of("both", inputs=["audio", "text", "image"])
    example = task.check(row(folder, prompt="say"), "row")
    record = task.encode(example, tokenizer)
    seen = set()
    for step in range(40):
        own = task.at_step(record, seed=1, step=step)
        rates = {one["name"]: one["rate"] for one in own["given"]}
        assert own == task.at(rates).encode(example, tokenizer)
        seen.add(tuple(rates.values()))
    assert seen == {(a, i) for a in RATES["audio"] for i in RATES["image"]}


def test_tasks_draw_the_same_rate_of_an_input(
    folder: Path, tokenizer_of: Callable[[str], PreTrainedTokenizerFast]
) -> None:
    drawn: dict[str, list[dict[str, int]]] = {}
    for name in ("hear", "see", "both"):
        task = task_of(name)
        record = task.encode(task.check(row(folder), "row"), tokenizer_of("llama"))
        steps = [task.at_step(record, seed=5, step=step) for step in range(20)]
        drawn[name] = [{one["name"]: one["rate"] for one in own["given"]} for own in steps]
    for hear, see, both in zip(drawn["hear"], drawn["see"], drawn["both"], strict=True):
        assert both == {**hear, **see}


def test_files_are_looked_for_beside_the_rows(folder: Path) -> None:
    settings = TaskSettings(name="both", spec=spec_of("both"), data=str(folder))
    loaded = load_task(settings, splits=["train"], seed=0)
    first = loaded.splits["train"][0]
    assert first["audio"] == str(folder / "train0.wav")
    assert [one["name"] for one in first["given"]] == ["audio", "image"]


def test_a_row_without_its_file_is_named_before_anything_else(folder: Path, tmp_path: Path) -> None:
    broken = write_sounds(tmp_path / "broken", train=3, validation=2)
    (broken / "train1.wav").write_bytes(b"RIFF")
    settings = TaskSettings(name="hear", spec=spec_of("hear"), data=str(broken))
    with pytest.raises(ValueError, match=r"train\.jsonl:2: .*train1\.wav cannot be read as WAV"):
        load_task(settings, splits=["train"], seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": ["audio", "smell"]}, "no input named 'smell'"),
        ({"inputs": ["audio", "audio"]}, "each once"),
        ({"inputs": ["text"]}, "for text alone use kind causal_lm"),
        ({"rates": {"audio": [0]}}, "greater than or equal to 1"),
        ({"rates": {"audio": []}}, "at least 1 item"),
        ({"at": {"audio": 3}}, "audio was not trained at rate 3; choose one of 2, 4"),
        ({"at": {"image": 1}}, "no input named 'image'"),
        ({"encoders": {"audio": {"mel": 3}}}, "no setting named 'mel'. Did you mean 'mels'"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task_of("hear", **options)


def test_what_is_too_long_at_its_finest_rate_is_refused(
    folder: Path, tokenizer_of: Callable[[str], PreTrainedTokenizerFast]
) -> None:
    task = task_of("hear", at={"audio": 4})
    example = task.check(row(folder), "row")
    short = Transcription(task.spec.model_copy(update={"max_length": 16}))
    with pytest.raises(ValueError, match=r"row 'a': \d+ tokens at the finest rates, more than"):
        short.encode(example, tokenizer_of("llama"))


def test_word_errors_add_up(folder: Path) -> None:
    task = task_of("hear")
    right = [task.check(row(folder, id=str(at), text=text), "row") for at, text in enumerate(
        ("one two three", "four", "five six")
    )]  # fmt: skip
    said = ["one three", " four ", "five six seven"]
    rows = [
        task.statistics(task.decode(example, {}, text), example)
        for example, text in zip(right, said, strict=True)
    ]
    scores = task.metrics(np.sum(rows, axis=0))
    assert scores["word_error_rate"] == pytest.approx(2 / 6)
    assert scores["exact"] == pytest.approx(1 / 3)


def test_the_settings_of_the_page_are_settings() -> None:
    page = (Path(__file__).parents[2] / "docs/how-to/sound-and-images.md").read_text("utf-8")
    task, run = (
        yaml.safe_load(block.text) for block in blocks_of(page) if block.language == "yaml"
    )
    Transcription(TaskSpec.model_validate({"name": "both", **task}))
    settings = Run.model_validate(run)
    assert [own.loss_weight for own in settings.tasks] == [1.0, 1.5, 1.0]
    resolve(settings.recipe)
