"""Damaged and hostile files end in sentences, soon, and take no more memory than they should."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.mutated import FORMS

ROOT = Path(__file__).parents[2]
MOST_MB = 500
COUNT = 500


def _run(what: str, form: str, first: int, count: int, folder: Path) -> list[dict]:
    arguments = [what, form, str(first), str(count), str(folder)]
    result = subprocess.run(
        [sys.executable, "-m", "tests.data.mutated", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60 + 5 * count,
    )
    assert result.returncode == 0, f"{arguments}: {result.stdout[-200:]}\n{result.stderr[-2000:]}"
    return [json.loads(line) for line in result.stdout.splitlines()]


def _faults(form: str, first: int, count: int, folder: Path) -> list[dict]:
    _run("write", form, first, count, folder)
    said = _run("read", form, first, count, folder)
    assert [row["number"] for row in said if row.keys() == {"number"}] == [
        *range(first, first + count)
    ]
    faults = [row for row in said if "fault" in row]
    memory = said[-1]["MB"]
    return faults if memory <= MOST_MB else [*faults, {"form": form, "MB": memory}]


@pytest.mark.parametrize("form", FORMS)
def test_some_mutated_files_are_read_or_refused_by_a_sentence(form: str, tmp_path: Path) -> None:
    assert _faults(form, COUNT, 12, tmp_path) == []


@pytest.mark.slow  # five hundred files of each form, some minutes
@pytest.mark.parametrize("form", FORMS)
def test_five_hundred_mutated_files_are_read_or_refused_by_a_sentence(
    form: str, tmp_path: Path
) -> None:
    assert _faults(form, 0, COUNT, tmp_path) == []
