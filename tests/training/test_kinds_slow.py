"""Every recipe trains five kinds of task on the embedded base, and beats a guess that looks at no input."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from weft.model.heads import heads

ROOT = Path(__file__).resolve().parents[2]

with pytest.MonkeyPatch.context() as patch:
    # The script imports its neighbours by name, as when it is called.
    patch.syspath_prepend(str(ROOT / "benchmarks"))
    SCRIPT = runpy.run_path(str(ROOT / "benchmarks" / "variant_kinds.py"))


def assert_every_kind_beats_its_guess(kinds: dict[str, Any]) -> None:
    # A causal language model and a transcription want another base; an embedding answers with no class to guess.
    assert set(kinds) == set(heads.names()) - {"causal_lm", "embedding", "transcription"}
    lowest = {kind: own["difference"]["low"] for kind, own in kinds.items()}
    assert {kind: low for kind, low in lowest.items() if low <= 0} == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPT["RECIPES"])
def test_it_learns_every_kind_of_task(name: str, tmp_path: Path) -> None:
    assert_every_kind_beats_its_guess(SCRIPT["measure"](name, tmp_path)["kinds"])


def test_the_last_result_is_of_these_settings_and_every_recipe() -> None:
    path = ROOT / SCRIPT["RESULT"]
    if not path.is_file():
        pytest.skip(f"{SCRIPT['RESULT']} is not there; benchmarks/variant_kinds.py writes it")
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found["settings"] == SCRIPT["SETTINGS"]
    assert list(found["recipes"]) == SCRIPT["RECIPES"]
    for own in found["recipes"].values():
        assert_every_kind_beats_its_guess(own["kinds"])
