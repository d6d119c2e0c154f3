"""Style by n-grams: the equation in double precision over whole distributions, the laws of it, and the measures."""

import json
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from weft.answering import generation
from weft.answering.generation import (
    Continuation,
    Generation,
    Style,
    generate,
    prompt_ids,
    write_batch,
)
from weft.answering.style.measures import (
    Measured,
    distinct,
    jensen_shannon,
    measured,
    overlap,
    repetition,
    style_perplexity,
)
from weft.answering.style.ngrams import SMOOTHING, WEIGHTS, Following, NGrams, counted, ngrams_of
from weft.answering.style.steering import Steering, steered
from weft.base.loading import load_base
from weft.cli.predict import _style
from weft.client.wire import settings_of
from weft.model.expert import Expert
from weft.model.head import Head
from weft.model.model import Model

CORPUS = "the good dog went to the river and the good man came to the city\n\nthe good dog said no"
PROMPTS = ["the good dog", "a", "she said that he went to the"]
NAME = "writer"


@pytest.fixture(scope="module")
def model(tiny_folder: Callable[[str], Path]) -> Model:
    base = load_base(str(tiny_folder("llama")))
    model = Model(base)
    model.add(Expert(NAME, {}, Head("causal_lm", base, 0, seed=0)))
    return model


@pytest.fixture(scope="module")
def tokenizer(model: Model) -> PreTrainedTokenizerFast:
    return model.base.tokenizer


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("style") / "corpus.txt"
    path.write_text(CORPUS, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def ngrams(corpus: Path, tokenizer: PreTrainedTokenizerFast) -> NGrams:
    return ngrams_of(corpus, tokenizer)


def plain_counts(tokenizer: PreTrainedTokenizerFast) -> tuple[list[list[int]], list[int]]:
    """The corpus by paragraph as ids, and the ordinary tokens."""
    texts = [
        tokenizer(text, add_special_tokens=False)["input_ids"] for text in CORPUS.split("\n\n")
    ]
    special = set(tokenizer.all_special_ids)
    return texts, [one for one in range(len(tokenizer)) if one not in special]


def smoothed(tokenizer: PreTrainedTokenizerFast, context: list[int]) -> np.ndarray:
    """p~ of every ordinary token behind a whole context, by the equation, counted by looking."""
    texts, ordinary = plain_counts(tokenizer)
    width = len(context)
    counts = dict.fromkeys(ordinary, 0)
    for ids in texts:
        for at in range(width, len(ids)):
            if ids[at - width : at] == context:
                counts[ids[at]] += 1
    total = sum(counts.values())
    return np.array([(n + 0.01) / (total + 0.01 * len(ordinary)) for n in counts.values()])


def occurs(tokenizer: PreTrainedTokenizerFast, context: list[int]) -> bool:
    texts, _ = plain_counts(tokenizer)
    width = len(context)
    return any(ids[at : at + width] == context for ids in texts for at in range(len(ids) - width))


def prior(tokenizer: PreTrainedTokenizerFast, written: list[int]) -> np.ndarray:
    """The prior on every ordinary token, by the equation."""
    contexts = [
        written[len(written) - order + 1 :] for order in (1, 2, 3) if len(written) >= order - 1
    ]
    weights = [0.1, 0.3, 0.6]
    found = [
        (w, c) for w, c in zip(weights, contexts, strict=False) if not c or occurs(tokenizer, c)
    ]
    mass = sum(w for w, _ in found)
    return np.sum([w / mass * np.log(smoothed(tokenizer, c)) for w, c in found], axis=0)


def ids_of(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


CONTEXTS = ["", "the", "the good", "went to", "zz", "zz the", "good zz", "said no", "dog"]


@pytest.mark.parametrize("text", CONTEXTS)
def test_smoothed_counts_and_the_prior_are_the_equations(
    text: str, ngrams: NGrams, tokenizer: PreTrainedTokenizerFast
) -> None:
    written = ids_of(tokenizer, text)
    for order in range(1, min(3, len(written) + 1) + 1):
        context = written[len(written) - order + 1 :]
        found = ngrams.log_probabilities(order, written).exp().numpy()
        np.testing.assert_allclose(found, smoothed(tokenizer, context), rtol=1e-12)
        assert found.sum() == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(ngrams.bias(written).numpy(), prior(tokenizer, written), rtol=1e-12)


def test_an_unseen_context_backs_off_to_single_tokens(
    ngrams: NGrams, tokenizer: PreTrainedTokenizerFast
) -> None:
    unseen = ids_of(tokenizer, "zz")[-1:]
    assert ngrams.active([*unseen, *unseen]) == [1]
    alone = ngrams.log_probabilities(1, [])
    torch.testing.assert_close(ngrams.bias([*unseen, *unseen]), alone, rtol=0, atol=0)
    seen = ids_of(tokenizer, "the good")[-2:]
    assert ngrams.active(seen) == [1, 2, 3]
    assert ngrams.active([*unseen, seen[-1]]) == [1, 2]
    # What ends a paragraph is no context of what begins the next.
    assert not occurs(tokenizer, ids_of(tokenizer, " city")[-1:])
    assert ngrams.active(ids_of(tokenizer, "to the city")[-2:]) == [1]


@pytest.mark.parametrize("strength", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("text", CONTEXTS)
def test_steering_is_a_product_of_experts_over_ordinary_tokens(
    text: str, strength: float, ngrams: NGrams, tokenizer: PreTrainedTokenizerFast
) -> None:
    written = ids_of(tokenizer, text)
    width = len(tokenizer) + 5  # rows of the vocabulary that no token has
    logits = torch.randn(width, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 3
    _, ordinary = plain_counts(tokenizer)
    before = torch.softmax(logits, 0).numpy()
    after = torch.softmax(steered(logits, written, ngrams, strength), 0).numpy()
    wanted = before[ordinary] * np.exp(strength * prior(tokenizer, written))
    np.testing.assert_allclose(
        after[ordinary] / after[ordinary].sum(), wanted / wanted.sum(), rtol=1e-10
    )
    others = np.setdiff1d(np.arange(width), ordinary)
    assert len(others) > 5
    np.testing.assert_allclose(after[others], before[others], rtol=1e-10)


def two(first: int, second: int) -> NGrams:
    """A vocabulary of two tokens, seen so often."""
    return NGrams(
        torch.tensor([0, 1]), {(): Following(first + second, {0: first, 1: second})}, "", 4
    )


def test_two_tokens_are_as_by_hand() -> None:
    """p~ = 3.01/4.02 and 1.01/4.02; with equal logits and strength 1 the steered distribution is p~ itself."""
    found = torch.softmax(steered(torch.zeros(2, dtype=torch.float64), [], two(3, 1), 1.0), 0)
    assert found.tolist() == pytest.approx([3.01 / 4.02, 1.01 / 4.02], rel=1e-12)
    logits = torch.tensor([0.0, math.log(2)], dtype=torch.float64)
    half = torch.softmax(steered(logits, [], two(3, 1), 0.5), 0)
    odds = 0.5 * math.sqrt(3.01 / 1.01)
    assert half.tolist() == pytest.approx([odds / (1 + odds), 1 / (1 + odds)], rel=1e-12)


@given(st.floats(-50, 50), st.floats(0.01, 1))
def test_a_constant_on_all_logits_changes_nothing(constant: float, strength: float) -> None:
    logits = torch.tensor([0.3, -1.2], dtype=torch.float64)
    here, there = (
        torch.softmax(steered(logits + c, [], two(5, 2), strength), 0) for c in (0.0, constant)
    )
    torch.testing.assert_close(here, there, rtol=1e-10, atol=0)


def test_strength_0_leaves_every_logit_as_it_is_bit_for_bit(
    ngrams: NGrams, tokenizer: PreTrainedTokenizerFast
) -> None:
    scores = torch.randn(2, len(tokenizer), generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([ids_of(tokenizer, "the good")[-2:]] * 2)
    assert torch.equal(Steering(ngrams, 0.0, [0, 0])(ids, scores), scores)
    assert not torch.equal(Steering(ngrams, 0.1, [0, 0])(ids, scores), scores)


def test_padding_before_a_text_is_no_context(
    ngrams: NGrams, tokenizer: PreTrainedTokenizerFast
) -> None:
    the, good = ids_of(tokenizer, "the good")[-2:]
    scores = torch.zeros(1, len(tokenizer))
    padded = Steering(ngrams, 0.5, [1])(torch.tensor([[the, good]]), scores)
    alone = Steering(ngrams, 0.5, [0])(torch.tensor([[good]]), scores)
    assert torch.equal(padded, alone)
    assert not torch.equal(Steering(ngrams, 0.5, [0])(torch.tensor([[the, good]]), scores), alone)


def written(model: Model, **settings: Any) -> list[Continuation]:
    how = Generation.model_validate({"max_new_tokens": 10, **settings})
    return generate(model, NAME, PROMPTS, how, device="cpu")


@pytest.mark.parametrize("sample", [False, True])
def test_plain_decoding_is_strength_0(model: Model, corpus: Path, sample: bool) -> None:
    none = written(model, sample=sample, seed=3)
    zero = written(model, sample=sample, seed=3, style={"corpus": corpus, "strength": 0})
    assert zero == none
    assert written(model, sample=sample, seed=3, style={"corpus": corpus, "strength": 1}) != none


def test_a_padded_batch_writes_what_the_equation_says_one_token_at_a_time(
    model: Model, corpus: Path, ngrams: NGrams
) -> None:
    found = written(model, batch_size=3, style={"corpus": corpus, "strength": 0.7})
    held = model.snapshot
    writer: Any = held.head(NAME).assembled(held.trunk)
    tokenizer = model.base.tokenizer
    _, ordinary = plain_counts(tokenizer)
    for prompt, one in zip(PROMPTS, found, strict=True):
        ids = prompt_ids(model.base, prompt, Generation(max_new_tokens=10), "prompt")
        start = len(ids)
        for _ in one.tokens:
            with torch.no_grad(), held.routed(None):
                logits = writer(torch.tensor([ids])).logits[0, -1].double()
            whole = torch.softmax(logits, 0).numpy()
            steer = whole[ordinary] * np.exp(0.7 * prior(tokenizer, ids[-2:]))
            whole[ordinary] = steer / steer.sum() * whole[ordinary].sum()
            ids.append(int(whole.argmax()))
        assert tuple(ids[start:]) == one.tokens


def test_a_batch_filled_with_a_token_of_the_corpus_writes_what_each_text_does_alone(
    tiny_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GPT-2's tokenizer puts nothing before a text and has no padding: an ordinary token, its first, fills batches."""
    base = load_base(str(tiny_folder("gpt2")))
    head = Head("causal_lm", base, 0, seed=0)
    model = Model(base)
    model.add(Expert(NAME, {}, head))
    corpus = tmp_path / "corpus.txt"
    # Letters that the tokenizer joins to nothing: behind x stands k, but behind qx z.
    corpus.write_text("qxz" + "\n\njxk" * 5, encoding="utf-8")
    own = ngrams_of(corpus, base.tokenizer)
    filler, word, rare = ids_of(base.tokenizer, "qxz")
    usual = ids_of(base.tokenizer, "jxk")[-1]
    monkeypatch.setattr(generation, "padding_id", lambda base: filler)
    settings = Generation.model_validate(
        {"max_new_tokens": 4, "style": {"corpus": corpus, "strength": 1.0}}
    )
    held = model.snapshot
    writer = held.head(NAME).assembled(held.trunk)

    def said(*prompts: list[int]) -> list[list[int]]:
        with torch.inference_mode(), held.routed(None):
            return write_batch(writer, held, prompts, settings, torch.device("cpu"), style=own)

    long = [word, word, filler, word]
    assert (said([word])[0][0], said(long)[0][0]) == (usual, rare)
    assert said([word], long) == [said([word])[0], said(long)[0]]


def test_divergence_is_zero_of_the_same_and_ln_2_of_what_shares_nothing() -> None:
    one = torch.tensor([0.25, 0.75, 0.0, 0.0], dtype=torch.float64)
    other = torch.tensor([0.0, 0.0, 0.5, 0.5], dtype=torch.float64)
    assert float(jensen_shannon(one, one)) == 0
    assert float(jensen_shannon(one, other)) == pytest.approx(math.log(2), abs=1e-15)
    assert math.log(2) == pytest.approx(0.6931, abs=5e-5)


@given(st.lists(st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)), min_size=2, max_size=6))
def test_divergence_is_symmetric_and_between_0_and_ln_2(pairs: list[tuple[float, float]]) -> None:
    one, other = (torch.tensor(side, dtype=torch.float64) for side in zip(*pairs, strict=True))
    one, other = one / one.sum(), other / other.sum()
    found = float(jensen_shannon(one, other))
    assert found == pytest.approx(float(jensen_shannon(other, one)), abs=1e-15)
    assert -1e-15 <= found <= math.log(2)
    middle = (one + other) / 2
    kl = [float((p * (p.log() - middle.log())).sum()) for p in (one, other)]
    assert found == pytest.approx(sum(kl) / 2, abs=1e-14)


def measure(model: Model, ngrams: NGrams, rows: Any, strength: float) -> Measured:
    held = model.snapshot
    with held.routed(None):
        writer: Any = held.head(NAME).assembled(held.trunk)
        return measured(writer, model.base.tokenizer, ngrams, rows, strength)


def test_measures_are_their_formulas(
    model: Model, ngrams: NGrams, corpus: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    found = written(model, style={"corpus": corpus, "strength": 0.6})
    rows = [
        (prompt_ids(model.base, prompt, Generation(max_new_tokens=10), "prompt"), list(one.tokens))
        for prompt, one in zip(PROMPTS, found, strict=True)
    ]
    ours = measure(model, ngrams, rows, 0.6)
    texts, ordinary = plain_counts(tokenizer)
    held = model.snapshot
    writer: Any = held.head(NAME).assembled(held.trunk)
    style, base, apart = [], [], []
    for prompt, own in rows:
        for at, token in enumerate(own):
            before = [*prompt, *own[:at]]
            with torch.no_grad(), held.routed(None):
                p = writer(torch.tensor([before])).logits[0, -1].double().softmax(0).numpy()
            base.append(math.log(p[token]))
            q = p.copy()
            moved = p[ordinary] * np.exp(0.6 * prior(tokenizer, before[-2:]))
            q[ordinary] = moved / moved.sum() * p[ordinary].sum()
            middle = (p + q) / 2
            apart.append((p * np.log(p / middle)).sum() / 2 + (q * np.log(q / middle)).sum() / 2)
            if token in ordinary:
                shares = [smoothed(tokenizer, before[len(before) - n :]) for n in (0, 1, 2)]
                place = ordinary.index(token)
                style.append(
                    math.log(sum(w * s[place] for w, s in zip(WEIGHTS, shares, strict=True)))
                )
    assert ours.style_perplexity == pytest.approx(math.exp(-np.mean(style)), rel=1e-9)
    # Sums of logits in single precision, in another order of rows.
    assert ours.base_perplexity == pytest.approx(math.exp(-np.mean(base)), rel=1e-4)
    assert ours.divergence == pytest.approx(np.mean(apart), rel=1e-3)
    known = {token for ids in texts for token in ids}
    flat = [token for _, own in rows for token in own]
    assert ours.token_overlap == np.mean([token in known for token in flat])
    assert ours.type_overlap == np.mean([token in known for token in set(flat)])
    pairs = {pair for ids in texts for pair in pairwise(ids)}
    own_pairs = [pair for _, own in rows for pair in pairwise(own)]
    assert ours.bigram_overlap == np.mean([pair in pairs for pair in own_pairs])
    assert ours.distinct_2 == len(set(own_pairs)) / len(own_pairs)
    assert measure(model, ngrams, rows, 0.0).divergence == 0


def test_the_corpus_itself_overlaps_whole_and_a_loop_is_seen(
    ngrams: NGrams, tokenizer: PreTrainedTokenizerFast
) -> None:
    texts, _ = plain_counts(tokenizer)
    assert [overlap(ngrams, texts, order) for order in (1, 2, 3)] == [1, 1, 1]
    loop = [7, 8] * 10
    assert distinct([loop], 1) == 2 / 20
    assert repetition([loop]) == 15 / 17
    assert repetition([[1, 2, 3, 4, 5, 6]]) == 0
    assert math.isnan(repetition([[1, 2]]))
    near = style_perplexity(ngrams, [([], texts[0])])
    assert near < style_perplexity(ngrams, [([], texts[0][::-1])])


def test_what_cannot_be_a_style_is_refused(
    tmp_path: Path, model: Model, tokenizer: PreTrainedTokenizerFast, ngrams: NGrams, corpus: Path
) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text(" \n\n")
    with pytest.raises(ValueError, match="no style"):
        written(model, style={"corpus": empty})
    with pytest.raises(ValueError, match="no such file"):
        written(model, style={"corpus": tmp_path / "nothing.txt"})
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"words": "a"}\n')
    with pytest.raises(ValueError, match="expected a column 'text'"):
        written(model, style={"corpus": rows})
    with pytest.raises(ValueError, match="strength"):
        Generation.model_validate({"style": {"corpus": corpus, "strength": 1.5}})
    other = NGrams(ngrams.tokens, ngrams.following, "another", 1)
    with pytest.raises(ValueError, match="another tokenizer"):
        measure(model, other, [], 0.1)
    with pytest.raises(ValueError, match="does not steer"):
        settings_of(Generation(style=Style(corpus=corpus)))
    with pytest.raises(ValueError, match="of what"):
        _style(None, 0.5)


def test_a_changed_file_is_counted_again(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"text": "the dog"}) + "\n")
    first = ngrams_of(path, tokenizer)
    assert ngrams_of(path, tokenizer) is first
    path.write_text(json.dumps({"text": "the dog and the cat"}) + "\n")
    assert ngrams_of(path, tokenizer).corpus_tokens > first.corpus_tokens
    assert counted(["the dog"], tokenizer, "x").following == first.following


def test_smoothing_is_the_published_one() -> None:
    assert SMOOTHING == 0.01
    assert WEIGHTS == (0.1, 0.3, 0.6)
