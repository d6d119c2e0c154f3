"""Likelihood by bytes, characters and words; characters that a tokenizer splits into bytes."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from weft.tasks.contract import Prediction, Task, TaskSpec
from weft.tasks.kinds import kinds
from weft.tasks.language.perplexity import SCORES, counted
from weft.tasks.language.pieces import pieces_of

TokenizerOf = Callable[[str], PreTrainedTokenizerFast]

URDU = "\u06cc\u06c1 \u0627\u0686\u06be\u0627"
TEXTS = ["the city of Zo\u00eb", f"{URDU} book", "\u65e5\u672c \U0001f600 the end"]


@pytest.fixture(scope="module")
def falls_back() -> PreTrainedTokenizerFast:
    """A vocabulary of the letters a to e, a space, and all bytes, as Llama 2 has them."""
    tokens = [
        "<unk>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "\u2581",
        *"abcde",
        "\u2581a",
        "bc",
    ]
    model = models.BPE(
        {token: number for number, token in enumerate(tokens)},
        [("\u2581", "a"), ("b", "c")],
        unk_token="<unk>",
        byte_fallback=True,
    )
    backend = Tokenizer(model)
    backend.normalizer = normalizers.Replace(" ", "\u2581")
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<unk>")


def test_tokens_with_byte_fallback_stand_for_their_bytes(
    falls_back: PreTrainedTokenizerFast,
) -> None:
    pieces = pieces_of(falls_back)
    text = "a bc\u65e5 a\u00eb"
    ids = falls_back(text)["input_ids"]
    said = [pieces.bytes[number] for number in ids]
    assert said == [b"a", b" ", b"bc", b"\xe6", b"\x97", b"\xa5", b" a", b"\xc3", b"\xab"]
    assert pieces.joins(ids) == [False] * 4 + [True] * 2 + [False] * 2 + [True]
    assert counted(pieces, ids, [True] * len(ids)) == (6, 5)
    # The first token has none before it; a character whose first byte does not count is one all the same.
    assert counted(pieces, ids, [False] * 4 + [True] * 5) == (3, 4)


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "roberta"])
@pytest.mark.parametrize("text", TEXTS)
def test_byte_level_tokens_stand_for_their_bytes(
    tokenizer_of: TokenizerOf, model_type: str, text: str
) -> None:
    tokenizer = tokenizer_of(model_type)
    pieces = pieces_of(tokenizer)
    ids = tokenizer(text)["input_ids"]
    assert b"".join(pieces.bytes[number] or b"" for number in ids) == text.encode()
    units, raw = counted(pieces, ids, [pieces.bytes[number] is not None for number in ids])
    joined = sum(pieces.joins(ids))
    whole = [number for number in ids if pieces.bytes[number] is not None]
    assert units == len(whole) - joined
    # The tokenizer knows ASCII words alone: what is not ASCII is bytes, a character in as many as UTF-8 has.
    odd = [character for character in text if not character.isascii()]
    assert joined == sum(len(character.encode()) - 1 for character in odd)
    assert raw == sum(len(character.encode()) for character in odd)


def test_word_pieces_have_no_raw_bytes(tokenizer_of: TokenizerOf) -> None:
    tokenizer = tokenizer_of("bert")
    pieces = pieces_of(tokenizer)
    assert (pieces.form, pieces.raw) == ("words", frozenset())
    number = tokenizer.convert_tokens_to_ids("##a")
    assert pieces.bytes[number] == b"a"


def scored(task: Task, tokenizer: PreTrainedTokenizerFast, text: str) -> Prediction:
    """The prediction for a text where every byte has the chance 1 / 256, whatever token it is in."""
    example = task.check({"id": "a", "text": text}, "r")
    record = task.encode(example, tokenizer)
    pieces = pieces_of(tokenizer)
    output = [
        np.array([[len(pieces.bytes[number] or b"") * np.log(256)] for number in ids])
        for ids in record["input_ids"]
    ]
    return task.decode(example, record, output)


def task_of(**spec: object) -> Task:
    full = {"name": "t", "kind": "causal_lm", "options": {"tokenization": True}, **spec}
    return kinds.load("causal_lm")(TaskSpec.model_validate(full))


@pytest.mark.parametrize("text", TEXTS)
def test_bits_per_byte_do_not_depend_on_the_tokenizer(
    tokenizer_of: TokenizerOf, falls_back: PreTrainedTokenizerFast, text: str
) -> None:
    task = task_of(max_length=9, stride=2)
    perplexities = []
    for tokenizer in (tokenizer_of("llama"), tokenizer_of("gpt2"), falls_back):
        said = scored(task, tokenizer, text)
        scores = task.metrics(task.statistics(said, {"id": "a"}))
        assert scores["bits_per_byte"] == pytest.approx(8, rel=1e-12)
        assert scores["bits_per_byte"] == pytest.approx(
            said["nll"] / np.log(2) / said["bytes"], rel=1e-12
        )
        perplexities.append(float(scores["perplexity"]))
    assert len({round(value, 6) for value in perplexities}) > 1


@given(
    text=st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=2, max_size=40)
)
def test_whole_characters_never_lower_perplexity(tokenizer_of: TokenizerOf, text: str) -> None:
    text = f"a {text} b"
    task = task_of()
    said = scored(task, tokenizer_of("llama"), text)
    plain = scored(task_of(options={}), tokenizer_of("llama"), text)
    assert plain == {key: said[key] for key in plain}
    assert set(said) - set(plain) == {"units", "raw_tokens", "characters", "words"}
    scores = task.metrics(task.statistics(said, {"id": "a"}))
    assert set(scores) == {"perplexity", "bits_per_byte", *SCORES}
    assert scores["perplexity_of_units"] >= scores["perplexity"]
    nll = said["nll"]
    for name, count in (
        ("units", said["units"]),
        ("characters", len(text)),
        ("words", len(text.split())),
    ):
        assert np.log(scores[f"perplexity_of_{name}"]) == pytest.approx(nll / count, rel=1e-9)
    assert scores["byte_fallback_share"] == said["raw_tokens"] / said["tokens"]
    assert scores["tokens_per_byte"] == said["tokens"] / len(text.encode())


def test_of_a_completion_what_is_learnt_counts(tokenizer_of: TokenizerOf) -> None:
    task, tokenizer = task_of(), tokenizer_of("llama")
    row = task.check({"id": "a", "prompt": "the city", "completion": f" of {URDU} men"}, "r")
    record = task.encode(row, tokenizer)
    odd = len("".join(URDU.split()))
    units, raw, characters, words = record["counts"]
    assert (raw, characters, words) == (2 * odd, len(f" of {URDU} men"), 4)
    scored_tokens = sum(label != -100 for label in record["labels"][0])
    assert units == scored_tokens - odd
