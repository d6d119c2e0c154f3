"""What `weft reproduce --profile small` found as lines of Markdown. A part of readme.py."""

from collections.abc import Mapping
from typing import Any

from result_files import NAMES, read

UNITS = {"f1": "F1", "accuracy": "accuracy"}


def reproduction() -> list[str]:
    """The gap to full fine-tuning, who closes it, and mixtures of the same experts; links to the whole report."""
    result = read("small/reproduction")
    if result is None:
        return ["The small profile is not run yet (`weft reproduce --profile small`)."]
    seeds = len(result["seeds"])
    stand_ins = [
        entry["difference"] for part in ("bases", "sets") for entry in result[part].values()
    ]
    return [
        f"The study's tasks on the embedded base, {seeds} seeds: `weft reproduce --profile small --seeds {seeds}` "
        "([the whole report](results/small/report.md): its six tables beside ours, claims, mixtures, costs). "
        f"Stand-ins: {'; '.join(filter(None, stand_ins))}.",
        "",
        "| set | recipe | learning rate | trained, % of base | score % [95 % interval] | ± seeds | % of full |",
        "| --- | --- | ---: | ---: | --- | ---: | ---: |",
        *(_gap_row(result, row) for row in _by_set(result["gap"])),
        "",
        "Goal: at least 97 % of full fine-tuning's score, each at a rate of its own, with under 2 % of its parameters:",
        "",
        *(
            f"- {_called(result, goal['task'])}: {goal['says']}."
            for goal in _by_set(result["goals"])
        ),
        "",
        "Mixtures of the three LoRA experts above (own rates), each trained at its default rate:",
        "",
        "| mixture | set | score % [95 % interval] | own expert % | mixture - expert | recognised % |",
        "| --- | --- | --- | ---: | ---: | ---: |",
        *(_mixture_row(result, row) for row in result["mixtures"]),
        "",
    ]


def _by_set(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: list(NAMES).index(row["task"]))


def _called(result: Mapping[str, Any], task: str) -> str:
    return result["sets"][task]["called"]


def _percent(score: Mapping[str, float]) -> str:
    return f"{100 * score['value']:.1f} [{100 * score['low']:.1f}, {100 * score['high']:.1f}]"


def _gap_row(result: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    metric = UNITS.get(row["metric"], row["metric"])
    share = "" if row["share"] is None else f"{100 * row['share']['value']:.1f}"
    return (
        f"| {_called(result, row['task'])}, {metric} | {row['recipe']} | {row['learning_rate']:g} ({row['stage']}) | "
        f"{100 * row['trained_share']:.2f} | {_percent(row['score'])} | {100 * row['deviation']:.1f} | {share} |"
    )


def _mixture_row(result: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    return (
        f"| {row['mixture']} | {_called(result, row['task'])} | {_percent(row['score'])} | "
        f"{100 * row['expert']['value']:.1f} | {100 * row['difference']['value']:+.1f} | "
        f"{100 * row['recognition']:.1f} |"
    )
