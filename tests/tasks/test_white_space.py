"""White space around a text says nothing, and no answer has any at its ends, whatever the tokenizer."""

from collections.abc import Callable

import numpy as np
import pytest
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from weft.tasks.contract import Task, TaskSpec
from weft.tasks.kinds import kinds

TEXT = [
    "what is the capital of France ? Paris is the capital of France since long ago",
    "who sat on the mat ? the cat sat on the mat in Paris and  in  Denver",
    "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789 ,.!?'\"-",
] * 3
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
NAMES = dict(
    zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), SPECIAL, strict=True)
)
SPACES = ["   ", "\n", "\t \u00a0", "\u2003\r\n", " " * 300]


def wordpiece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(
        TEXT, trainers.WordPieceTrainer(vocab_size=300, special_tokens=SPECIAL)
    )
    return tokenizer


def byte_bpe(trim: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=trim, add_prefix_space=False
    )
    return tokenizer


def unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=150, unk_token="<unk>", special_tokens=SPECIAL)
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    return tokenizer


FORMS: dict[str, Callable[[], Tokenizer]] = {
    "wordpiece": wordpiece,
    "byte_bpe": lambda: byte_bpe(trim=True),
    "byte_bpe_with_spaces_in_offsets": lambda: byte_bpe(trim=False),
    "unigram": unigram,
}


@pytest.fixture(scope="module", params=FORMS)
def spaced(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=FORMS[request.param](), **NAMES)


def task_of(kind: str, labels: list[str] | None = None, **spec: object) -> Task:
    full = TaskSpec.model_validate(
        {"name": "tried", "kind": kind, "labels": labels, "max_length": 96, "stride": 8, **spec}
    )
    return kinds.load(kind)(full, labels or [])


CASES = {
    "span_extraction": (
        {},
        {
            "question": "what is the capital ?",
            "context": "Paris is",
            "answers": [{"text": "Paris", "start": 0}],
        },
        ["question"],
    ),
    "sequence_classification": (
        {"labels": ["a", "b"]},
        {"text": "who sat ?", "text_pair": "the cat sat", "label": "a"},
        ["text", "text_pair"],
    ),
    "multiple_choice": (
        {"options": {"choices": 2}},
        {"context": "who sat ?", "prefix": "the", "choices": ["cat", "mat"], "label": 0},
        ["context", "prefix", "choices"],
    ),
    "token_classification": (
        {"labels": ["O", "B-x"]},
        {"tokens": ["who", "sat", "?"], "tags": ["B-x", "O", "O"]},
        ["tokens"],
    ),
}


def around(value: str | list[str], before: str, after: str) -> str | list[str]:
    if isinstance(value, list):
        return [f"{before}{item}{after}" for item in value]
    return f"{before}{value}{after}"


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("spaces", SPACES, ids=repr)
def test_white_space_around_a_text_changes_no_token(
    kind: str, spaces: str, spaced: PreTrainedTokenizerFast
) -> None:
    spec, row, columns = CASES[kind]
    task = task_of(kind, **spec)
    expected = task.encode(task.check({"id": "0", **row}, "r"), spaced)
    for column in columns:
        for before, after in ((spaces, ""), ("", spaces)):
            changed = {"id": "0", **row, column: around(row[column], before, after)}
            assert task.encode(task.check(changed, "r"), spaced) == expected


@pytest.mark.parametrize("text", ["Paris ", " Paris", "  Paris \n", "Paris"])
def test_an_answer_with_white_space_at_its_ends_aims_at_its_words(
    text: str, spaced: PreTrainedTokenizerFast
) -> None:
    context = "the cat sat in  Paris \n and in  Denver"
    task = task_of("span_extraction")
    rows = [
        {
            "id": "0",
            "question": "who ?",
            "context": context,
            "answers": [{"text": own, "start": context.index(own)}],
        }
        for own in (text, "Paris")
    ]
    labels = [task.encode(task.check(row, "r"), spaced)["labels"] for row in rows]
    assert labels[0] == labels[1] != [[0, 0]]


def test_predicted_answers_have_no_white_space_at_their_ends(
    spaced: PreTrainedTokenizerFast,
) -> None:
    context = " the cat  sat in   Paris \n and  in Denver  "
    task = task_of("span_extraction", options={"n_best": 400, "n_best_kept": 400})
    example = task.check({"id": "0", "question": "who ?", "context": context}, "r")
    record = task.encode(example, spaced)
    generator = np.random.default_rng(0)
    output = [generator.normal(size=(len(ids), 2)) for ids in record["input_ids"]]
    found = task.decode(example, record, output)["n_best"]
    assert len(found) >= 36  # every span of the eight words, at least
    for span in found:
        assert span["text"] == span["text"].strip() == context[span["start"] : span["end"]] != ""


def test_entities_have_no_white_space_at_their_ends(spaced: PreTrainedTokenizerFast) -> None:
    task = task_of("token_classification", ["O", "B-x", "I-x"])
    for row in (
        {"tokens": ["in", " San ", "Jose\n", "now"]},
        {
            "tokens": ["in", "San", "Jose", "now"],
            "text": "in  San  Jose \n now",
            "offsets": [[0, 3], [3, 9], [9, 15], [15, 19]],
        },
    ):
        example = task.check({"id": "0", **row}, "r")
        record = task.encode(example, spaced)
        text = example.get("text", " ".join(example["tokens"]))
        tags = [0, 1, 2, 0]
        output = [
            np.array([np.eye(3)[tags[word]] * 9 if word >= 0 else np.zeros(3) for word in words])
            for words in record["words"]
        ]
        (entity,) = task.decode(example, record, output)["entities"]
        assert (
            entity["text"]
            == text[entity["start"] : entity["end"]]
            == text[text.index("San") : text.index("Jose") + 4]
        )
