from collections.abc import Callable
from pathlib import Path
from typing import Any


def test_a_folder_that_is_there_is_refused_before_anything_is_written(
    say: Callable[..., Any], tmp_path: Path
) -> None:
    said = say("demo", "--out", tmp_path)
    assert (said.code, said.out) == (2, "")
    assert f"{tmp_path} exists" in said.err
    assert list(tmp_path.iterdir()) == []
