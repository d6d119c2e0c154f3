"""What a causal language model's expert writes behind rows' prompts, and how that compares with their references."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from weft.answering.generation import Generation, generate
from weft.answering.metrics import metrics
from weft.answering.prediction import refuse_generation
from weft.config import Split
from weft.data.reading import LoadedTask
from weft.storage.loading import LoadedRun
from weft.tasks.chat import prompt_of
from weft.tasks.contract import Example, Prediction
from weft.tasks.scoring import LEVEL, RESAMPLES, Score, counts_of_resamples, interval


def references_of(rows: LoadedTask, split: Split) -> list[str]:
    """What each row would have been answered.

    Raises:
        ValueError: If the task's kind writes nothing, or a row has no reference.
    """
    refuse_generation(rows.task, Generation())
    return [reference_of(example) for example in rows.splits[split]]


def written(
    loaded: LoadedRun,
    examples: Sequence[Example],
    predictions: Sequence[Prediction],
    references: Sequence[str],
    *,
    names: Sequence[str],
    generation: Generation | None,
) -> tuple[list[Prediction], dict[str, Score]]:
    """Predictions with what the expert writes behind each row's prompt as `continuation`, and that text's scores.

    Args:
        loaded: The expert.
        examples: The rows.
        predictions: One a row.
        references: One a row.
        names: Files of `answering/metrics/`.
        generation: How it writes; None takes the defaults.
    """
    found = generate(
        loaded.model,
        loaded.name,
        [prompt_of(example) for example in examples],
        generation or Generation(),
        members=loaded.members,
        device=loaded.device,
        precision=loaded.precision,
    )
    said = [{**one, "continuation": own.text} for one, own in zip(predictions, found, strict=True)]
    texts = [own.text.strip() for own in found]
    return said, written_scores(texts, references, names, seed=loaded.run.seed)


def written_scores(
    said: Sequence[str],
    references: Sequence[str],
    names: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> dict[str, Score]:
    """Each metric's scores over all rows, by name, as fractions, with a percentile bootstrap over rows.

    A corpus score is no mean: each resample adds up the rows' parts of its sums and is scored anew.

    Args:
        said: What was written, one a row.
        references: What is right, one a row.
        names: Files of `answering/metrics/`.
        resamples: Bootstrap resamples of rows; 0 leaves intervals out: both ends are the score.
        level: Probability that the interval is meant to cover, 0 to 1.
        seed: Decides the resamples.

    Raises:
        KeyError: If there is no such metric; names the nearest.
        ValueError: If its library is not installed, or there is not one text for each reference.
    """
    if not said or len(said) != len(references):
        raise ValueError(
            f"written text: {len(said)} texts for {len(references)} references; give one a row, at least one"
        )
    found = {}
    for name in names:
        for own, measured in metrics.load(name)().measure(said, references).items():
            parts = counts_of_resamples(len(said), resamples, seed)
            drawn = [measured.drawn(counts) for counts in parts]
            value = measured.corpus()
            found[own] = interval(value, np.concatenate(drawn) if drawn else np.empty(0), level)
    return found


def check_written(names: Sequence[str]) -> None:
    """Refuse a metric that nobody knows, or whose library is absent, before anything is written.

    Raises:
        KeyError: If there is no such metric; names the nearest.
        ValueError: If its library is not installed.
    """
    for name in names:
        metrics.load(name)()


def reference_of(example: Mapping[str, Any]) -> str:
    """What a row of kind `causal_lm` would have been answered: its completion, or the assistant's last turn.

    Raises:
        ValueError: If it has neither.
    """
    if "completion" in example:
        return example["completion"].strip()
    messages = example.get("messages", ())
    if len(messages) > 1 and messages[-1]["role"] == "assistant":
        return messages[-1]["content"].strip()
    raise ValueError(
        f"row {example['id']!r} has no reference for what is written: give rows with 'completion', or messages that "
        "end with the assistant's"
    )
