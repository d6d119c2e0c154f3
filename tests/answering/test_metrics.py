"""Lexical metrics are the libraries', called on the whole corpus."""

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu import corpus_bleu, corpus_chrf, sentence_bleu, sentence_chrf
from sentence_transformers import SentenceTransformer

from weft.answering.metrics import metrics
from weft.answering.metrics.contract import Measured
from weft.answering.metrics.similarity import LONGEST
from weft.base.locate import locate
from weft.tasks.scoring import counts_of_resamples

CANDIDATES = [
    "The patient is a 26-year-old female with low back pain.",
    "She fell at a store eight years ago and again last week",
    "No known drug allergies.",
    "",
    "He takes aspirin, 81 mg, daily; denies chest pain and fever.",
    "mother had diabetes and father had heart disease " * 40,
]
REFERENCES = [
    "The patient is a 26-year-old woman referred for low back pain.",
    "Initial injury occurred eight years ago when she fell at a store.",
    "None.",
    "Noncontributory to this visit.",
    "He takes aspirin 81 mg daily. He denies chest pain.",
    "Mother with diabetes. Father with heart disease.",
]


def measured(name: str) -> dict[str, Measured]:
    return dict(metrics.load(name)().measure(CANDIDATES, REFERENCES))


@pytest.mark.parametrize("name", metrics.names())
def test_a_metric_has_a_value_for_rows_corpus_and_resamples(name: str) -> None:
    """A resample that draws every row once is the corpus; one that draws some rows twice is that longer corpus."""
    counts = np.stack([np.ones(len(CANDIDATES)), *next(counts_of_resamples(6, 3, seed=0))])
    for one in measured(name).values():
        assert one.rows.shape == (len(CANDIDATES),)
        drawn = one.drawn(counts)
        assert drawn[0] == one.corpus()
        assert len(set(drawn.tolist())) > 1
        assert one.signature


@pytest.mark.parametrize("name", metrics.names())
def test_the_reference_itself_scores_highest(name: str) -> None:
    # One word has no pair that rouge2 could count.
    texts = [text for text in REFERENCES if len(text.split()) > 1]
    for one in metrics.load(name)().measure(texts, texts).values():
        assert one.corpus() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "corpus", "sentence"),
    [("bleu", corpus_bleu, sentence_bleu), ("chrf", corpus_chrf, sentence_chrf)],
)
def test_bleu_and_chrf_are_sacrebleu_s(name: str, corpus: object, sentence: object) -> None:
    one = measured(name)[name]
    assert callable(corpus)
    assert callable(sentence)
    assert one.corpus() == corpus(CANDIDATES, [REFERENCES]).score / 100
    rows = [
        sentence(own, [wanted]).score / 100
        for own, wanted in zip(CANDIDATES, REFERENCES, strict=True)
    ]
    assert one.rows.tolist() == rows
    for counts in next(counts_of_resamples(len(CANDIDATES), 5, seed=1)):
        chosen = [at for at, often in enumerate(counts) for _ in range(int(often))]
        own, wanted = ([texts[at] for at in chosen] for texts in (CANDIDATES, REFERENCES))
        assert one.drawn(counts[None])[0] == corpus(own, [wanted]).score / 100


def test_bleu_s_signature_is_sacrebleu_s() -> None:
    assert (
        "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:"
        in measured("bleu")["bleu"].signature
    )
    assert "nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|" in measured("chrf")["chrf"].signature


def test_rouge_is_rouge_score_s_mean_f1() -> None:
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    pairs = zip(CANDIDATES, REFERENCES, strict=True)
    wanted = [scorer.score(target=reference, prediction=own) for own, reference in pairs]
    found = measured("rouge")
    assert list(found) == ["rouge1", "rouge2", "rougeL"]
    for kind, one in found.items():
        rows = [row[kind].fmeasure for row in wanted]
        assert one.rows.tolist() == rows
        assert one.corpus() == pytest.approx(np.mean(rows), abs=1e-15)


# It says so where a folder holds no settings of its own.
@pytest.mark.filterwarnings("ignore:No sentence-transformers model found")
def test_similarity_is_the_cosine_of_the_encoder_s_vectors() -> None:
    encoder = SentenceTransformer(str(locate("minilm", None)[0]), device="cpu")
    encoder.max_seq_length = LONGEST
    own, wanted = (
        encoder.encode(texts, normalize_embeddings=True, show_progress_bar=False)
        for texts in (CANDIDATES, REFERENCES)
    )
    found = measured("similarity")["similarity"]
    # Single precision, six layers; padding makes other sums.
    np.testing.assert_allclose(found.rows, (np.asarray(own) * np.asarray(wanted)).sum(1), atol=1e-5)
