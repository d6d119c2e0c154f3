"""The sentence that says what to take rests on the runs' own scores and answers."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from statistics import mean

from weft.comparison.comparing import examples_of
from weft.reporting.answers.verdict import NOT_PAIRED, verdict
from weft.reporting.document import Document
from weft.reporting.groups import Group
from weft.reporting.run_report import Report, document, gather
from weft.runs import RunFolder


def chosen(group: Group) -> list[str]:
    """The names that the words take."""
    (said,) = verdict(group)
    return [entry.name for entry in group.scored if said.startswith(f"Take {entry.name}: ")]


def test_it_takes_one_of_the_entries_and_stands_before_everything_else(
    report: Report, said: Document
) -> None:
    for group in report.groups:
        section = next(own for own in said.sections if own.key == group.key)
        rivals = [entry.name for entry in group.scored if entry.family != "mixture"]
        if len(rivals) < 2:
            assert verdict(group) == []
            continue
        assert (section.words[0],) == tuple(verdict(group))
        assert set(chosen(group)) < set(rivals)
        assert section.words[0].startswith("Take ")
    mixed = next(own for own in report.groups if own.task == "tags" and own.split == "validation")
    assert [entry.family for entry in mixed.scored].count("mixture") == 1
    assert len(mixed.scored) == 2
    assert verdict(mixed) == []


def test_runs_with_equal_answers_cannot_be_told_apart_and_the_smaller_is_taken(
    runs_folder: Path, tmp_path: Path
) -> None:
    for name in ("full", "head"):
        shutil.copytree(runs_folder / name, tmp_path / "runs" / name)
    for name in ("metrics.json", "predictions-validation.jsonl"):
        shutil.copy(tmp_path / "runs" / "full" / name, tmp_path / "runs" / "head" / name)
    (group,) = gather([tmp_path / "runs"]).groups
    sizes = {
        name: (RunFolder(tmp_path / "runs" / name).training or {})["trainable_parameters"]
        for name in ("full", "head")
    }
    score = next(
        row for row in RunFolder(tmp_path / "runs/full").metrics if row["name"] == group.metric
    )
    percent = f"{100 * score['value']:.1f}"
    assert verdict(group) == [
        f"Take head: it trains {sizes['head']:,} parameters in place of {sizes['full']:,}, and its accuracy (%) of "
        f"{percent} cannot be told from full's {percent} by these rows and seeds (difference 0.0 to 0.0 points of "
        "accuracy, p 1 corrected)."
    ]


def test_answers_to_other_rows_and_none_are_not_compared(runs_folder: Path, tmp_path: Path) -> None:
    for name in ("full", "head"):
        shutil.copytree(runs_folder / name, tmp_path / "runs" / name)
    answers = tmp_path / "runs" / "head" / "predictions-validation.jsonl"
    answers.write_text("\n".join(answers.read_text().splitlines()[1:]) + "\n")
    found = gather([tmp_path / "runs"])
    assert verdict(found.groups[0]) == [NOT_PAIRED]
    answers.unlink()
    assert document(found).sections[0].words[0] == NOT_PAIRED


def test_a_difference_counts_for_who_is_better_whichever_way_the_metric_goes(
    runs_folder: Path, tmp_path: Path
) -> None:
    for name in ("full", "head"):
        shutil.copytree(runs_folder / name, tmp_path / "runs" / name)
    head = tmp_path / "runs" / "head"
    answers = head / "predictions-validation.jsonl"
    said = [json.loads(line) for line in answers.read_text().splitlines()]
    rows = examples_of(RunFolder(head)).splits["validation"]
    rights = [row["label"] for row in rows]
    only = min(rights, key=rights.count)
    answers.write_text("".join(f"{json.dumps(row | {'label': only})}\n" for row in said))
    value = mean(right == only for right in rights)
    metrics = [
        row | {"value": value} if row["name"] == "accuracy" else row
        for row in RunFolder(head).metrics
    ]
    (head / "metrics.json").write_text(json.dumps(metrics))
    (group,) = gather([tmp_path / "runs"]).groups
    turned = replace(group, higher_is_better=False, entries=group.entries[::-1])
    scores = [entry.score or 0.0 for entry in group.entries]
    assert scores[0] > scores[1]
    ends = []
    for own in (group, turned):
        (words,) = verdict(own)
        found = re.search(r"(-?[\d.]+) to (-?[\d.]+) points", words)
        assert found is not None
        low, high = map(float, found.groups())
        assert low <= 100 * (scores[0] - scores[1]) <= high
        ends.append((low, high))
    assert ends[0] == ends[1]
