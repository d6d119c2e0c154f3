"""Encoded splits read back exactly as made; changed or damaged ones are made anew."""

import contextlib
import json
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from weft.data.encoding import cache_folder, encode_examples, fingerprint
from weft.data.reading import find_kind, find_spec
from weft.tasks.contract import Example, Prediction, Record, Task, TaskSpec


class Given(Task):
    """Its records are what its examples hold; counts how often it encodes."""

    columns = ("record",)
    target = None
    metric = "none"

    def __init__(self, spec: TaskSpec, labels: Sequence[str] = ()) -> None:
        super().__init__(spec, labels)
        self.encoded = 0

    @classmethod
    def collect_labels(cls, spec: TaskSpec, examples: Sequence[Example]) -> list[str]:
        return []

    def check(self, example: Example, where: str) -> Example:
        return example

    def encode(self, example: Example, tokenizer: PreTrainedTokenizerFast) -> Record:
        self.encoded += 1
        return {"id": example["id"], **example["record"]}

    def decode(self, example: Example, record: Record, output: np.ndarray) -> Prediction:
        return {}

    def statistics(self, prediction: Prediction, example: Example) -> np.ndarray:
        return np.zeros(1)

    def metrics(self, totals: np.ndarray) -> dict[str, np.ndarray]:
        return {}


def _given(**values: Any) -> Given:
    return Given(TaskSpec(name="given", kind="given", **values))


def _examples(*records: Mapping[str, Any]) -> list[Example]:
    return [{"id": str(number), "record": record} for number, record in enumerate(records)]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return _tokenizer()


def _tokenizer(*more: str) -> PreTrainedTokenizerFast:
    words = ["[UNK]", "[PAD]", "[CLS]", "[SEP]", "a", "dog", "runs", "sits", "it", *more]
    backend = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, "[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )


NUMBERS = st.integers(-(2**63), 2**63 - 1)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "input_ids": st.lists(st.lists(NUMBERS, max_size=4), max_size=3),
    "offsets": st.lists(st.lists(st.lists(NUMBERS, max_size=2), max_size=3), max_size=3),
    "labels": NUMBERS,
    "maybe": st.none() | NUMBERS,
    "gaps": st.lists(st.none() | st.lists(NUMBERS, max_size=2), max_size=3),
    "score": st.floats(allow_nan=False),
    "flags": st.lists(st.booleans(), max_size=3),
    "text": st.text(),
    "words": st.lists(st.text(), max_size=3),
    "span": st.fixed_dictionaries({"start": NUMBERS, "text": st.text()}),
}
RECORDS = st.sets(st.sampled_from(sorted(FIELDS))).flatmap(
    lambda names: st.lists(
        st.fixed_dictionaries({name: FIELDS[name] for name in sorted(names)}),
        min_size=1,
        max_size=6,
    )
)
"""Rows of one kind: the same keys in all of them."""


@settings(deadline=None)  # the disk decides
@given(records=RECORDS)
def test_cached_records_equal_fresh_ones(
    tmp_path_factory: pytest.TempPathFactory,
    tokenizer: PreTrainedTokenizerFast,
    records: list[Record],
) -> None:
    cache = tmp_path_factory.mktemp("cache")
    task, examples = _given(), _examples(*records)
    fresh = encode_examples(task, examples, tokenizer, cache=None)
    made = encode_examples(task, examples, tokenizer, cache=cache)
    read = encode_examples(task, examples, tokenizer, cache=cache)
    assert fresh == made == read
    # Equality alone takes 1, 1.0 and True for the same.
    assert json.dumps(fresh, sort_keys=True) == json.dumps(read, sort_keys=True)
    assert task.encoded == 2 * len(examples)


def test_a_real_kind_reads_back_as_it_encodes(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    spec = find_spec("wnut17").model_copy(update={"max_length": 8, "stride": 1})
    task = find_kind(spec)(spec, ["O", "B-x"])
    words = [["a", "dog"], ["it", "runs", "it", "sits", "a", "dog", "runs", "it", "a", "dog"]]
    examples = [
        {"id": str(n), "tokens": tokens, "tags": ["O"] * len(tokens)}
        for n, tokens in enumerate(words)
    ]
    encode_examples(task, examples, tokenizer, cache=tmp_path)
    read = encode_examples(task, examples, tokenizer, cache=tmp_path)
    assert read == [task.encode(example, tokenizer) for example in examples]


def test_a_file_whose_maker_was_killed_before_its_digest_is_made_anew(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    examples = _examples({"input_ids": [[1, 2]]}, {"input_ids": [[3]]})
    first = encode_examples(_given(), examples, tokenizer, cache=tmp_path)
    (digest,) = tmp_path.glob("*.sha256")
    digest.unlink()
    task = _given()
    assert encode_examples(task, examples, tokenizer, cache=tmp_path) == first
    assert task.encoded == 2
    assert digest.is_file()


def test_who_comes_while_another_makes_a_file_waits_and_reads_it(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    examples, task = _examples({"input_ids": [[1, 2]]}), _given()
    first = encode_examples(_given(), examples, tokenizer, cache=tmp_path / "made")
    lock = tmp_path / "cache" / f"{fingerprint(task, examples, tokenizer)}.lock"
    lock.parent.mkdir()
    found: list[list[Record]] = []
    reader = threading.Thread(
        target=lambda: found.append(
            encode_examples(task, examples, tokenizer, cache=tmp_path / "cache")
        )
    )
    with FileLock(lock):
        reader.start()
        time.sleep(0.5)
        assert found == []
        for file in kept_in(tmp_path / "made"):
            shutil.copy(file, tmp_path / "cache")
    reader.join()
    assert found == [first]
    assert task.encoded == 0


def kept_in(folder: Path) -> list[Path]:
    """What a cache holds, beside the locks of its files."""
    return [file for file in folder.iterdir() if file.suffix != ".lock"]


def test_progress_ends_with_all_done_both_times(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    seen: list[tuple[int, int]] = []
    examples = _examples(*[{"labels": 0}] * 250)
    for _ in range(2):
        encode_examples(
            _given(), examples, tokenizer, cache=tmp_path, progress=lambda *at: seen.append(at)
        )
    assert seen == [(100, 250), (200, 250), (250, 250), (250, 250)]


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_damaged_file_is_made_anew(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, damage: str
) -> None:
    examples = _examples({"labels": 3}, {"labels": 4})
    fresh = encode_examples(_given(), examples, tokenizer, cache=tmp_path)
    (path,) = tmp_path.glob("*.arrow")
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    path.write_bytes({"cut": whole[:-5], "flip": bytes(flipped), "empty": b""}[damage])
    task = _given()
    assert encode_examples(task, examples, tokenizer, cache=tmp_path) == fresh
    assert task.encoded == len(examples)
    assert [file.read_bytes() for file in tmp_path.glob("*.arrow")] == [whole]
    assert encode_examples(task, examples, tokenizer, cache=tmp_path) == fresh
    assert task.encoded == len(examples)


def test_the_key_changes_with_all_that_decides_the_records(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    examples = _examples({"labels": 3})
    marked = _tokenizer()
    marked.add_special_tokens({"mask_token": "[PAD]"})
    keys = [
        fingerprint(_given(), examples, tokenizer),
        fingerprint(_given(max_length=64), examples, tokenizer),
        fingerprint(Given(_given().spec, ["a"]), examples, tokenizer),
        fingerprint(_given(), _examples({"labels": 4}), tokenizer),
        fingerprint(_given(), [*examples, *examples], tokenizer),
        fingerprint(_given(), examples, _tokenizer("cat")),
        fingerprint(_given(), examples, marked),
    ]
    assert len(set(keys)) == len(keys)
    assert keys[0] == fingerprint(_given(), _examples({"labels": 3}), _tokenizer())


def test_the_key_does_not_change_with_how_the_tokenizer_was_last_called() -> None:
    tokenizer, examples = _tokenizer(), _examples({"labels": 3})
    before = fingerprint(_given(), examples, tokenizer)
    tokenizer(["a dog runs", "a"], truncation=True, max_length=2, padding=True)
    assert fingerprint(_given(), examples, tokenizer) == before


UNKEEPABLE: list[list[Record]] = [
    [{"offsets": [(0, 1)]}],
    [{"labels": 1}, {"score": 1}],
]


@pytest.mark.parametrize("records", UNKEEPABLE)
def test_records_that_would_not_read_back_are_refused(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, records: list[Record]
) -> None:
    with pytest.raises(TypeError, match="records of given"):
        encode_examples(_given(), _examples(*records), tokenizer, cache=tmp_path)
    assert kept_in(tmp_path) == []


def test_what_the_version_of_datasets_decides_reads_back_or_is_refused(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    mixed: list[list[Record]] = [
        [{"span": {"a": 1}}, {"span": {"b": 1}}],
        [{"labels": 1}, {"labels": "one"}],
    ]
    for number, records in enumerate(mixed):
        cache, examples = tmp_path / str(number), _examples(*records)
        fresh = encode_examples(_given(), examples, tokenizer, cache=None)
        with contextlib.suppress(TypeError):
            assert encode_examples(_given(), examples, tokenizer, cache=cache) == fresh
            assert encode_examples(_given(), examples, tokenizer, cache=cache) == fresh
        assert len(kept_in(cache)) in (0, 2)


def test_a_row_that_cannot_be_encoded_says_why_and_leaves_nothing(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    spec = find_spec("wnut17").model_copy(update={"max_length": 2})
    task = find_kind(spec)(spec, ["O"])
    examples = [{"id": "0", "tokens": ["a"] * 9, "tags": ["O"] * 9}]
    with pytest.raises(ValueError, match="max_length leaves") as alone:
        encode_examples(task, examples, tokenizer, cache=None)
    with pytest.raises(ValueError, match="max_length leaves") as kept:
        encode_examples(task, examples, tokenizer, cache=tmp_path)
    assert str(kept.value) == str(alone.value)
    assert kept_in(tmp_path) == []


def test_weights_are_the_examples_and_no_part_of_what_is_kept(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    task = _given()
    first, second = _examples({"labels": 3}, {"labels": 4})
    for weights in ((0.5, 2.0), (1.0, 3.0)):
        examples = [{**first, "weight": weights[0]}, {**second, "weight": weights[1]}]
        found = encode_examples(task, examples, tokenizer, cache=tmp_path)
        assert [record["weight"] for record in found] == list(weights)
    assert "weight" not in encode_examples(task, [first, second], tokenizer, cache=tmp_path)[0]
    assert task.encoded == 2


def test_the_bars_of_datasets_are_as_they_were(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, capsys: pytest.CaptureFixture[str]
) -> None:
    before = datasets.are_progress_bars_disabled()
    encode_examples(_given(), _examples({"labels": 3}), tokenizer, cache=tmp_path)
    assert datasets.are_progress_bars_disabled() == before
    assert capsys.readouterr() == ("", "")


def test_a_cache_that_cannot_be_written_warns_and_the_records_are_there(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    task = _given()
    for cache in (tmp_path / "file", tmp_path / "file" / "below"):
        caplog.clear()
        found = encode_examples(task, _examples({"labels": 1}), tokenizer, cache=cache)
        assert [record["labels"] for record in found] == [1]
        assert [record.getMessage() for record in caplog.records] == [
            f"{cache}: encoded data cannot be kept here ({_REASONS[cache.name]}), so it is made again each time; set "
            "WEFT_CACHE to a folder that can be written"
        ]
    assert task.encoded == 2


_REASONS = {"file": "File exists", "below": "Not a directory"}


def test_the_folder_is_the_environments_or_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEFT_CACHE", "/tmp/somewhere")
    assert cache_folder() == Path("/tmp/somewhere")
    monkeypatch.delenv("WEFT_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "weft"
