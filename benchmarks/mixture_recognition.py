"""Which task is a row of? A mixture's recogniser beside a bag of words, also without the form that gives it away.

For `mixture_scores.py`. Asked are whole validation rows; and harder, single sentences (the tagging set as it is),
questions without their passages, and single endings without what they end. Sequences of a row vote.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from weft.answering.recognition import MOST_ROWS, features, sequences_of
from weft.base.loading import load_base
from weft.data.encoding import cache_folder, encode_examples
from weft.data.reading import load_task
from weft.model.recogniser import Recognised, Recogniser
from weft.runs import RunFolder
from weft.storage.loading import load_mixture_model
from weft.tasks.contract import Example
from weft.tasks.scoring import share

Sequences = tuple[list[list[int]], list[int]]
"""Token ids, and for each the number of its row."""
Recognise = Callable[[Sequence[Sequence[int]], Sequence[int]], list[Recognised]]


@dataclass(frozen=True)
class Texts:
    """What recognisers are fitted to and asked, by task."""

    fitted: dict[str, Sequences]
    asked: dict[str, dict[str, Sequences]]
    """`rows` and `harder`."""
    vocabulary: int


def texts_of(owners: Mapping[str, RunFolder]) -> Texts:
    """The rows that the own experts of all tasks were trained and scored on."""
    base = load_base("minilm")
    fitted: dict[str, Sequences] = {}
    whole: dict[str, Sequences] = {}
    harder: dict[str, Sequences] = {}
    for name, run in owners.items():
        settings = run.run.task
        assert settings is not None  # an expert has one task
        loaded = load_task(settings, splits=["train", "validation"], seed=run.run.seed)
        learned, asked = (
            encode_examples(loaded.task, rows, base.tokenizer, cache=cache_folder())
            for rows in (loaded.splits["train"], loaded.splits["validation"])
        )
        fitted[name], whole[name] = sequences_of(learned[:MOST_ROWS]), sequences_of(asked)
        parts = _alone(loaded.splits["validation"])
        alone: list[Any] = [base.tokenizer(text)["input_ids"] for text in parts]
        harder[name] = (alone, list(range(len(alone)))) if alone else whole[name]
    return Texts(fitted, {"rows": whole, "harder": harder}, base.config.vocab_size)


def _alone(rows: Sequence[Example]) -> list[str]:
    """Questions or endings without the rest of their rows; [] where a row is one sentence."""
    return [text for row in rows for text in (row.get("choices") or [row.get("question")]) if text]


def judged(recognise: Recognise, texts: Texts) -> dict[str, Any]:
    """The share of rows whose task was recognised, by what was asked and by task."""
    found: dict[str, Any] = {}
    for what, tasks in texts.asked.items():
        hits = {}
        for task, (sequences, rows) in tasks.items():
            said = [one.task == task for one in recognise(sequences, rows)]
            hits[task] = (sum(said), len(said))
        hits["all"] = (sum(hit for hit, _ in hits.values()), sum(n for _, n in hits.values()))
        found[what] = {task: {**asdict(share(*own)), "n": own[1]} for task, own in hits.items()}
    return found


def by_mixture(run: RunFolder, texts: Texts) -> dict[str, Any]:
    """What a mixture's recogniser makes of it."""
    loaded = load_mixture_model(run.path, device="cpu")
    one = next(iter(loaded.runs.values()))

    def recognise(sequences: Sequence[Sequence[int]], rows: Sequence[int]) -> list[Recognised]:
        said = features(one.model, sequences, device=one.device, precision=one.precision)
        return loaded.recogniser(said, rows)

    return {"parameters": loaded.recogniser.parameters, **judged(recognise, texts)}


def by_words(texts: Texts, *, unit: bool) -> dict[str, Any]:
    """What a logistic regression on bags of words makes of it; `unit` as in `words`."""
    own = fit_words(texts, unit=unit)

    def recognise(sequences: Sequence[Sequence[int]], rows: Sequence[int]) -> list[Recognised]:
        return own(words(sequences, texts.vocabulary, unit=unit), rows)

    return {"parameters": own.parameters, **judged(recognise, texts)}


def words(sequences: Sequence[Sequence[int]], vocabulary: int, *, unit: bool) -> Tensor:
    """How often each token is in a sequence, (sequences, vocabulary), sparse.

    Args:
        sequences: Token ids. The separators among them tell one segment from two.
        vocabulary: Number of tokens.
        unit: Only whether it is, each sequence at norm 1: neither length nor separators count.
    """
    found = []
    for at, own in enumerate(sequences):
        counts = Counter(own)
        found += [(at, t, len(counts) ** -0.5 if unit else counts[t]) for t in sorted(counts)]
    rows, tokens, values = zip(*found, strict=True)
    index, shape = torch.tensor([rows, tokens]), (len(sequences), vocabulary)
    return torch.sparse_coo_tensor(
        index, torch.tensor(values, dtype=torch.float32), shape, check_invariants=True
    ).coalesce()


def fit_words(texts: Texts, *, unit: bool) -> Recogniser:
    """The logistic regression, penalised as scikit-learn's is by default (C = 1); every row of a task counts 1."""
    sequences = [own for found, _ in texts.fitted.values() for own in found]
    labels = [at for at, (found, _) in enumerate(texts.fitted.values()) for _ in found]
    counts = [Counter(rows) for _, rows in texts.fitted.values()]
    owners = [rows for _, rows in texts.fitted.values()]
    weights = torch.tensor(
        [1 / own[row] for own, rows in zip(counts, owners, strict=True) for row in rows]
    )
    x, y = words(sequences, texts.vocabulary, unit=unit), torch.tensor(labels)
    weight = torch.zeros(texts.vocabulary, len(texts.fitted), requires_grad=True)
    bias = torch.zeros(len(texts.fitted), requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = torch.sparse.mm(x, weight) + bias
        losses = torch.nn.functional.cross_entropy(logits, y, reduction="none")
        loss = ((weights * losses).sum() + 0.5 * weight.square().sum()) / weights.sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return Recogniser(tuple(texts.fitted), weight.detach().T, bias.detach())
