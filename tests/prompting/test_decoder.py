"""Log-likelihoods are lm-evaluation-harness's; what is kept of a beginning changes time, never an answer."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from weft.prompting.decoder import Decoder, Pair, context_ids, load_decoder, pair_of

CONTEXTS = [
    "The dog ran to the river because it",
    "Question: where is Paris?\nAnswer:",
    "She opened the door. Then she ",
    "The cat",
]
OPTIONS = [
    [" was thirsty", " had never seen the inside of an aeroplane, or of anything else", " 7"],
    [" France", " in the north of Spain"],
    ["saw him", "left"],
    [" sat", " slept on the warm mat", " is", " was an unusually (!) fast one"],
]


@pytest.fixture(scope="module")
def decoders(real_words: Path) -> dict[bool, Decoder]:
    return {
        cache: load_decoder(str(real_words), device="cpu", cache=cache) for cache in (True, False)
    }


def pairs(decoder: Decoder, before: str = "") -> list[Pair]:
    tokenizer = decoder.base.tokenizer
    return [
        pair_of(tokenizer, before + context, options, f"row {at}")
        for at, (context, options) in enumerate(zip(CONTEXTS, OPTIONS, strict=True))
    ]


def theirs(folder: Path, requests: list[tuple[str, str]]) -> list[float]:
    """What lm-evaluation-harness says of contexts with continuations."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own imports' and torch's, of which none is ours
        from lm_eval.api.instance import Instance
        from lm_eval.models.huggingface import HFLM

        model: Any = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=2)
        asked = [
            Instance(request_type="loglikelihood", doc={}, arguments=own, idx=at)
            for at, own in enumerate(requests)
        ]
        return [value for value, _ in model.loglikelihood(asked, disable_tqdm=True)]


@pytest.mark.parametrize("cache", [True, False])
def test_log_likelihoods_are_the_harness_s(
    cache: bool, decoders: dict[bool, Decoder], real_words: Path
) -> None:
    asked = [(one, own) for one, many in zip(CONTEXTS, OPTIONS, strict=True) for own in many]
    expected = theirs(real_words, asked)
    decoder = decoders[cache]
    found = np.concatenate(decoder.scored(pairs(decoder)))
    # Sums of up to 20 logarithms of about 11 nats in single precision, batched otherwise.
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-4)


def test_a_beginning_that_all_contexts_share_is_read_once_and_changes_nothing(
    decoders: dict[bool, Decoder],
) -> None:
    before = "Here are some sentences that go on in one way or another.\n\n"
    decoder, plain = decoders[True], decoders[False]
    own = pairs(decoder, before)
    expected = plain.scored(own)
    decoder.share([pair.context for pair in own])
    assert len(decoder._shared) >= 10
    for found, right in zip(decoder.scored(own), expected, strict=True):
        np.testing.assert_allclose(found, right, rtol=2e-6, atol=2e-4)
    # Contexts that begin otherwise are read whole.
    for found, right in zip(
        decoder.scored(pairs(decoder)), plain.scored(pairs(plain)), strict=True
    ):
        np.testing.assert_allclose(found, right, rtol=2e-6, atol=2e-4)


def test_what_is_written_is_the_same_with_and_without_a_shared_beginning(
    decoders: dict[bool, Decoder],
) -> None:
    before = "Here are some sentences that go on in one way or another.\n\n"
    decoder, plain = decoders[True], decoders[False]
    contexts = [
        context_ids(decoder.base.tokenizer, before + text.strip(), "row") for text in CONTEXTS
    ]
    expected = plain.written(contexts, 12, ("\n",))
    decoder.share(contexts)
    assert decoder.written(contexts, 12, ("\n",)) == expected
    assert [one.tokens for one in decoder.written(contexts[:1], 12, ())] == [
        one.tokens for one in plain.written(contexts[:1], 12, ())
    ]


def test_the_same_on_gpt2(tiny_folder: Callable[[str], Path]) -> None:
    """Whose positions come from a table."""
    folder = str(tiny_folder("gpt2"))
    cached, plain = (load_decoder(folder, device="cpu", cache=cache) for cache in (True, False))
    own = [
        pair_of(
            cached.base.tokenizer,
            f"the good dog and the man from the old city went {at}",
            [" to the city", " home", " by"],
            "row",
        )
        for at in ("and", "a big", "one")
    ]
    cached.share([pair.context for pair in own])
    assert cached._shared
    for found, right in zip(cached.scored(own), plain.scored(own), strict=True):
        np.testing.assert_allclose(found, right, rtol=2e-6, atol=2e-4)


def test_an_option_that_adds_no_token_is_refused(decoders: dict[bool, Decoder]) -> None:
    with pytest.raises(ValueError, match="row 3: the option '' adds no token"):
        pair_of(decoders[True].base.tokenizer, "The dog", [""], "row 3")
