"""The files of `results/`, and what their sets are called."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results"
NAMES = {
    "wnut17": "WNUT17, entity F1",
    "squad": "SQuAD subset, F1",
    "swag": "CODAH (in SWAG's form), accuracy",
}
"""In the order in which they are shown."""


def read(name: str) -> dict[str, Any] | None:
    """A result file, if it was measured."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def by_set(name: str) -> dict[str, dict[str, Any]]:
    """The result files of one measurement that has one for each set, by set."""
    found = {task: read(f"{name}-{task}") for task in NAMES}
    return {task: result for task, result in found.items() if result is not None}


def measured_on(result: dict[str, Any]) -> str:
    """Machine and versions in a sentence."""
    own = result["machine"]
    return (
        f"Measured on {own['device']}, {own['threads']} of {own['cores']} cores, torch {own['torch']}, "
        f"transformers {own['transformers']}, PEFT {own['peft']}; by {result['script']}."
    )


def in_points(own: dict[str, Any]) -> str:
    """A difference of shares with its interval, in points of per cent."""
    return f"{100 * own['value']:+.1f} [{100 * own['low']:+.1f}, {100 * own['high']:+.1f}]"


def in_single(precisions: Mapping[str, str], other: str) -> list[str]:
    """What was trained in fp32, where not everything was; `other` says what a difference is then from."""
    single = [name for name, precision in precisions.items() if precision == "fp32"]
    if len(single) in (0, len(precisions)):
        return []
    return [
        f"In fp32, on a processor that emulates bf16: {', '.join(single)}; the others in bf16. {other}"
    ]
