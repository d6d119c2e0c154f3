"""`weft merge`, `weft list merges`, `weft show merge`, `weft report`: the same as in Python, in words."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import weft
from tests.cli.killed import content, halves, run
from tests.merging.runs import Made
from weft.cli import app
from weft.runs import RunFolder


def say(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(one) for one in arguments])


def test_command_and_verb_merge_the_same(made: Made) -> None:
    runs = [made("topic"), made("tags")]
    out, verb = made.folder / "out", made.folder / "verb"
    said = say("merge", *runs, "--weights", "0.7", "0.3", "--rank", 3, "--out", out, "--json")
    assert said.exit_code == 0, said.stderr
    weft.merge(runs, weights=[0.7, 0.3], rank=3, out=verb)
    for task in ("topic", "tags"):
        for name in ("adapter_model.safetensors", "weft.json", "adapter_config.json"):
            one, other = (folder / task / "expert" / name for folder in (out, verb))
            assert one.read_bytes() == other.read_bytes(), name
        assert RunFolder(out / task).metrics == RunFolder(verb / task).metrics
    record = json.loads(said.stdout)
    assert record.pop("run") == str(out)
    assert record == json.loads((verb / "merge.json").read_text())


def test_it_prints_errors_by_role_and_scores_before_and_after(made: Made) -> None:
    runs = [made("topic"), made("tags")]
    said = say("merge", *runs, "--rank", 2, "--out", made.folder / "out")
    assert said.exit_code == 0, said.stderr
    words = " ".join(said.stdout.split())
    for part in ("query", "value", "all maps", "before", "after", "difference"):
        assert part in words
    assert "2 experts merged into one of rank 2" in words
    assert "no weights were given: each expert counts 1/2" in words


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--weights", "much"], "expected numbers, got 'much'"),
        (["--set", "density=0.5"], "merge.KEY=VALUE"),
        (["--set", "merge.densty=0.5"], "no setting named 'densty'"),
        (["--merge", "caat"], "Did you mean 'cat'?"),
    ],
)
def test_what_is_wrong_is_said_without_a_traceback(
    made: Made, arguments: list[str], sentence: str
) -> None:
    said = say("merge", made("topic"), *arguments, "--out", made.folder / "out")
    assert said.exit_code == 2
    assert sentence in " ".join(said.stderr.split())
    assert "Traceback" not in said.stderr
    assert not (made.folder / "out").exists()


def test_list_and_show_read_the_files_and_import_no_torch() -> None:
    code = (
        "import sys\n"
        "from weft.catalogue.pages import described, listed\n"
        "names = [entry['name'] for entry in listed('merges')]\n"
        "pages = [described('merge', name) for name in names]\n"
        "assert all(page['equation'] and page['keeps'] and page['loses'] for page in pages)\n"
        "assert 'torch' not in sys.modules\n"
        "print(*names)\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "cat" in found.stdout.split()
    shown = say("show", "merge", "cat")
    assert shown.exit_code == 0
    for part in ("equation", "keeps", "loses", "file"):
        assert part in shown.stdout


def test_a_report_shows_the_merge_beside_the_experts(made: Made) -> None:
    runs = [made("topic"), made("tags")]
    for own in runs:
        weft.evaluate(own)
    out = weft.merge(runs, rank=2, out=made.folder / "out").path
    said = say("report", *runs, out, "--out", made.folder / "page", "--json", "--cards")
    assert said.exit_code == 0, said.stderr
    [merged] = json.loads(said.stdout)["merges"]
    assert merged["run"] == "out"
    assert [one["weight"] for one in merged["experts"]] == [0.5, 0.5]
    text = (made.folder / "page" / "report.md").read_text()
    assert "out: cat merge" in text
    assert "How far out is from the exact weighted sum, by role." in text
    assert "Scores on validation before the merge and after it" in text
    card = (out / "tags" / "expert" / "README.md").read_text()
    assert "merged into one (cat merge), with the head for tags" in card
    assert "merge: weights" in card
    assert "training: " not in card
    assert str(made.folder / "topic") not in card
    assert "out, tags: no learning curve" not in text


def test_a_kill_half_way_leaves_no_folder_and_the_next_call_makes_it(made: Made) -> None:
    given = made("topic")
    before = content(given)
    work = made.folder / "work"
    work.mkdir()
    call = ["merge", str(given), "--weights", "1", "--out", str(work / "out")]
    code, operations, said = run(call, work)
    assert code == 0, said
    wanted = content(work)
    for path in sorted((work / "out").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (work / "out").rmdir()
    code, _, _ = run(call, work, operations // 2)
    assert code == -signal.SIGKILL
    assert halves(work) == []
    assert not (work / "out").exists()
    assert run(call, work)[0] == 0
    assert content(work) == wanted
    assert content(given) == before


def test_the_folder_has_a_name_of_its_own_where_none_is_given(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = weft.merge([made("topic"), made("tags")], scores=False)
    assert out.path == Path("runs/topic+tags-cat-merge")
    assert out.is_complete
