"""Chromium opens the page at phone and desktop width: nothing is refused, and nothing sticks out."""

from pathlib import Path

import pytest

from tests.browser import PageTests
from weft.reporting.writers import PAGE
from weft.reproduction.report import Reproduction

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def opened(done: Reproduction) -> Path:
    return done.outcome.plan.out / PAGE


class TestThePage(PageTests):
    """The page of this folder."""
