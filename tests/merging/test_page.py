"""The how-to says what there is."""

import re
import shlex
from pathlib import Path

from typer.testing import CliRunner

from weft.cli import app
from weft.merging.expression import parse
from weft.methods.merges import merges

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "merge.md").read_text(encoding="utf-8")


def test_its_commands_have_options_methods_and_sums_that_exist() -> None:
    said = CliRunner().invoke(app, ["merge", "--help"], env={"COLUMNS": "200"}).stdout
    lines = [shlex.split(line) for line in re.findall(r"^    weft (merge .*)$", PAGE, re.MULTILINE)]
    assert len(lines) >= 8
    for words in lines:
        for word, following in zip(words, [*words[1:], ""], strict=True):
            if word.startswith("--"):
                assert word in said
            if word == "--merge":
                assert following in merges.names()
            if word == "--arithmetic":
                assert parse(following)
            if word == "--set":
                key = following.removeprefix("merge.").partition("=")[0]
                kind = merges.load(words[words.index("--merge") + 1])
                assert key in kind.settings_type.model_fields
