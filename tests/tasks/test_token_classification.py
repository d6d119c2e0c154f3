"""Token classification: entities in text."""

import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics import accuracy_score
from seqeval.metrics.sequence_labeling import precision_recall_fscore_support
from tokenizers import Tokenizer, models, normalizers
from transformers import PreTrainedTokenizerFast

from weft.tasks.contract import Record, Task, TaskSpec
from weft.tasks.kinds import kinds
from weft.tasks.text import most_context

KIND = "token_classification"
LABELS = ["O", "B-x", "I-x", "B-y", "I-y"]
Make = Callable[..., Task]

WORDS = ["the", "Xylophonist", "\u200b", "sat", "", "in", "Amsterdam", "'s", "quux", "."]


def plain(**spec: object) -> Task:
    full = TaskSpec.model_validate({"name": "tried", "kind": KIND, "labels": LABELS, **spec})
    return kinds.load(KIND)(full, LABELS)


def outputs(record: Record, tag_of: Callable[[int], str]) -> list[np.ndarray]:
    """Logits that say `tag_of(word)` where the word is labelled, and I-y everywhere else."""
    return [
        np.stack(
            [
                np.where(np.arange(5) == LABELS.index(tag_of(word) if word >= 0 else "I-y"), 9.0, 0)
                for word in words
            ]
        )
        for words in record["words"]
    ]


def test_classes_are_both_tags_of_every_type_of_train_with_o_first() -> None:
    spec = TaskSpec(name="tried", kind=KIND)
    rows = [{"tags": ["I-y", "O"]}, {"tags": ["B-x"]}, {}]
    assert kinds.load(KIND).collect_labels(spec, rows) == ["O", "B-x", "B-y", "I-x", "I-y"]


@pytest.mark.parametrize(
    "labels", [["O"], ["B-x", "I-x"], ["O", "NOUN"], ["O", "B-x", "B-x"]], ids=repr
)
def test_classes_that_are_no_tags_are_refused(labels: list[str]) -> None:
    spec = TaskSpec(name="tried", kind=KIND, labels=labels)
    said = "'NOUN' is no tag" if "NOUN" in labels else "expected different tags, O among them"
    with pytest.raises(ValueError, match=f"^task tried: .*{said}"):
        kinds.load(KIND).collect_labels(spec, [])


def test_first_sub_words_are_labelled(tokenizer: PreTrainedTokenizerFast) -> None:
    tags = ["O", "B-x", "O", "O", "O", "O", "B-y", "I-y", "I-x", "O"]
    task = plain()
    record = task.encode(task.check({"id": "1", "tokens": WORDS, "tags": tags}, "r"), tokenizer)
    # The reference: transformers' own alignment of words that are given apart.
    expected = tokenizer(WORDS, is_split_into_words=True)
    words = expected.word_ids()
    firsts = [
        word is not None and word != before
        for before, word in zip([None, *words], words, strict=False)
    ]
    assert record == {
        "id": "1",
        "input_ids": [expected["input_ids"]],
        "token_type_ids": [expected["token_type_ids"]],
        "words": [[word if first else -1 for word, first in zip(words, firsts, strict=True)]],
        "labels": [
            [
                LABELS.index(tags[word]) if first else -100
                for word, first in zip(words, firsts, strict=True)
            ]
        ],
    }
    assert len(words) > len(WORDS) + 4


def test_words_are_found_whatever_the_tokenizer_does_with_spaces(
    any_tokenizer: PreTrainedTokenizerFast,
) -> None:
    task = plain(max_length=300)
    example = task.check({"id": "1", "tokens": ["It", "'s", "the", "\u4e2dx", "", "city"]}, "r")
    record = task.encode(example, any_tokenizer)
    found = {
        word: any_tokenizer.decode([token]).strip()
        for token, word in zip(record["input_ids"][0], record["words"][0], strict=True)
        if word >= 0
    }
    assert list(found) == [0, 1, 2, 3, 5]
    assert "it".startswith(found[0].lower())
    assert found[1].startswith("'")
    assert found[2] == "the"
    assert "city".startswith(found[5])


def test_long_sentences_are_shown_in_windows_of_whole_words(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    task = plain(max_length=12, stride=4)
    tokens = WORDS * 3
    tags = [LABELS[place % 5] for place in range(len(tokens))]
    example = task.check({"id": "1", "tokens": tokens, "tags": tags}, "r")
    record = task.encode(example, tokenizer)
    whole = tokenizer(tokens, is_split_into_words=True)
    words = whole.word_ids()[1:-1]
    bodies = [ids[1:-1] for ids in record["input_ids"]]
    ids, places, spans = whole["input_ids"][1:-1], [], []
    for body in bodies:
        after = spans[-1][0] + 1 if spans else 0
        start = next(i for i in range(after, len(ids)) if ids[i : i + len(body)] == body)
        spans.append((start, start + len(body)))
        places.append(words[start : start + len(body)])
    assert len(bodies) > 3
    assert all(len(ids) <= 12 for ids in record["input_ids"])
    # Whole words: what begins or ends a window begins or ends a word.
    assert all(start == 0 or words[start - 1] != words[start] for start, _ in spans)
    assert all(0 <= a[1] - b[0] <= 4 for a, b in pairwise(spans))
    assert any(a[1] > b[0] for a, b in pairwise(spans))
    # Each word is labelled once, where most of its context is shown.
    owner = most_context(spans, len(ids))
    expected = [
        [
            word if (start + i == words.index(word) and owner[start + i] == number) else -1
            for i, word in enumerate(shown)
        ]
        for number, ((start, _), shown) in enumerate(zip(spans, places, strict=True))
    ]
    assert [row[1:-1] for row in record["words"]] == expected
    flat = sorted(word for row in record["words"] for word in row if word >= 0)
    assert flat == sorted(set(words))
    assert task.decode(example, record, outputs(record, lambda word: tags[word]))["tags"] == [
        tag if place in flat else "O" for place, tag in enumerate(tags)
    ]


def test_of_a_word_longer_than_a_window_the_first_sub_words_are_kept(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    task = plain(max_length=8)
    example = task.check(
        {"id": "1", "tokens": ["a", "x1y2z3w4v5", "b"], "tags": ["O", "B-x", "O"]}, "r"
    )
    record = task.encode(example, tokenizer)
    pieces = tokenizer("x1y2z3w4v5", add_special_tokens=False)["input_ids"]
    assert len(pieces) > 6
    assert record["input_ids"][1][1:-1] == pieces[:6]
    assert record["words"] == [[-1, 0, -1], [-1, 1, -1, -1, -1, -1, -1, -1], [-1, 2, -1]]


def test_a_stride_that_leaves_no_progress_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    task = plain(max_length=8, stride=6)
    example = task.check({"id": "1", "tokens": WORDS}, "r")
    with pytest.raises(ValueError, match=r"row '1': max_length leaves 6 tokens .* the stride 6"):
        task.encode(example, tokenizer)


def test_a_sentence_without_sub_words_is_all_o(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    task = plain()
    example = task.check({"id": "1", "tokens": ["\u200b", "\x07"], "tags": ["B-x", "O"]}, "r")
    record = task.encode(example, tokenizer)
    assert record["labels"] == [[-100, -100]]
    assert task.decode(example, record, outputs(record, lambda word: "B-x")) == {
        "id": "1",
        "tags": ["O", "O"],
        "entities": [],
    }


def test_entities_point_into_the_users_text(tokenizer: PreTrainedTokenizerFast) -> None:
    text = "@paulwalk  It's in the Empire State Building=ESB."
    task = plain()
    example = task.check({"id": "1", "text": text}, "r")
    assert " ".join(example["tokens"]) == "@paulwalk It 's in the Empire State Building = ESB ."
    record = task.encode(example, tokenizer)
    says = dict(zip(range(5, 10), ["B-x", "I-x", "I-x", "O", "B-y"], strict=True))
    prediction = task.decode(example, record, outputs(record, lambda word: says.get(word, "O")))
    score = np.exp(9) / (np.exp(9) + 4)
    assert [entity.pop("score") for entity in prediction["entities"]] == pytest.approx([score] * 2)
    assert prediction["entities"] == [
        {"type": "x", "text": "Empire State Building", "start": 23, "end": 44},
        {"type": "y", "text": "ESB", "start": 45, "end": 48},
    ]
    assert all(text[e["start"] : e["end"]] == e["text"] for e in prediction["entities"])


def test_entities_of_tokens_point_into_the_joined_tokens(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    task = plain()
    example = task.check({"id": "1", "tokens": ["in", "New", "York", "."], "text": "ignored"}, "r")
    record = task.encode(example, tokenizer)
    says = ["O", "I-x", "I-x", "O"]
    (entity,) = task.decode(example, record, outputs(record, says.__getitem__))["entities"]
    assert {**entity, "score": 1} == {
        "type": "x",
        "text": "New York",
        "start": 3,
        "end": 11,
        "score": 1,
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tags": ["O"]}, "expected a tag for each of the 2 tokens, got 1 tags"),
        ({"tags": "O O"}, "expected a tag for each of the 2 tokens, got 'O O'"),
        ({"tags": ["O", "B-z"]}, "no tag named 'B-z'. Did you mean 'B-.'"),
        ({"tags": ["O", 1]}, "no tag named '1'"),
        ({"tokens": "a b"}, "'tokens' must be a list of words, got 'a b'"),
        ({"tokens": ["a", 1]}, "'tokens' must be a list of words"),
        ({"tokens": []}, "'tokens' is empty"),
        ({"tokens": ["", " "]}, "'tokens' is empty"),
        ({"tokens": ["a", "\ud800"]}, "'tokens' is not valid Unicode"),
        ({"text": "a b", "offsets": [[0, 1]]}, "'offsets' must hold"),
        ({"tokens": None, "text": " "}, "'text' is empty"),
    ],
    ids=ascii,
)
def test_wrong_rows_are_refused(change: dict[str, object], message: str) -> None:
    row = {"id": "1", "tokens": ["a", "b"], "tags": ["O", "O"], **change}
    with pytest.raises(ValueError, match=rf"^train\.conll:9: .*{message}"):
        plain().check(row, "train.conll:9")


tags = st.sampled_from(LABELS)
sentences = st.lists(st.tuples(tags, tags), min_size=1, max_size=12)


@given(st.lists(sentences, min_size=1, max_size=5))
def test_scores_are_those_of_seqeval(rows: list[list[tuple[str, str]]]) -> None:
    task = plain()
    said = [[a for a, _ in row] for row in rows]
    right = [[b for _, b in row] for row in rows]
    counts = [
        task.statistics({"tags": a}, {"id": "x", "tags": b})
        for a, b in zip(said, right, strict=True)
    ]
    found = task.metrics(np.sum(counts, axis=0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # seqeval warns where a score has nothing to count
        expected: Any = precision_recall_fscore_support(right, said, average="micro")
    names = ("precision", "recall", "f1")
    assert [found[name] for name in names] == pytest.approx(list(expected[:3]))
    assert found["accuracy"] == pytest.approx(accuracy_score(right, said))


def test_gold_of_wnut17_scores_the_maximum(
    shared_data: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    blocks = (shared_data / "wnut17" / "validation.conll").read_text(encoding="utf-8")
    rows, row = [], []
    for line in [*blocks.split("\n"), ""]:
        if line.strip():
            row.append(line.rstrip("\r").split("\t"))
        elif row:
            rows.append(row)
            row = []
    spec = TaskSpec(name="tried", kind=KIND, max_length=32, stride=8)
    read = [
        {"id": str(i), "tokens": [word for word, _ in row], "tags": [tag for _, tag in row]}
        for i, row in enumerate(rows)
    ]
    kind = kinds.load(KIND)
    labels = kind.collect_labels(spec, read)
    task = kind(spec, labels)
    total = np.zeros(5)
    for row in read:
        example = task.check(row, "validation.conll")
        record = task.encode(example, tokenizer)
        right = [np.eye(len(labels))[np.maximum(row, 0)] for row in record["labels"]]
        total += task.statistics(task.decode(example, record, right), example)
    assert len(rows) == 1009
    assert {name: float(value) for name, value in task.metrics(total).items()} == {
        "f1": 1.0,
        "precision": 1.0,
        "recall": 1.0,
        "accuracy": 1.0,
    }


def test_a_sequence_of_no_tokens_at_all_is_refused() -> None:
    backend = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    bare = PreTrainedTokenizerFast(tokenizer_object=backend)
    task = plain()
    with pytest.raises(ValueError, match="row '1': 'tokens' has no sub-words"):
        task.encode(task.check({"id": "1", "tokens": ["\u200b"]}, "r"), bare)


def test_what_rows_leave_open_is_settled_and_written_out() -> None:
    kind = kinds.load(KIND)
    rows = [{"tokens": ["Ada", "met", "U.S.", "Bob"], "tags": ["B-x", "E-x", "O", "S-y"]}]
    spec = kind.settle(TaskSpec(name="tried", kind=KIND), rows)
    assert spec.options == {"scheme": "bioes", "words": "web"}
    assert kind.collect_labels(spec, rows) == ["O", "B-x", "B-y", "I-x", "I-y"]
    task = kind(spec, LABELS)
    checked = task.check({"id": "1", **rows[0]}, "r")
    assert checked["tags"] == ["B-x", "I-x", "O", "B-y"]
    said = TaskSpec(name="tried", kind=KIND, options={"scheme": "iob1", "words": "spaces"})
    assert kind.settle(said, rows).options == said.options


def test_a_tagger_cuts_running_text_as_its_training_rows_were_cut() -> None:
    kind = kinds.load(KIND)
    for tokens, text, expected in (
        (list("我在北京A1"), "他去A1", ["他", "去", "A", "1"]),
        (["ผม", "รัก", "กรุงเทพ"], "กรุงเทพ ดี", ["กรุงเทพ", "ดี"]),
        (["So,", "(he)", "said:", "well!"], "Go, (now)!", ["Go,", "(now)!"]),
    ):
        spec = kind.settle(TaskSpec(name="tried", kind=KIND), [{"tokens": tokens}])
        assert kind(spec, LABELS).check({"id": "1", "text": text}, "r")["tokens"] == expected


def test_wrong_options_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="options: scheme: Input should be 'auto', 'iob2'"):
        plain(options={"scheme": "iobes"})
