"""Scores on real data as lines of Markdown: accuracy, variants, mixtures. A part of readme.py."""

from typing import Any

from result_files import NAMES, read

NOISE = 0.05
"""Corrected p below which a difference is called one."""


def accuracy() -> list[str]:
    """One table line for each recipe on each task that was measured, and what the best LoRA keeps."""
    lines, kept = [], []
    for task, title in NAMES.items():
        result = read(f"accuracy-{task}")
        rows = result["rows"] if result else []
        means = {row["recipe"]: row["scores"][row["metric"]]["value"] for row in rows}
        shares = {recipe: 100 * mean / means["full"] for recipe, mean in means.items()}
        if rows:
            best = max(shares.keys() - {"full"}, key=lambda recipe: shares[recipe])
            kept.append(f"{title}: {best} {shares[best]:.1f} %")
        for row in rows:
            score = row["scores"][row["metric"]]
            lines.append(
                f"| {title} | {row['recipe']} | {row['trainable_parameters']:,} | {row['learning_rate']:g} | "
                f"{100 * score['value']:.1f} [{100 * score['low']:.1f}, {100 * score['high']:.1f}] | "
                f"{100 * row['deviation']:.1f} | {shares[row['recipe']]:.1f} | {len(row['seeds'])} | {row['n']:,} |"
            )
    if not lines:
        return ["Scores on real data are not measured yet (`benchmarks/accuracy.py`)."]
    return [
        "On all training rows at hand, SQuAD's 8,310 among them, with rank 8 on all linear layers too "
        f"(`benchmarks/accuracy.py`), LoRA keeps of full fine-tuning's score: {'; '.join(kept)}.",
        "",
        "<details><summary>The table</summary>",
        "",
        "| set | recipe | trained | rate | score % [95 % interval] | ± seeds | % of full | seeds | rows |",
        "| --- | --- | ---: | ---: | --- | ---: | ---: | ---: | ---: |",
        *lines,
        "",
        "</details>",
        "",
    ]


def variants() -> list[str]:
    """The LoRA variants beside plain LoRA, as far as they were measured."""
    lines = []
    for task, title in NAMES.items():
        result = read(f"variants-{task}")
        for row in result["rows"] if result else []:
            score, apart = row["scores"][row["metric"]], row["from_lora"]
            said = "" if apart is None else f"{100 * apart['value']:+.1f}"
            sure = "" if apart is None else f"{apart['p_corrected']:.2f}"
            lines.append(
                f"| {title} | {row['recipe']} | {row['adapter_parameters']:,} | {row['learning_rate']:g} | "
                f"{100 * score['value']:.1f} [{100 * score['low']:.1f}, {100 * score['high']:.1f}] | "
                f"{100 * row['deviation']:.1f} | {said} | {sure} |"
            )
    if not lines:
        return []
    return [
        "Variants on 2,000 training rows, rank 8 on query and value where the rank is free, each at its own searched "
        "rate, three seeds; difference from plain LoRA paired by row and seed, p after Holm's correction "
        "(`benchmarks/variant_scores.py`).",
        "",
        *_beyond_noise(),
        "",
        "<details><summary>The table</summary>",
        "",
        "| set | recipe | adapters | rate | score % [95 % interval] | ± seeds | from lora | p |",
        "| --- | --- | ---: | ---: | --- | ---: | ---: | ---: |",
        *lines,
        "",
        "</details>",
        "",
    ]


def _beyond_noise() -> list[str]:
    """Which variants differ from plain LoRA, a line for each set."""
    lines = []
    for task, title in NAMES.items():
        result = read(f"variants-{task}")
        if result is None:
            continue
        apart = [
            row for row in result["rows"] if (row["from_lora"] or {}).get("p_corrected", 1) < NOISE
        ]
        said = [
            f"{word} {', '.join(names)}"
            for word, sign in (("higher", 1), ("lower", -1))
            if (names := [row["recipe"] for row in apart if sign * row["from_lora"]["value"] > 0])
        ]
        steps = result["rows"][0]["steps"]
        lines.append(
            f"- {title}, {steps:,} steps: beyond noise (p < {NOISE}) {'; '.join(said) or 'none differs'}."
        )
    return lines


def mixtures() -> list[str]:
    """Every mixture beside its own experts, as far as they were measured."""
    result = read("mixtures")
    if result is None:
        return []
    lines = []
    for row in result["rows"]:
        tasks = row["tasks"]
        cells = [
            f"{100 * own['score']['value']:.1f} ({100 * own['share_of_own']:.1f})"
            for own in (tasks.get(task) for task in NAMES)
            if own is not None
        ]
        gate, took, seen = "", "", ""
        if "gate_parameters" in row:
            gate = f"{100 * row['gate_share_of_base']:.2f}"
            took = f"{row['forward_over_base']:.2f}"
            hits = sum(own["recognition"]["value"] * own["n"] for own in tasks.values())
            seen = f"{100 * hits / sum(own['n'] for own in tasks.values()):.2f}"
        name = row["method"]
        lines.append(
            f"| {name} | {' | '.join(cells)} | {gate} | {took} | {seen} | {len(row['seeds'])} |"
        )
    rows = result["settings"]["rows"]
    titles = " | ".join(f"{title} %" for title in NAMES.values())
    goals = [f"- {goal['goal']}: {_reached_by(goal)}" for goal in result["goals"]]
    short = sum(bool(row.get("on_edge")) for row in result["rows"])
    return [
        f"Mixtures of three experts, {rows:,} training rows a task, each at its own searched rate; in brackets the "
        "share of the own expert's score with the same seed. Heads are known; recognised is the share of rows whose "
        "task the mixture names itself (`benchmarks/mixture_scores.py`). Frozen experts' gates, and mixtures that "
        "start from experts, learn for two epochs; what is trained from nothing for five. "
        f"{short} methods were best at the smallest or largest rate tried, and may have more in them. Goals:",
        "",
        *goals,
        "",
        "<details><summary>The table</summary>",
        "",
        f"| | {titles} | gate, % of base | forward / base | recognised % | seeds |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        *lines,
        "",
        "</details>",
        "",
    ]


def _reached_by(goal: dict[str, Any]) -> str:
    """Who reached a goal, of how many; the least number where all did."""
    if not goal["reached"]:
        return "not reached."
    names, numbers = goal["by"], goal["numbers"]
    if len(names) == len(numbers) > 1:
        return f"reached by every mixture ({100 * min(numbers.values()):.1f} % at least)."
    return f"reached by {', '.join(names)} of {len(numbers)}."
