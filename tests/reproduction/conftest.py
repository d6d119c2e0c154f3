"""A reproduction that has run to its end, small enough for every test session."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.reproduction.tiny_profiles import tiny
from weft.reproduction.profiles import Profile
from weft.reproduction.report import Reproduction
from weft.reproduction.reproducing import reproduce


@pytest.fixture(scope="session")
def tiny_profile(tiny_folder: Callable[[str], Path]) -> Profile:
    """Two sets, two recipes, a mixture, two seeds: 22 runs of three steps."""
    return tiny(tiny_folder("bert"))


@pytest.fixture(scope="session")
def done(tiny_profile: Profile, tmp_path_factory: pytest.TempPathFactory) -> Reproduction:
    """Its tables, figures and files; never to be changed."""
    return reproduce("demo", tmp_path_factory.mktemp("done") / "out", own=tiny_profile, price=2.0)
