"""What a causal language model's expert writes behind rows' prompts, and how that compares with their references."""

from collections.abc import Sequence

from weft.answering.generation import Generation, generate
from weft.answering.prediction import refuse_generation
from weft.config import Split
from weft.data.reading import LoadedTask
from weft.storage.loading import LoadedRun
from weft.tasks.chat import prompt_of
from weft.tasks.contract import Example, Prediction
from weft.tasks.scoring import Score
from weft.tasks.written import reference_of, written_scores


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
        names: Of scores (`weft.tasks.written`).
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
