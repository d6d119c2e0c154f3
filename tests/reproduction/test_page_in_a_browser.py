"""Chromium opens the page at phone and desktop width: nothing is refused, and nothing sticks out."""

from pathlib import Path

import pytest

from tests.browser import SIZES, assert_nothing_is_refused, assert_nothing_sticks_out
from weft.reproduction.result import Reproduction
from weft.reproduction.writing import PAGE

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def opened(done: Reproduction) -> Path:
    return done.outcome.plan.out / PAGE


@pytest.mark.parametrize("size", SIZES)
def test_nothing_is_refused(opened: Path, size: str, tmp_path: Path) -> None:
    assert_nothing_is_refused(opened, size, tmp_path)


@pytest.mark.parametrize("size", SIZES)
def test_nothing_sticks_out(opened: Path, size: str, tmp_path: Path) -> None:
    assert_nothing_sticks_out(opened, size, tmp_path)
