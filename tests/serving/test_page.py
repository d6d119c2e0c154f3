"""What docs/how-to/serve.md tells its reader to type works against the server that it starts."""

import shlex
from collections.abc import Callable
from pathlib import Path

from tests.serving.runs import write_run
from tests.serving.served import app_of, listening
from website.blocks import blocks_of, own_test_of
from website.playing import play
from website.sources import ROOT
from weft.base.loading import load_base
from weft.cli import Commands
from weft.serving.http.starting import named

PAGE = ROOT / "docs" / "how-to" / "serve.md"


def test_the_page_runs_and_prints_what_it_shows(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    text = PAGE.read_text("utf-8")
    assert own_test_of(text) == "tests/serving/test_page.py"
    base = load_base(str(tiny_folder("bert")))
    write_run(tmp_path / "runs" / "entities", base, "token_classification", 1)
    (tmp_path / "experts").mkdir()
    runs = named([str(tmp_path / "runs" / "entities")])
    with listening(app_of(tmp_path / "experts", runs=runs)) as url:
        printed = play(
            text.replace("http://127.0.0.1:8000", url), tmp_path, name="serve.md", slow=False
        )
    shown = [block.text for block in blocks_of(text) if block.is_output]
    found = [out for block, out in printed]
    assert [out for out in shown if out not in found] == []
    assert '"expert":"entities"' in found[0]
    assert (tmp_path / "keys.yaml").is_file()


def test_servers_that_the_page_and_the_image_start_have_such_options() -> None:
    command = Commands().get_command(None, "serve")
    known = {option for parameter in command.params for option in parameter.opts}
    lines = [
        line for block in blocks_of(PAGE.read_text("utf-8")) for line in block.text.splitlines()
    ]
    started = [line.partition("weft serve ")[2] for line in lines if "weft serve " in line]
    image = (ROOT / "Dockerfile").read_text("utf-8")
    started += [line for line in image.splitlines() if line.startswith(("ENTRYPOINT", "CMD"))]
    assert len(started) >= 5
    for line in started:
        words = shlex.split(line.replace(",", " ").replace("[", " ").replace("]", " "))
        assert {word for word in words if word.startswith("--")} <= known, line


def test_the_image_installs_what_there_is() -> None:
    image = (ROOT / "Dockerfile").read_text("utf-8")
    copied = [line.split()[1:-1] for line in image.splitlines() if line.startswith("COPY")]
    for path in (path for line in copied for path in line):
        assert (ROOT / path).exists(), path
    assert "USER weft" in image
    assert "[serve]" in image
