"""What the hub reads of a model card: its front matter, after huggingface.co/docs/hub/model-cards."""

from pathlib import Path
from typing import Any

from weft.model.expert import Card
from weft.reporting.runs import TaskRun
from weft.tasks.contract import TaskSpec

UNSTATED = "unknown"
"""The hub's name for a licence that nobody has said."""
PIPELINES = {
    "sequence_classification": "text-classification",
    "token_classification": "token-classification",
    "multiple_choice": "multiple-choice",
    "span_extraction": "question-answering",
    "causal_lm": "text-generation",
    "masked_lm": "fill-mask",
}
"""The hub's task by kind."""


def _on_the_hub(card: Card) -> bool:
    return not Path(card.source).is_absolute()


def front_matter(
    run: TaskRun, card: Card, spec: TaskSpec, library: str, licence: str | None
) -> dict[str, Any]:
    """Licence, base, library, tags, and a model index of every score."""
    found: dict[str, Any] = {"license": licence or UNSTATED}
    if _on_the_hub(card):
        found["base_model"] = card.source
    found |= {
        "library_name": library,
        "pipeline_tag": PIPELINES[spec.kind],
        "tags": ["weft", run.method, spec.name],
    }
    if spec.hub is not None:
        found["datasets"] = [spec.hub.path]
    rows = run.folder.metrics
    results = [
        {
            "task": {"type": PIPELINES[spec.kind]},
            "dataset": {
                "name": spec.name,
                "type": spec.hub.path if spec.hub else spec.name,
                "split": split,
            },
            "metrics": [_metric(row) for row in rows if row["split"] == split],
        }
        for split in dict.fromkeys(row["split"] for row in rows)
    ]
    if results:
        found["model-index"] = [{"name": title_of(run, card), "results": results}]
    return found


def _metric(row: Any) -> dict[str, Any]:
    ends = f"95 % interval {row['low']:.4g} to {row['high']:.4g}"
    return {
        "type": row["name"],
        "value": row["value"],
        "name": f"{row['name']} ({row['n']} rows, {ends})",
    }


def title_of(run: TaskRun, card: Card) -> str:
    """What the hub and the card call the expert."""
    return f"{run.method} on {Path(card.base).name} for {run.task}"
