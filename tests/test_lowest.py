"""The lower bounds that `make lowest` installs are all that pyproject.toml has, each of them one version."""

import re
import subprocess
import sys
import tomllib

import pytest

from tests.lowest import PYPROJECT, lowest


def test_every_package_that_weft_asks_for_has_its_lowest_version() -> None:
    text = PYPROJECT.read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    asked = {re.split(r"[><=~!\[; ]", line)[0] for line in project["dependencies"]}
    found = lowest(text)
    assert asked <= found.keys()
    assert {"jinja2", "ray", "tensorboard"} <= found.keys()
    assert "ruff" not in found
    assert f'"pydantic>={found["pydantic"]}"' in text


def test_what_an_index_lacks_is_named() -> None:
    done = subprocess.run(
        [sys.executable, PYPROJECT.parent / "tests" / "lowest.py", "torch==9.9"],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("torch")] == ["torch==9.9"]
    assert len(lines) == len(lowest(PYPROJECT.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("line", "said"),
    [("numpy", "expected one bound"), ("numpy>=2", "elsewhere its bound is 1")],
)
def test_a_bound_that_cannot_be_tested_is_refused(line: str, said: str) -> None:
    text = f'[project]\ndependencies = ["numpy>=1"]\n[project.optional-dependencies]\nmore = ["{line}"]\n'
    with pytest.raises(ValueError, match=said):
        lowest(text)
